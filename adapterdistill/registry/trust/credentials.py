"""Credentials in folders, read again whenever their files change.

A server's folder is ROOT/server, written by the authority. A caller's folder holds its own keys and
the certificates that the authority issued for them.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from adapterdistill.errors import ConfigError, UnauthenticatedError
from adapterdistill.files import read_secret
from adapterdistill.registry.access import Caller
from adapterdistill.registry.trust import pem
from adapterdistill.registry.trust.bundle import Bundle, is_authority, split
from adapterdistill.registry.trust.certificates import Usage, bearer_of, is_due, is_for

T = TypeVar("T")
K = TypeVar("K", EllipticCurvePrivateKey, Ed25519PrivateKey)
Stamp = tuple[tuple[int, int, int] | None, ...]
logger = logging.getLogger(__name__)


def stamp_of(files: Sequence[Path]) -> Stamp:
    """Return a value that differs after a file was replaced or changed."""

    def one(file: Path) -> tuple[int, int, int] | None:
        try:
            found = file.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    return tuple(map(one, files))


class Reread(Generic[T]):
    """A value that `read` makes from files, made again when a file changed. Thread-safe."""

    def __init__(self, files: Sequence[Path], read: Callable[[], T]) -> None:
        self._files = files
        self._read = read
        self._stamp: Stamp | None = None
        self._lock = threading.Lock()
        self.value: T
        """The value that was last read; absent before the first call."""

    def __call__(self) -> tuple[T, bool]:
        """Return the value, and whether it was read again. Raises what `read` raises."""
        with self._lock:
            stamp = stamp_of(
                self._files
            )  # before reading, so the next call finds a change meanwhile
            changed = stamp != self._stamp
            if changed:
                self.value = self._read()
                self._stamp = stamp
            return self.value, changed


class ServerCredentials:
    """The server's own certificate, and the authorities that it trusts.

    Changed files count at once: revocations for every later call, certificates for every later
    connection.
    """

    def __init__(self, folder: Path) -> None:
        """Read the folder; ConfigError if a file is missing, malformed or open to others."""
        files = [folder / name for name in (pem.SERVER_PEM, pem.CA_PEM, pem.CRL_PEM)]
        self._identity = Reread(files[:2], lambda: _read_identity(files[0], files[1]))
        self._trust = Reread(files[1:], lambda: _read_trust(files[1], files[2]))
        self._trust()
        self._first = self._identity()[0]

    def for_grpc(self) -> Any:
        """Make gRPC credentials that refuse connections without the authority's certificate."""
        return grpc.dynamic_ssl_server_credentials(
            self._first, self._configuration, require_client_authentication=True
        )

    def _configuration(self) -> Any:
        """Return the configuration for a handshake; None if it did not change."""
        try:
            configuration, changed = self._identity()
        except ConfigError as error:
            logger.error("the server keeps its earlier certificate: %s", error)
            return None
        if changed:
            logger.info("the server uses its new certificate")
        return configuration if changed else None

    def verify(self, der: bytes, usage: Usage, at: datetime | None = None) -> Caller:
        """Return the bearer of a certificate that is valid at the time `at`, by default now.

        Raises:
            UnauthenticatedError: it is not valid (`verify_certificate`), or the revocation list
                cannot be read or is not the authority's, so that everyone is refused.
        """
        try:
            bundle, _ = self._trust()
        except ConfigError as error:
            logger.error("every caller is refused: %s", error)
            raise UnauthenticatedError(
                "the registry cannot read its revocation list, and refuses everyone until it can"
            ) from None
        return bundle.verify(der, at or datetime.now(UTC), usage)

    def certify(self, der: bytes, at: datetime) -> Caller:
        """Verify a signing certificate like `verify`, and return its bearer."""
        return self.verify(der, Usage.signing, at)

    @property
    def registry(self) -> str:
        """Name of the registry, as it was last read."""
        return self._trust.value.registry


def _read_identity(server_pem: Path, ca_pem: Path) -> Any:
    key, certificate = pem.read_server(server_pem)
    authorities, _ = split(pem.read_certificates(ca_pem))
    return grpc.ssl_server_certificate_configuration(
        [(key, pem.certificate_pem(certificate))],
        root_certificates=pem.certificate_pem(*authorities),
    )


def _read_trust(ca_pem: Path, crl_pem: Path) -> Bundle:
    authorities = pem.read_certificates(ca_pem)
    crls = pem.read_crls(crl_pem)
    try:
        return Bundle.of(authorities, crls)
    except UnauthenticatedError as error:
        raise ConfigError(f"{crl_pem}: {error}") from None


@dataclass(frozen=True)
class Credentials:
    """A caller's own keys and certificates, and the authorities that it trusts."""

    caller: Caller
    tls_key_pem: bytes
    certificate: x509.Certificate
    signing_key: Ed25519PrivateKey
    signing_certificate: x509.Certificate
    bundle: Bundle

    @property
    def ca(self) -> x509.Certificate:
        """The authority that issued the certificate for connections."""
        return self.bundle.issuer_of(self.certificate)

    @property
    def registry(self) -> str:
        """Name of the registry that the credentials are for."""
        return self.bundle.registry

    @property
    def first_to_end(self) -> x509.Certificate:
        """The certificate that ends first."""
        return min(
            self.certificate, self.signing_certificate, key=lambda one: one.not_valid_after_utc
        )

    def is_due(self, at: datetime) -> bool:
        """Say whether one of the certificates is to be renewed at this time."""
        return is_due(self.certificate, at) or is_due(self.signing_certificate, at)

    def for_grpc(self) -> Any:
        return grpc.ssl_channel_credentials(
            pem.certificate_pem(*self.bundle.authorities),
            self.tls_key_pem,
            pem.certificate_pem(self.certificate),
        )

    def certify(self, der: bytes, at: datetime) -> Caller:
        """Verify another's signing certificate like `Bundle.verify`, and return its bearer."""
        return self.bundle.verify(der, at)

    def check(self) -> None:
        """Raise UnauthenticatedError if the certificate for connections is not valid now."""
        der = self.certificate.public_bytes(Encoding.DER)
        self.bundle.verify(der, datetime.now(UTC), Usage.client)


def credential_files(folder: Path) -> list[Path]:
    return [folder / name for name in (pem.TLS_KEY, pem.SIGNING_KEY, pem.CERTIFICATES)]


def read_credentials(folder: Path) -> Credentials:
    """Read a credentials folder, without checking whether its certificates are still valid.

    Keys of certificates that were just renewed may still be in the folder `renewal` (`renewal`).

    Raises:
        ConfigError: a file is missing or malformed, others may read a private key, or the
            certificates belong to other keys; the message names the file.
    """
    files = [folder / pem.CERTIFICATES]
    stamp = stamp_of(files)
    try:
        return _read_credentials(folder)
    except ConfigError:
        if stamp_of(files) == stamp:
            raise
    return _read_credentials(folder)  # they were renewed while they were read


def _read_credentials(folder: Path) -> Credentials:
    file = folder / pem.CERTIFICATES
    found = _certificates_in(folder)
    kinds = [[one for one in found if is_for(one, use)] for use in (Usage.client, Usage.signing)]
    others = [one for one in found if is_authority(one)]
    if [len(one) for one in kinds] != [1, 1] or len(found) != 2 + len(others) or not others:
        raise ConfigError(
            f"{file}: expected a certificate for connections, one for signing and the authority's"
        )
    (certificate,), (signing_certificate,) = kinds
    try:
        caller, bundle = bearer_of(certificate), Bundle.of(others)
    except UnauthenticatedError as error:
        raise ConfigError(f"{file}: {error}") from None
    return Credentials(
        caller,
        pem.key_pem(_key(folder, pem.TLS_KEY, pem.read_tls_key, certificate)),
        certificate,
        _key(folder, pem.SIGNING_KEY, pem.read_signing_key, signing_certificate),
        signing_certificate,
        bundle,
    )


def _certificates_in(folder: Path) -> list[x509.Certificate]:
    """Read certificates.pem; a folder that lacks even its keys is told by these."""
    for name in (pem.TLS_KEY, pem.SIGNING_KEY):
        read_secret(folder / name)
    return pem.read_certificates(folder / pem.CERTIFICATES)


def _key(folder: Path, name: str, read: Callable[[Path], K], certificate: x509.Certificate) -> K:
    """Read the key of a certificate: one of a renewal may move into the folder meanwhile."""
    for place in (folder / name, folder / pem.RENEWAL / name, folder / name):
        if place.exists() and (key := read(place)).public_key() == certificate.public_key():
            return key
    raise ConfigError(
        f"{folder / pem.CERTIFICATES}: its certificate is for another key than {folder / name}"
    )
