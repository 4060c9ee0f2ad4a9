"""Statements: what an owner signs when it publishes a version, and how that is verified.

A statement says who publishes which payload with which manifest, at which registry, for whom, when,
and after which version of the adapter. Its signature is ed25519 (RFC 8032) over a fixed prefix and
the statement's canonical JSON, by the key of the owner's signing certificate, which is sent with
it. The registry verifies it and refuses replays (`check_fresh` here, and `ledger`, which stores
earlier ones). Every owner that fetches the version verifies it again, with its own copy of the
authority's certificate, so it need not trust the registry.

The certificate must have been valid at the statement's own time, because a version outlives the
certificate that it was published with. A revocation counts from when it is made: nothing more can
be published with a revoked certificate, but earlier versions stay valid until they are withdrawn.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field, StringConstraints, ValidationError

from adapterdistill.errors import ClockSkewError, SignatureError, UnauthenticatedError
from adapterdistill.manifest import Manifest, Name, Record, Sha256, sha256_hex
from adapterdistill.registry.access import Caller, Consent
from adapterdistill.registry.v1 import registry_pb2 as pb

PREFIX = b"adapterdistill publish v1\n"
WINDOW = timedelta(minutes=10)
"""Greatest difference between the time of a statement and the registry's clock."""
MAX_STATEMENT_BYTES = 80 * 1024
MAX_CERTIFICATE_BYTES = 8 * 1024
_TIME = "%Y-%m-%dT%H:%M:%SZ"

Certify = Callable[[bytes, datetime], Caller]
"""Function that returns the bearer of a signing certificate (DER) at a time, or raises
UnauthenticatedError if the certificate is not valid then."""


@dataclass(frozen=True)
class Signed:
    """A statement with its signature, as it is sent and stored."""

    statement_json: bytes
    signature: bytes
    certificate: bytes
    """The owner's signing certificate in DER."""


class Statement(Record):
    """The content that an owner signs."""

    manifest_sha256: Sha256
    """Digest of the manifest's canonical JSON."""
    version: Sha256
    tenant: Name
    adapter: Name
    previous: Sha256 | None
    """sha256 of the digest of the adapter's newest version until now, in any state; None if this
    is its first. Not the digest itself: a reader may not see that version."""
    consent: tuple[str, ...]
    """Tenants that may learn from the adapter, sorted; `*` is everyone. Only the first version's
    consent counts."""
    nonce: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
    time: Annotated[
        str, StringConstraints(pattern=r"^[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}Z$")
    ]
    """RFC 3339, UTC, in whole seconds."""
    registry: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")] | None = Field(
        default=None, exclude_if=lambda value: value is None
    )
    """The registry that it is for, as the owner's trust bundle names it (`bundle.registry_of`);
    None: an earlier client made it."""

    @property
    def moment(self) -> datetime:
        return datetime.strptime(self.time, _TIME).replace(tzinfo=UTC)


def read_statement(message: pb.PublishHeader | pb.Version) -> Signed | None:
    """Read the statement that a message brings; None if it brings none."""
    return _signed(message.statement) if message.HasField("statement") else None


def stored_statement(statement: bytes) -> Signed:
    """Read the statement that a row of the index holds."""
    return _signed(pb.Statement.FromString(statement))


def _signed(message: pb.Statement) -> Signed:
    return Signed(message.statement_json, message.signature, message.certificate)


def statement_message(signed: Signed) -> pb.Statement:
    return pb.Statement(
        statement_json=signed.statement_json,
        signature=signed.signature,
        certificate=signed.certificate,
    )


def make_statement(
    manifest: Manifest,
    *,
    consent: Consent,
    previous: str | None,
    key: Ed25519PrivateKey,
    certificate: bytes,
    registry: str | None,
    at: datetime | None = None,
) -> Signed:
    """Make and sign the owner's statement about a version that it is about to publish.

    Args:
        previous: digest of the adapter's newest version; None if there is none.
        certificate: DER of the certificate of `key`.
        registry: name of the registry that it is for.
        at: a time with a time zone, by default now.
    """
    statement = Statement(
        manifest_sha256=sha256_hex(manifest.canonical_json()),
        version=manifest.version,
        tenant=manifest.tenant,
        adapter=manifest.adapter,
        previous=None if previous is None else sha256_hex(previous.encode()),
        consent=tuple(sorted(consent)),
        nonce=secrets.token_hex(16),
        time=(at or datetime.now(UTC)).astimezone(UTC).strftime(_TIME),
        registry=registry,
    )
    statement_json = statement.canonical_json()
    return Signed(statement_json, key.sign(PREFIX + statement_json), certificate)


def verify_statement(
    signed: Signed, manifest: Manifest, certify: Certify, registry: str | None = None
) -> Statement:
    """Verify the owner's statement about `manifest` and return it; not whether it is fresh.

    Args:
        registry: name of the registry that it must be for, if it names one; None: of any.

    Raises:
        SignatureError: it is malformed, not signed by the tenant's own key, for another registry,
            or contradicts the manifest.
    """
    statement = _parsed(signed)
    try:
        bearer = certify(signed.certificate, statement.moment)
    except UnauthenticatedError as error:
        raise SignatureError(f"statement refused at its time, {statement.time}: {error}") from None
    if bearer != Caller("owner", manifest.tenant):
        raise SignatureError(f"statement refused: {bearer} signed for owner/{manifest.tenant}")
    key = x509.load_der_x509_certificate(signed.certificate).public_key()
    if not isinstance(key, Ed25519PublicKey):
        raise SignatureError("statement refused: its certificate is not for an ed25519 key")
    try:
        key.verify(signed.signature, PREFIX + signed.statement_json)
    except InvalidSignature:
        raise SignatureError("statement refused: its signature does not verify") from None
    if registry is not None and statement.registry not in (None, registry):
        raise SignatureError(
            f"statement refused: it is for registry {statement.registry}, this is {registry}"
        )
    expected = {
        "manifest_sha256": sha256_hex(manifest.canonical_json()),
        "version": manifest.version,
        "tenant": manifest.tenant,
        "adapter": manifest.adapter,
    }
    different = [field for field, value in expected.items() if getattr(statement, field) != value]
    if different:
        raise SignatureError(
            f"statement refused: its {', '.join(different)} differ from the manifest"
        )
    return statement


def _parsed(signed: Signed) -> Statement:
    sizes = {"statement": len(signed.statement_json), "certificate": len(signed.certificate)}
    limits = {"statement": MAX_STATEMENT_BYTES, "certificate": MAX_CERTIFICATE_BYTES}
    for part, size in sizes.items():
        if size > limits[part]:
            raise SignatureError(f"{part} of {size} bytes refused; at most {limits[part]} allowed")
    try:
        statement = Statement.model_validate_json(signed.statement_json)
        statement.moment  # noqa: B018 - refuses a 31st of February
        canonical = statement.canonical_json() == signed.statement_json
    except ValidationError as error:
        fields = sorted({".".join(map(str, e["loc"])) or "(whole)" for e in error.errors()})
        raise SignatureError(f"statement refused: invalid {', '.join(fields)}") from None
    except ValueError:
        raise SignatureError("statement refused: invalid time") from None
    if not canonical:
        raise SignatureError("statement refused: not in canonical JSON")
    return statement


def check_fresh(statement: Statement, consent: Consent, now: datetime) -> None:
    """Check that a statement was made for the upload that brings it, just now.

    Args:
        consent: the upload's consent, as given outside the statement.

    Raises:
        SignatureError: the statement names another consent, or no registry.
        ClockSkewError: its time differs from `now` by more than `WINDOW`: it is old, or a clock is
            wrong.
    """
    if statement.registry is None:
        raise SignatureError(
            "statement refused: it does not name the registry that it is for: publish with this"
            " release's client"
        )
    if statement.consent != tuple(sorted(consent)):
        raise SignatureError("statement refused: its consent differs from the upload's")
    if abs(statement.moment - now) > WINDOW:
        raise ClockSkewError(
            f"statement of {statement.time} refused: the registry's clock shows"
            f" {now.strftime(_TIME)}, and the two may differ by {WINDOW.seconds // 60} minutes"
        )
