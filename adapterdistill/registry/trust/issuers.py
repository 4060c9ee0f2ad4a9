"""The authorities of one registry as files: the first one, and those that replaced it (`rotation`).

    ROOT/authority/ca.key, ca.pem, crl.pem      the first authority
    ROOT/authority/2/, 3/, ...                  its successors: the same files, and link.pem, the
                                                successor's key certified by the one before
    ROOT/authority/2/before                     serials of the certificates issued before it
    ROOT/authority/issuer                       number of the one that issues; absent: the first

A folder gets its name, and `issuer` its number, in one step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from adapterdistill.files import read_file
from adapterdistill.registry.trust import pem
from adapterdistill.registry.trust.certificates import check_crl, is_revoked
from adapterdistill.registry.trust.issuing import new_crl, revocation_of

CA_KEY = "ca.key"
LINK = "link.pem"
BEFORE = "before"
_ISSUER = "issuer"


@dataclass
class Issuer:
    """One authority: its certificate, its key once it is needed, and what it revoked."""

    folder: Path
    passphrase: bytes | None
    certificate: x509.Certificate
    crl: x509.CertificateRevocationList
    link: list[x509.Certificate] = field(default_factory=list)

    @cached_property
    def key(self) -> EllipticCurvePrivateKey:
        return pem.read_tls_key(self.folder / CA_KEY, self.passphrase)

    @property
    def identifier(self) -> bytes:
        """Key identifier, which its certificates name."""
        found = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        return found.value.digest

    @property
    def is_ended(self) -> bool:
        """Whether it was dropped: it admits nobody, and vouches for earlier signatures."""
        return self.certificate.not_valid_after_utc <= datetime.now(UTC)

    def certificates(self) -> Iterator[x509.Certificate]:
        """Yield its certificate, and the link to the authority before it."""
        yield self.certificate
        yield from self.link

    def revoke(self, certificates: Sequence[x509.Certificate]) -> None:
        """Add to its revocation list those that are not there."""
        new = [revocation_of(one) for one in certificates if not is_revoked(one, self.crl)]
        if new:
            self.crl = new_crl(self.certificate, self.key, [*self.crl, *new])
            pem.write(self.folder / pem.CRL_PEM, self.crl.public_bytes(Encoding.PEM))


def key_identifier(certificate: x509.Certificate) -> bytes | None:
    """Return the key identifier of the authority that issued a certificate."""
    found = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    return found.value.key_identifier


def read_issuers(folder: Path, passphrase: bytes | None) -> list[Issuer]:
    """Read all authorities of the folder, the first one first; their keys when they are needed.

    Raises:
        ConfigError: a file is missing or malformed.
        UnauthenticatedError: a revocation list is another authority's.
    """
    found = []
    for place in _folders(folder):
        (certificate,) = pem.read_certificates(place / pem.CA_PEM)
        crl = pem.read_crl(place / pem.CRL_PEM)
        check_crl(crl, certificate)
        linked = (place / LINK).exists()
        link = pem.read_certificates(place / LINK) if linked else []
        found.append(Issuer(place, passphrase, certificate, crl, link))
    return found


def _folders(folder: Path) -> Iterator[Path]:
    yield folder
    number = 2
    while (place := folder / str(number)).exists():
        yield place
        number += 1


def issuing(folder: Path) -> int:
    """Return the number of the authority that issues, from 1 on."""
    file = folder / _ISSUER
    return int(read_file(file)) if file.exists() else 1


def let_issue(folder: Path, number: int) -> None:
    """Let the authority of this number issue from now on."""
    pem.write(folder / _ISSUER, f"{number}\n".encode())


def write_issuer(
    folder: Path,
    key: EllipticCurvePrivateKey,
    certificate: x509.Certificate,
    passphrase: bytes | None,
) -> None:
    """Write the files of a new authority, whose key a passphrase encrypts."""
    pem.write(folder / CA_KEY, pem.key_pem(key, passphrase))
    pem.write(folder / pem.CA_PEM, pem.certificate_pem(certificate))
    crl = new_crl(certificate, key, [])
    pem.write(folder / pem.CRL_PEM, crl.public_bytes(Encoding.PEM))
