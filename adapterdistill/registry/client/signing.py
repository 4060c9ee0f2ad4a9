"""The client's signatures: it signs its own uploads and verifies what it fetches."""

from typing import Any

import grpc
from cryptography.hazmat.primitives.serialization import Encoding

from adapterdistill.errors import NotFoundError, SignatureError
from adapterdistill.manifest import Manifest, VersionRef
from adapterdistill.registry import wire
from adapterdistill.registry.access import Consent
from adapterdistill.registry.commitments import committed
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
    """Make the header of an upload, signed as the successor of the adapter's newest version.

    The manifest that is sent commits to its teachers' names.

    Args:
        credentials: None leaves the upload unsigned.
        registry: the stub that is asked for the newest version; its errors pass through.
    """
    manifest, openings = committed(manifest)
    header = pb.PublishHeader(
        name=manifest.ref.name,
        manifest_json=manifest.canonical_json(),
        consent=wire.consent_message(consent),
        teachers=wire.opening_messages(openings),
    )
    if credentials is not None:
        signed = make_statement(
            manifest,
            consent=consent,
            previous=_newest_version(manifest, registry, timeout_s),
            key=credentials.signing_key,
            certificate=credentials.signing_certificate.public_bytes(Encoding.DER),
            registry=credentials.registry,
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


def check_signed(version: pb.Version, credentials: Credentials) -> None:
    """Raise SignatureError unless the version's own tenant signed it.

    This trusts the authorities in `credentials`, not the registry.
    """
    signed = read_statement(version)
    manifest = Manifest.from_json(version.manifest_json)
    if signed is None:
        raise SignatureError(f"{manifest.ref.name} is not signed by its owner")
    verify_statement(signed, manifest, credentials.certify, credentials.registry)
