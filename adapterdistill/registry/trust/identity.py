"""The identity of a caller: read from the connection, never from a message."""

from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from adapterdistill.errors import UnauthenticatedError
from adapterdistill.manifest import sha256_hex
from adapterdistill.registry.access import ANYONE, Caller
from adapterdistill.registry.trust.certificates import MALFORMED, Usage
from adapterdistill.registry.trust.credentials import ServerCredentials


def certificate_name(context: Any, credentials: ServerCredentials | None) -> str | None:
    """Name the certificate of a call, valid or not; None over plain text.

    Args:
        credentials: the server's; None for plain text on loopback.
    """
    if credentials is None:
        return None
    shown = context.auth_context().get("x509_pem_cert", [])
    return f"certificate {sha256_hex(b''.join(shown))[:16]}"


def certificate_end(context: Any) -> float:
    """Return when the certificate of a valid call ends, in seconds since 1970."""
    (shown,) = context.auth_context()["x509_pem_cert"]
    return x509.load_pem_x509_certificate(shown).not_valid_after_utc.timestamp()


def caller_of(context: Any, credentials: ServerCredentials | None) -> Caller:
    """Return the caller of a gRPC call.

    Long calls must ask again: a certificate may expire or be revoked while they run.

    Args:
        credentials: the server's; None for plain text on loopback.

    Raises:
        UnauthenticatedError: the certificate is not valid any more, or names no caller.
    """
    if credentials is None:
        return ANYONE
    shown = context.auth_context().get("x509_pem_cert", [])
    try:
        (certificate,) = (x509.load_pem_x509_certificate(one) for one in shown)
    except MALFORMED:
        raise UnauthenticatedError("the connection has no certificate") from None
    return credentials.verify(certificate.public_bytes(Encoding.DER), Usage.client)
