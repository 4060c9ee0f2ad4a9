"""How rows, names and pages look in messages: the one file that knows both index and protobuf."""

import base64
import binascii
import json
import re

from adapterdistill.errors import ConfigError, InvalidManifestError
from adapterdistill.manifest import Manifest, Signature, canonical_json, is_name, sha256_hex
from adapterdistill.registry.schema import AliasRow, Filter, Row
from adapterdistill.registry.v1 import registry_pb2 as pb

CHUNK_BYTES = 1 << 20
MAX_MESSAGE_BYTES = 4 << 20
DEFAULT_PAGE = 100
MAX_PAGE = 500
MAX_PAGE_BYTES = 3 << 20
_ALIAS_NAME = re.compile(r"tenants/([^/]+)/adapters/([^/]+)/aliases/([^/]+)")
_KINDS = {
    "bottleneck": pb.ADAPTER_KIND_BOTTLENECK,
    "fusion": pb.ADAPTER_KIND_FUSION,
}


def version_message(row: Row) -> pb.Version:
    manifest = Manifest.from_json(row.manifest_json)
    message = pb.Version(
        name=row.ref.name,
        manifest_json=row.manifest_json,
        kind=_KINDS[manifest.kind],
        task=manifest.task,
        language=manifest.language,
        encoder=pb.EncoderDigests(
            weights_sha256=row.weights_sha256, tokenizer_sha256=row.tokenizer_sha256
        ),
        payload_bytes=manifest.payload_bytes,
        revision=row.revision,
        signature=_signature_message(manifest.signature),
    )
    message.create_time.FromNanoseconds(row.created_ns)
    return message


def summary_message(row: Row) -> pb.Version:
    """Name, revision and signature alone, from a manifest that was checked when it came in."""
    found = json.loads(row.manifest_json).get("signature")
    signature = None if found is None else Signature.model_construct(**found)
    return pb.Version(
        name=row.ref.name, revision=row.revision, signature=_signature_message(signature)
    )


def _signature_message(signature: Signature | None) -> pb.Signature | None:
    if signature is None:
        return None
    return pb.Signature(probe_sha256=signature.probe_sha256, values=signature.to_bytes())


def read_signature(message: pb.Version) -> Signature | None:
    """Of either view, also from a registry that knows no signatures.

    Raises:
        InvalidManifestError: the signature is malformed.
    """
    if message.HasField("signature"):
        return Signature.of(message.signature.probe_sha256, message.signature.values)
    if message.manifest_json:
        return Manifest.from_json(message.manifest_json).signature
    return None


def alias_name(tenant: str, adapter: str, alias: str) -> str:
    return f"tenants/{tenant}/adapters/{adapter}/aliases/{alias}"


def parse_alias_name(name: str) -> tuple[str, str, str]:
    """Tenant, adapter and alias; raises InvalidManifestError if `name` is none of an alias."""
    match = _ALIAS_NAME.fullmatch(name)
    if match is None or not all(map(is_name, match.groups())):
        raise InvalidManifestError(
            "not an alias name: expected tenants/TENANT/adapters/ADAPTER/aliases/ALIAS"
        )
    return match[1], match[2], match[3]


def alias_message(row: AliasRow) -> pb.Alias:
    return pb.Alias(
        name=alias_name(row.ref.tenant, row.ref.adapter, row.alias),
        version_name=row.ref.name,
        etag=row.etag,
    )


def read_filter(message: pb.VersionFilter) -> Filter:
    return Filter(
        tenant=message.tenant or None,
        exclude_tenant=message.exclude_tenant or None,
        encoder=read_encoder(message),
        latest_only=message.latest_only,
    )


def read_encoder(message: pb.VersionFilter | pb.FetchRequest) -> tuple[str, str] | None:
    if not message.HasField("encoder"):
        return None
    return message.encoder.weights_sha256, message.encoder.tokenizer_sha256


def read_page_size(page_size: int) -> int:
    if page_size < 0:
        raise ConfigError(f"page_size must not be negative, got {page_size}")
    return min(page_size or DEFAULT_PAGE, MAX_PAGE)


def page_token(before: int, newest: int, chosen: Filter) -> str:
    """A token for the versions with revision < `before` of the listing begun at `newest`."""
    token = canonical_json([before, newest, _fingerprint(chosen)])
    return base64.urlsafe_b64encode(token).decode()


def read_page_token(token: str, chosen: Filter) -> tuple[int, int]:
    """`before` and `newest`; raises ConfigError unless the token was made for this filter."""
    try:
        before, newest, fingerprint = json.loads(base64.b64decode(token, b"-_", validate=True))
        if type(before) is int and type(newest) is int and 0 < before <= newest < 1 << 62:
            if fingerprint == _fingerprint(chosen):
                return before, newest
            raise ConfigError("page_token belongs to another filter")
    except (binascii.Error, ValueError, TypeError, RecursionError):
        pass
    raise ConfigError("page_token is not one that this registry made")


def _fingerprint(chosen: Filter) -> str:
    return sha256_hex(repr(chosen).encode())[:16]
