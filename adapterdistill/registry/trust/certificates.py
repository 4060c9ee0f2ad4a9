"""Reading and verifying certificates: their bearer, their use and their validity.

The bearer is the only entry of the certificate's subject alternative name (RFC 5280, 4.2.1.6), a
URI `adapterdistill://ROLE/NAME`. The extended key usage allows one use only: a certificate that
signs adapters opens no connection, and the other way round.
"""

import re
from datetime import datetime
from enum import Enum
from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtendedKeyUsageOID

from adapterdistill.errors import UnauthenticatedError
from adapterdistill.manifest import is_name
from adapterdistill.registry.access import Caller, Role

ROLES: tuple[Role, ...] = ("owner", "operator", "auditor")
MALFORMED: tuple[type[Exception], ...] = (
    ValueError,
    TypeError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    CryptographyDeprecationWarning,  # a malformed field, where warnings are errors
)
"""Errors of the library for malformed keys, certificates, requests and revocation lists."""
NOT_ISSUED_HERE = "the certificate was not issued by the registry's authority"
_URI = re.compile(r"adapterdistill://([a-z]+)/([^/]+)")


class Usage(Enum):
    """The use of a certificate."""

    client = ExtendedKeyUsageOID.CLIENT_AUTH
    server = ExtendedKeyUsageOID.SERVER_AUTH
    signing = ExtendedKeyUsageOID.CODE_SIGNING


def caller_uri(caller: Caller) -> str:
    return f"adapterdistill://{caller.role}/{caller.name}"


def read_caller_uri(uri: str) -> Caller:
    """Read the caller; UnauthenticatedError unless `uri` is exactly what `caller_uri` gives."""
    match = _URI.fullmatch(uri)
    for role in ROLES:
        if match is not None and match[1] == role and is_name(match[2]):
            return Caller(role, match[2])
    raise UnauthenticatedError(
        "the certificate names no caller: expected adapterdistill://ROLE/NAME in its"
        f" subject alternative name, with a ROLE of {', '.join(ROLES)}"
    )


def bearer_of(document: x509.Certificate | x509.CertificateSigningRequest) -> Caller:
    """Return the caller that a certificate or a request names, without verifying it.

    Raises:
        UnauthenticatedError: it names no caller, or more than one.
    """
    try:
        found = document.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = list(found.value)
    except MALFORMED:
        names = []
    if len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier):
        raise UnauthenticatedError(
            "a certificate must have exactly one subject alternative name, a URI;"
            f" this one has {len(names)} names"
        )
    return read_caller_uri(names[0].value)


def serial_of(certificate: x509.Certificate | x509.RevokedCertificate) -> str:
    """Return the serial as commands print and take it: lower-case hexadecimal."""
    return f"{certificate.serial_number:x}"


def is_for(certificate: x509.Certificate, usage: Usage) -> bool:
    """Return whether the certificate is for this use and no other."""
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        limits = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except MALFORMED:
        return False
    return list(usages) == [usage.value] and not limits.ca


def verify_certificate(
    der: bytes,
    ca: x509.Certificate,
    crl: x509.CertificateRevocationList | None,
    at: datetime,
    usage: Usage = Usage.signing,
) -> Caller:
    """Return the bearer of a certificate that `ca` issued for `usage` and that is valid at `at`.

    Args:
        der: the certificate, from any source.
        ca: the trusted authority; it issues every certificate itself.
        crl: its revocation list, verified (`check_crl`); None skips the check for revocation.
        at: a time with a time zone. A revoked certificate is not valid at any time, because its
            key may have been in other hands before the revocation.

    Raises:
        UnauthenticatedError: the certificate is malformed, another authority's, for another use,
            not valid yet, expired, revoked, or names no caller.
    """
    certificate = _issued(der, ca)
    at = at.replace(microsecond=0)  # certificates count whole seconds
    if not is_for(certificate, usage):
        raise UnauthenticatedError(
            f"certificate {serial_of(certificate)} is not for {usage.name} use"
        )
    bearer = bearer_of(certificate)
    for one, subject in ((certificate, str(bearer)), (ca, "the authority")):
        what = f"certificate {serial_of(one)} of {subject}"
        if at < one.not_valid_before_utc:
            raise UnauthenticatedError(f"{what} is not valid before {one.not_valid_before_utc}")
        if at > one.not_valid_after_utc:
            raise UnauthenticatedError(f"{what} expired at {one.not_valid_after_utc}")
    if crl is not None and is_revoked(certificate, crl):
        raise UnauthenticatedError(f"certificate {serial_of(certificate)} of {bearer} is revoked")
    return bearer


@lru_cache(maxsize=1024)  # the result never changes, and takes longer than the rest of a small call
def _issued(der: bytes, ca: x509.Certificate) -> x509.Certificate:
    """Parse the certificate; raises UnauthenticatedError unless `ca` issued it."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        certificate.verify_directly_issued_by(ca)
        # The library also accepts a second encoding of the signature; accept only this one.
        if not der.endswith(b"\0" + certificate.signature):
            raise ValueError
    except MALFORMED:
        raise UnauthenticatedError(NOT_ISSUED_HERE) from None
    return certificate


def is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Say whether the authority's key signed the certificate, which may be its own."""
    try:
        certificate.verify_directly_issued_by(authority)
    except MALFORMED:
        return False
    return True


def is_due(certificate: x509.Certificate, at: datetime) -> bool:
    """Say whether a certificate is to be renewed: when less than a third of its time is left."""
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return at > end - (end - start) / 3


def left_of(certificate: x509.Certificate, at: datetime) -> str:
    """Say until when a certificate is valid, such as `until 2026-12-30 (30 days)`."""
    end = certificate.not_valid_after_utc
    return f"until {end:%Y-%m-%d} ({max((end - at).days, 0)} days)"


def is_revoked(certificate: x509.Certificate, crl: x509.CertificateRevocationList) -> bool:
    return crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None


def check_crl(crl: x509.CertificateRevocationList, ca: x509.Certificate) -> None:
    """Raise UnauthenticatedError unless `ca` signed the revocation list."""
    key: Any = ca.public_key()
    try:
        signed = crl.issuer == ca.subject and crl.is_signature_valid(key)
    except MALFORMED:
        signed = False
    if not signed:
        raise UnauthenticatedError("the revocation list is not signed by the registry's authority")
