"""Conversion between the index's rows and protobuf messages: names, versions, pages.

No other file knows both.
"""

import base64
import json
import re
from collections.abc import Iterable

from cryptography.fernet import Fernet, InvalidToken

from adapterdistill.errors import ConfigError, InvalidManifestError
from adapterdistill.manifest import Fingerprint, Manifest, canonical_json, is_name, sha256_hex
from adapterdistill.registry.access import EVERYONE, Caller, Consent
from adapterdistill.registry.commitments import Opening
from adapterdistill.registry.index.schema import (
    AliasRow,
    EventKind,
    EventRow,
    Filter,
    Row,
    State,
    SummaryRow,
)
from adapterdistill.registry.v1 import registry_pb2 as pb

CHUNK_BYTES = 1 << 20
MAX_MESSAGE_BYTES = 4 << 20
DEFAULT_PAGE = 100
MAX_PAGE = 500
MAX_PAGE_BYTES = 3 << 20
_ALIAS_NAME = re.compile(r"tenants/([^/]+)/adapters/([^/]+)/aliases/([^/]+)")
_ADAPTER_NAME = re.compile(r"tenants/([^/]+)/adapters/([^/]+)")
MAX_CONSENTING = 1000
MAX_REASON = 500
_STATES: dict[State, pb.VersionState] = {
    "active": pb.VERSION_STATE_ACTIVE,
    "quarantined": pb.VERSION_STATE_QUARANTINED,
    "withdrawn": pb.VERSION_STATE_WITHDRAWN,
}
_EVENTS: dict[EventKind, pb.EventKind] = {
    "published": pb.EVENT_KIND_PUBLISHED,
    "quarantined": pb.EVENT_KIND_QUARANTINED,
    "released": pb.EVENT_KIND_RELEASED,
    "withdrawn": pb.EVENT_KIND_WITHDRAWN,
    "teacher_withdrawn": pb.EVENT_KIND_TEACHER_WITHDRAWN,
    "consent_changed": pb.EVENT_KIND_CONSENT_CHANGED,
    "alias_moved": pb.EVENT_KIND_ALIAS_MOVED,
}
_KINDS = {
    "bottleneck": pb.ADAPTER_KIND_BOTTLENECK,
    "fusion": pb.ADAPTER_KIND_FUSION,
}


def version_message(row: Row, consent: Consent | None = None) -> pb.Version:
    """Make the message of a version; give `consent` only for callers who may know it."""
    # Admission checked the manifest; checking it again would take three times as long as the rest.
    manifest = json.loads(row.manifest_json)
    message = pb.Version(
        name=row.ref.name,
        manifest_json=row.manifest_json,
        kind=_KINDS[manifest["kind"]],
        task=manifest["task"],
        language=manifest["language"],
        encoder=pb.EncoderDigests(
            weights_sha256=row.weights_sha256, tokenizer_sha256=row.tokenizer_sha256
        ),
        payload_bytes=manifest["payload_bytes"],
        revision=row.told,
        signature=_fingerprint_message(manifest.get("signature")),
        state=_STATES[row.state],
        state_reason=row.state_reason,
        withdrawn_teacher=row.withdrawn_teacher,
        consent=None if consent is None else consent_message(consent),
        teachers=opening_messages(row.openings),
    )
    if row.statement is not None:
        message.statement.ParseFromString(row.statement)
    message.create_time.FromNanoseconds(row.created_ns)
    return message


def opening_messages(openings: Iterable[Opening]) -> list[pb.TeacherOpening]:
    return [pb.TeacherOpening(name=one.name, salt=one.salt) for one in openings]


def read_openings(message: pb.PublishHeader | pb.Version) -> tuple[Opening, ...]:
    return tuple(Opening(one.name, one.salt) for one in message.teachers)


def summary_message(row: SummaryRow) -> pb.Version:
    """Make the short message of a version: of its manifest, the fingerprint alone."""
    fingerprint = json.loads(row.fingerprint_json) if row.fingerprint_json else None
    return pb.Version(
        name=row.ref.name,
        revision=row.told,
        signature=_fingerprint_message(fingerprint),
        state=_STATES[row.state],
    )


def _fingerprint_message(found: dict[str, str] | None) -> pb.Signature | None:
    if found is None:
        return None
    fingerprint = Fingerprint.model_construct(
        probe_sha256=found["probe_sha256"], values=found["values"]
    )
    return pb.Signature(probe_sha256=fingerprint.probe_sha256, values=fingerprint.to_bytes())


def read_fingerprint(message: pb.Version) -> Fingerprint | None:
    """Read the fingerprint from either view; an older registry's message may have none.

    Raises:
        InvalidManifestError: the fingerprint is malformed.
    """
    if message.HasField("signature"):
        return Fingerprint.of(message.signature.probe_sha256, message.signature.values)
    if message.manifest_json:
        return Manifest.from_json(message.manifest_json).fingerprint
    return None


def parse_adapter_name(name: str) -> tuple[str, str]:
    """Return tenant and adapter; raises InvalidManifestError if `name` is not an adapter's."""
    match = _ADAPTER_NAME.fullmatch(name)
    if match is None or not all(map(is_name, match.groups())):
        raise InvalidManifestError("not an adapter name: expected tenants/TENANT/adapters/ADAPTER")
    return match[1], match[2]


def adapter_name(tenant: str, adapter: str) -> str:
    return f"tenants/{tenant}/adapters/{adapter}"


def alias_name(tenant: str, adapter: str, alias: str) -> str:
    return f"tenants/{tenant}/adapters/{adapter}/aliases/{alias}"


def parse_alias_name(name: str) -> tuple[str, str, str]:
    """Return tenant, adapter and alias; raises InvalidManifestError if `name` is not an alias's."""
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
        task=message.task or None,
        language=message.language or None,
        labels=tuple(sorted(set(message.labels))),
        changed_after=max(0, message.changed_after),
    )


def read_state(message: pb.Version) -> State:
    """Read the state; a version from a registry without states is active."""
    return next((s for s, number in _STATES.items() if number == message.state), "active")


def consent_message(consent: Consent) -> pb.Consent:
    return pb.Consent(everyone=consent == EVERYONE, tenants=sorted(consent - EVERYONE))


def read_consent(message: pb.Consent) -> Consent:
    """Read a consent; raises InvalidManifestError for malformed names, or too many."""
    if message.everyone:
        return EVERYONE
    if len(message.tenants) > MAX_CONSENTING or not all(map(is_name, message.tenants)):
        raise InvalidManifestError(
            f"consent must name tenants, {MAX_CONSENTING} at most, or be for everyone"
        )
    return frozenset(message.tenants)


def read_first_consent(header: pb.PublishHeader) -> Consent:
    """Read the consent of an upload; without one, everyone may learn from the adapter."""
    return read_consent(header.consent) if header.HasField("consent") else EVERYONE


def read_reason(text: str) -> str:
    """Return the reason; raises ConfigError unless it is 1 to 500 printable characters."""
    if not 0 < len(text) <= MAX_REASON or not text.isprintable():
        raise ConfigError(f"a reason must be 1 to {MAX_REASON} printable characters")
    return text


def event_message(row: EventRow) -> pb.Event:
    message = pb.Event(
        revision=row.told,
        kind=_EVENTS[row.kind],
        name=row.name,
        other_name=row.other_name,
        reason=row.reason,
    )
    message.time.FromNanoseconds(row.time_ns)
    return message


def read_encoder(message: pb.VersionFilter | pb.FetchRequest) -> tuple[str, str] | None:
    if not message.HasField("encoder"):
        return None
    return message.encoder.weights_sha256, message.encoder.tokenizer_sha256


def read_page_size(page_size: int) -> int:
    if page_size < 0:
        raise ConfigError(f"page_size must not be negative, got {page_size}")
    return min(page_size or DEFAULT_PAGE, MAX_PAGE)


class PageTokens:
    """Opaque page tokens, each valid for one filter and one caller.

    They are encrypted with a key of the registry (Fernet): nobody can read or forge one.
    """

    def __init__(self, key: bytes) -> None:
        """`key` is 32 random bytes."""
        self._fernet = Fernet(base64.urlsafe_b64encode(key))

    def token(self, before: int, newest: int, chosen: Filter, caller: Caller) -> str:
        """Make the token of the page before revision `before`, of a listing begun at `newest`."""
        # Of one length: the token's must not tell how many digits a revision has.
        content = canonical_json([f"{before:019}", f"{newest:019}", _purpose(chosen, caller)])
        return self._fernet.encrypt(content).decode()

    def read(self, token: str, chosen: Filter, caller: Caller) -> tuple[int, int]:
        """Read `before` and `newest`; ConfigError if the token is for another filter or caller."""
        try:
            before, newest, purpose = json.loads(self._fernet.decrypt(token.encode()))
        except (InvalidToken, UnicodeEncodeError):
            raise ConfigError("page_token was not made by this registry") from None
        if purpose != _purpose(chosen, caller):
            raise ConfigError("page_token belongs to another filter or caller")
        return int(before), int(newest)


def _purpose(chosen: Filter, caller: Caller) -> str:
    return sha256_hex(repr((chosen, caller)).encode())
