"""The client's part in statements: to sign its own uploads, and to verify what it fetches."""

from typing import Any

import grpc
from cryptography.hazmat.primitives.serialization import Encoding

from adapterdistill.errors import NotFoundError, SignatureError
from adapterdistill.manifest import Manifest, VersionRef
from adapterdistill.registry import wire
from adapterdistill.registry.access import Consent
from adapterdistill.registry.status import from_call
from adapterdistill.registry.trust.credentials import Credentials
from adapterdistill.registry.trust.statement import (
    make_statement,
    read_statement,
    statement_message,
    verify_statement,
)
from adapterdistill.registry.v1 import registry_pb2 as pb


def upload_header(
    manifest: Manifest,
    consent: Consent,
    credentials: Credentials | None,
    registry: Any,
    timeout_s: float,
) -> pb.PublishHeader:
    """Of an upload that begins now: what it signs is about a version after the newest.

    Args:
        credentials: None: there is nothing to sign with, and the upload goes unsigned.
        registry: the stub to ask for the newest version. Raises as it does.
    """
    header = pb.PublishHeader(
        name=manifest.ref.name,
        manifest_json=manifest.canonical_json(),
        consent=wire.consent_message(consent),
    )
    if credentials is not None:
        signed = make_statement(
            manifest,
            consent=consent,
            previous=_newest_version(manifest, registry, timeout_s),
            key=credentials.signing_key,
            certificate=credentials.signing_certificate.public_bytes(Encoding.DER),
        )
        header.statement.CopyFrom(statement_message(signed))
    return header


def _newest_version(manifest: Manifest, registry: Any, timeout_s: float) -> str | None:
    name = wire.adapter_name(manifest.tenant, manifest.adapter)
    try:
        answer = registry.GetAdapter(pb.GetAdapterRequest(name=name), timeout=timeout_s)
    except grpc.RpcError as error:
        if isinstance(from_call(error, "publish"), NotFoundError):
            return None
        raise
    return VersionRef.parse(answer.newest_version_name).version


def check_signed(manifest: Manifest, version: pb.Version, credentials: Credentials) -> None:
    """Raises SignatureError unless the version's own tenant signed it, by the authority that
    `credentials` trust: whatever the registry says."""
    signed = read_statement(version)
    if signed is None:
        raise SignatureError(f"{manifest.ref.name} is not signed by its owner")
    verify_statement(signed, manifest, credentials.certify)
