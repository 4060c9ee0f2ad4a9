"""Statements for the fuzzer's uploads, sound and spoilt, and the judge of those accepted.

Made and judged with `cryptography` and plain JSON alone: no code is shared with the registry's.
"""

import hashlib
import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf.message import DecodeError

from adapterdistill.drills.registry.mutations import dumped, mutated_bytes, mutated_json
from adapterdistill.registry.v1 import registry_pb2 as pb

_PREFIX = b"adapterdistill publish v1\n"
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_EVERYONE = ["*"]
SOUND = "sound"
SPOILT = (
    "field", "field", "field", "text", "signature", "unsigned field", "another's", "certificate",
    "TLS certificate", "prefix", "late", "early", "none",
)  # fmt: skip
"""Faults of a statement; one with a spoilt `field` or `text` is signed all the same."""


@dataclass(frozen=True)
class Signer:
    """A tenant's signing key, and its certificates."""

    tenant: str
    key: Ed25519PrivateKey
    certificate: x509.Certificate
    tls_certificate: x509.Certificate
    registry: str


def sealed(
    messages: tuple[bytes, ...], how: str, signer: Signer, other: Signer, draw: Random
) -> tuple[bytes, ...]:
    """An upload's messages, with a statement in the first if that is a header at all."""
    try:
        header = pb.PublishRequest.FromString(messages[0]).header
    except (DecodeError, IndexError):
        return messages
    if how == "none" or not header.ByteSize():
        return messages
    statement = _statement(header, how, signer, other, draw)
    # Protobuf merges messages of one field, so the other bytes stay as they are.
    added = pb.PublishRequest(header=pb.PublishHeader(statement=statement)).SerializeToString()
    return messages[0] + added, *messages[1:]


def _statement(
    header: pb.PublishHeader, how: str, signer: Signer, other: Signer, draw: Random
) -> pb.Statement:
    fields = _sound_fields(header, signer.registry)
    key, certificate, prefix = signer.key, signer.certificate, _PREFIX
    if how == "field":
        fields = mutated_json(fields, draw)
    elif how in ("late", "early"):
        minutes = 11 if how == "early" else -11
        fields["time"] = (datetime.now(UTC) + timedelta(minutes=minutes)).strftime(_TIME)
    elif how == "another's":
        key, certificate = other.key, draw.choice((other.certificate, signer.certificate))
    elif how == "TLS certificate":
        certificate = signer.tls_certificate
    elif how == "prefix":
        prefix = draw.choice((b"", b"adapterdistill publish v2\n"))
    text = dumped(fields)
    if how == "text":
        text = mutated_bytes(text, draw)
    signature = key.sign(prefix + text)
    der = certificate.public_bytes(Encoding.DER)
    if how == "signature":
        signature = mutated_bytes(signature, draw)
    elif how == "certificate":
        der = mutated_bytes(der, draw)
    elif how == "unsigned field":
        text = dumped(mutated_json(fields, draw))
    return pb.Statement(statement_json=text, signature=signature, certificate=der)


def _sound_fields(header: pb.PublishHeader, registry: str) -> dict[str, Any]:
    try:
        manifest = json.loads(header.manifest_json)
    except (ValueError, RecursionError):
        manifest = None
    told = manifest if isinstance(manifest, dict) else {}
    return {
        "manifest_sha256": hashlib.sha256(header.manifest_json).hexdigest(),
        "version": told.get("version"),
        "tenant": told.get("tenant"),
        "adapter": told.get("adapter"),
        "previous": None,
        "consent": _consent(header),
        "nonce": secrets.token_hex(16),
        "time": datetime.now(UTC).strftime(_TIME),
        "registry": registry,
    }


def _consent(header: pb.PublishHeader) -> list[str]:
    if not header.HasField("consent") or header.consent.everyone:
        return _EVERYONE
    return sorted(set(header.consent.tenants))


def statement_fault_of(header: pb.PublishHeader, signer: Signer) -> str | None:
    """The reason to refuse this header's statement; None if it is sound."""
    if not header.HasField("statement"):
        return "there is no statement"
    sent = header.statement
    try:
        fields = json.loads(sent.statement_json)
        age = abs(datetime.now(UTC) - datetime.strptime(fields["time"], _TIME).replace(tzinfo=UTC))
        bytes.fromhex(fields["nonce"])
    except (ValueError, KeyError, TypeError) as error:
        return f"the statement cannot be read: {type(error).__name__}"
    if dumped(fields) != sent.statement_json:
        return "the statement is not canonical"
    expected = _sound_fields(header, signer.registry) | {
        key: fields.get(key) for key in ("nonce", "time")
    }
    if fields != expected or len(fields["nonce"]) != 32:
        return "the statement is of another upload"
    if age > timedelta(minutes=10, seconds=30):
        return "the statement's time is wrong"
    if sent.certificate != signer.certificate.public_bytes(Encoding.DER):
        return "the statement comes with another certificate than the tenant's own"
    try:
        signer.key.public_key().verify(sent.signature, _PREFIX + sent.statement_json)
    except InvalidSignature:
        return "the signature is not over the statement"
    return None
