"""A trust bundle: the authorities of one registry, several while one replaces another.

All of them name the same registry, and each issues certificates itself. An authority that was
dropped stays in the bundle as a certificate that ends at that time: it admits nobody any more, and
still vouches for what was signed before.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from adapterdistill.errors import UnauthenticatedError
from adapterdistill.manifest import sha256_hex
from adapterdistill.registry.access import Caller
from adapterdistill.registry.trust.certificates import (
    MALFORMED,
    NOT_ISSUED_HERE,
    Usage,
    check_crl,
    is_issued_by,
    verify_certificate,
)

REGISTRY_URI = "adapterdistill://registry/"
REGISTRY_DIGITS = 32


def public_bytes(certificate: x509.Certificate | x509.CertificateSigningRequest) -> bytes:
    """The public key as DER."""
    key = certificate.public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def registry_of(authority: x509.Certificate) -> str:
    """Return the registry that an authority names; the first one is named by its own key's digest.

    Raises:
        UnauthenticatedError: its name is malformed.
    """
    try:
        names = authority.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except MALFORMED:
        return sha256_hex(public_bytes(authority))[:REGISTRY_DIGITS]
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1 or not uris[0].startswith(REGISTRY_URI):
        raise UnauthenticatedError("the authority's certificate names no registry")
    return uris[0].removeprefix(REGISTRY_URI)


def is_authority(certificate: x509.Certificate) -> bool:
    """Say whether a certificate may issue others; links between authorities may as well."""
    try:
        limits = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except MALFORMED:
        return False
    return limits.ca


def split(certificates: Sequence[x509.Certificate]) -> tuple[list[x509.Certificate], ...]:
    """Part authorities into those that signed themselves and links, which another one signed."""
    own = [one for one in certificates if is_issued_by(one, one)]
    return own, [one for one in certificates if one not in own]


def vouched(
    trusted: Sequence[x509.Certificate], offered: Sequence[x509.Certificate]
) -> Iterator[x509.Certificate]:
    """Yield the authorities of an offered bundle that a trusted one has, or has signed a link to.

    A link is a certificate for the new authority's key by the old one's (RFC 4210, 4.4).
    """
    own, links = split(offered)
    trusted = list(trusted)
    for _ in links:  # each may vouch for the next
        trusted += [one for one in links if any(is_issued_by(one, by) for by in trusted)]
    keys = {public_bytes(one) for one in trusted}
    yield from (one for one in own if public_bytes(one) in keys)


@dataclass(frozen=True)
class Bundle:
    """The authorities that are trusted, with their revocation lists where these are known."""

    authorities: tuple[x509.Certificate, ...]
    crls: tuple[x509.CertificateRevocationList, ...] | None = None
    """One for each authority, in the same order; None skips the check for revocation."""

    @classmethod
    def of(
        cls,
        authorities: Sequence[x509.Certificate],
        crls: Sequence[x509.CertificateRevocationList] | None = None,
    ) -> "Bundle":
        """Make a bundle of one registry.

        Raises:
            UnauthenticatedError: the authorities are of several registries, or none, or one of them
                has no revocation list that it signed.
        """
        own, _ = split(authorities)
        if len({registry_of(one) for one in own}) != 1:
            raise UnauthenticatedError("expected the authorities of one registry")
        if crls is None:
            return cls(tuple(own))
        return cls(tuple(own), tuple(_signed_by(one, crls) for one in own))

    @cached_property
    def registry(self) -> str:
        """Name of the registry, which its authorities share."""
        return registry_of(self.authorities[0])

    def verify(self, der: bytes, at: datetime, usage: Usage = Usage.signing) -> Caller:
        """Return the bearer of a certificate that one of the authorities issued, valid at `at`.

        Raises UnauthenticatedError like `verify_certificate`.
        """
        for authority, crl in zip(
            self.authorities, self.crls or [None] * len(self.authorities), strict=True
        ):
            try:
                return verify_certificate(der, authority, crl, at, usage)
            except UnauthenticatedError as error:
                if str(error) != NOT_ISSUED_HERE:
                    raise
        raise UnauthenticatedError(NOT_ISSUED_HERE)

    def issuer_of(self, certificate: x509.Certificate) -> x509.Certificate:
        """Return the authority that issued the certificate; UnauthenticatedError if none did."""
        for authority in self.authorities:
            if is_issued_by(certificate, authority):
                return authority
        raise UnauthenticatedError(NOT_ISSUED_HERE)


def _signed_by(
    authority: x509.Certificate, crls: Sequence[x509.CertificateRevocationList]
) -> x509.CertificateRevocationList:
    for crl in crls:
        try:
            check_crl(crl, authority)
        except UnauthenticatedError:
            continue
        return crl
    raise UnauthenticatedError("the revocation list is not signed by the registry's authority")
