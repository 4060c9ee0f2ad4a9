"""The registry's private certificate authority: a folder of files that the operator's commands use.

    ROOT/authority/ca.key, ca.pem       the authority's key and certificate
    ROOT/authority/issued/SERIAL.pem    every certificate that it issued to a caller
    ROOT/authority/crl.pem              the certificates that it revoked
    ROOT/server/                        the server's files: server.pem, ca.pem, crl.pem

Only the commands that enrol and revoke need ROOT/authority. The server notices changes of
ROOT/server by itself. If the authority is on another machine, copy its ROOT/server to the server.
"""

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from adapterdistill.errors import ConfigError, NotFoundError
from adapterdistill.files import private_folder
from adapterdistill.registry.access import Caller
from adapterdistill.registry.trust import pem
from adapterdistill.registry.trust.certificates import (
    Usage,
    bearer_of,
    caller_uri,
    check_crl,
    is_for,
    is_revoked,
    serial_of,
)
from adapterdistill.registry.trust.issuing import (
    PublicKey,
    host_names,
    new_authority,
    new_certificate,
    new_crl,
    revocation_of,
)

OPERATOR = Caller("operator", "operator")
CA_LIFETIME = timedelta(days=3650)
LIFETIME = timedelta(days=365)


@dataclass(frozen=True)
class Issued:
    """A certificate that the authority issued to a caller."""

    caller: Caller
    usage: Usage
    serial: str
    expires: datetime
    revoked: bool


def create(root: Path, hosts: Sequence[str], *, passphrase: bytes | None = None) -> None:
    """Make the authority, the server's credentials, and an operator's in ROOT/operator.

    Args:
        hosts: DNS names and IP addresses at which clients reach the server.
        passphrase: encrypts the authority's key; every later command that issues or revokes
            needs it.

    Raises:
        ConfigError: there is an authority already, a host is malformed, or a file cannot be
            written.
    """
    folder, staged = root / pem.AUTHORITY_FOLDER, root / ".authority"
    host_names(hosts)
    if folder.exists():
        raise ConfigError(f"{folder}: there is an authority already")
    key = pem.new_tls_key()
    certificate = new_authority(key, CA_LIFETIME)
    crl = new_crl(certificate, key, [])
    pem.write(staged / "ca.key", pem.key_pem(key, passphrase))
    pem.write(staged / pem.CA_PEM, pem.certificate_pem(certificate))
    pem.write(staged / pem.CRL_PEM, crl.public_bytes(Encoding.PEM))
    pem.write(staged / "lock", b"")
    try:
        staged.chmod(0o700)
        private_folder(root)
        staged.rename(folder)
    except OSError as error:
        raise ConfigError(f"cannot make {folder}: {error.strerror}") from None
    with opened(root, passphrase) as authority:
        authority.certify_server(hosts)
        request = pem.request_credentials(root / "operator", OPERATOR)
        pem.write(root / "operator" / pem.CERTIFICATES, authority.enrol(OPERATOR, request))


@contextmanager
def opened(root: Path, passphrase: bytes | None = None) -> Iterator["Authority"]:
    """Open the authority of this registry for one command at a time.

    Raises:
        ConfigError: there is no authority, or it cannot be read. Its key is read when it is first
            needed: its passphrase may be missing or wrong.
    """
    folder = root / pem.AUTHORITY_FOLDER
    try:
        lock = (folder / "lock").open("rb")
    except OSError:
        raise ConfigError(
            f"{folder}: no readable authority here; `registry init` makes one"
        ) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Authority(root, passphrase)


class Authority:
    """The authority in ROOT/authority. `opened` makes it, for one command at a time."""

    def __init__(self, root: Path, passphrase: bytes | None = None) -> None:
        self._folder = root / pem.AUTHORITY_FOLDER
        self._passphrase = passphrase
        self._server = root / pem.SERVER_FOLDER
        self.certificate = pem.read_certificates(self._folder / pem.CA_PEM)[0]
        self._crl = pem.read_crl(self._folder / pem.CRL_PEM)
        check_crl(self._crl, self.certificate)

    @cached_property
    def _key(self) -> EllipticCurvePrivateKey:
        return pem.read_tls_key(self._folder / "ca.key", self._passphrase)

    def enrol(
        self,
        caller: Caller,
        request: Path,
        *,
        new_keys: bool = False,
        lifetime: timedelta = LIFETIME,
    ) -> bytes:
        """Issue certificates for the keys of a request.pem; return the sender's certificates.pem.

        Args:
            new_keys: accept other keys than those of the caller's valid certificates. Keys of a
                revoked certificate, whoever's it was, are never accepted: somebody may have them.

        Raises:
            ConfigError: the request is malformed or names another caller, or its keys are new or
                those of a revoked certificate.
            UnauthenticatedError: the request names nobody.
        """
        asked, tls, signing = pem.read_request(request)
        keys: tuple[PublicKey, ...] = (tls, signing)
        if asked != caller:
            raise ConfigError(f"{request} asks for certificates of {asked}, not of {caller}")
        lost = {_raw(one.public_key()) for one in self._certificates() if self._is_revoked(one)}
        if not lost.isdisjoint(map(_raw, keys)):
            raise ConfigError(
                f"{request} asks for certificates of a key whose certificate was revoked, and which"
                f" is refused for ever: {caller} makes new keys in another folder and sends their"
                " request"
            )
        known = {_raw(one.public_key()) for one in self._held_by(caller)}
        if known and not known.issuperset(map(_raw, keys)) and not new_keys:
            raise ConfigError(
                f"{caller} has certificates with other keys than {request}: make sure that the"
                " request is the caller's own, then give --new-keys, or revoke the others first"
            )
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(caller_uri(caller))])
        issued = [
            new_certificate(self.certificate, self._key, key, usage, names, lifetime)
            for key, usage in zip(keys, (Usage.client, Usage.signing), strict=True)
        ]
        for one in issued:
            file = self._folder / "issued" / f"{serial_of(one)}.pem"
            pem.write(file, pem.certificate_pem(one))
        return pem.certificate_pem(*issued, self.certificate)

    def certify_server(self, hosts: Sequence[str] = (), *, lifetime: timedelta = LIFETIME) -> None:
        """Make a new key and certificate for the server; no hosts means those that it has.

        Raises:
            ConfigError: a host is malformed, or there are none.
        """
        file = self._server / pem.SERVER_PEM
        names = host_names(hosts) if hosts or not file.exists() else _names_in(file)
        key = pem.new_tls_key()
        certificate = new_certificate(
            self.certificate, self._key, key.public_key(), Usage.server, names, lifetime
        )
        pem.write(self._server / pem.CA_PEM, pem.certificate_pem(self.certificate))
        pem.write(self._server / pem.CRL_PEM, self._crl.public_bytes(Encoding.PEM))
        # One file, so that no reader combines an old key with a new certificate.
        pem.write(file, pem.key_pem(key) + pem.certificate_pem(certificate))

    def revoke(self, caller: Caller | None = None, serial: str | None = None) -> list[Issued]:
        """Revoke all certificates of the caller, or the one whose serial begins with `serial`.

        Raises:
            NotFoundError: there is no such certificate.
            ConfigError: more than one serial begins with `serial`.
        """
        issued = self._certificates()
        if serial:
            chosen = [one for one in issued if serial_of(one).startswith(serial)]
            if len(chosen) > 1:
                raise ConfigError(f"{len(chosen)} serials begin with {serial}; give more of it")
        else:
            chosen = [one for one in issued if bearer_of(one) == caller]
        if not chosen:
            raise NotFoundError(f"no certificate of {serial or caller} was issued")
        revoked = [revocation_of(one) for one in chosen if not self._is_revoked(one)]
        self._crl = new_crl(self.certificate, self._key, [*self._crl, *revoked])
        for folder in (self._folder, self._server):
            pem.write(folder / pem.CRL_PEM, self._crl.public_bytes(Encoding.PEM))
        return [self._issued(one) for one in chosen]

    def issued(self) -> list[Issued]:
        """List every certificate that was issued to a caller, oldest first."""
        return [self._issued(one) for one in self._certificates()]

    def _issued(self, certificate: x509.Certificate) -> Issued:
        return Issued(
            bearer_of(certificate),
            Usage.client if is_for(certificate, Usage.client) else Usage.signing,
            serial_of(certificate),
            certificate.not_valid_after_utc,
            self._is_revoked(certificate),
        )

    def _is_revoked(self, certificate: x509.Certificate) -> bool:
        return is_revoked(certificate, self._crl)

    def _certificates(self) -> list[x509.Certificate]:
        files = (self._folder / "issued").glob("*.pem")
        found = [one for file in files for one in pem.read_certificates(file)]
        return sorted(found, key=lambda one: (one.not_valid_before_utc, one.serial_number))

    def _held_by(self, caller: Caller) -> Iterator[x509.Certificate]:
        """Yield the caller's certificates that are valid now."""
        for one in self._certificates():
            valid = one.not_valid_after_utc > datetime.now(UTC) and not self._is_revoked(one)
            if valid and bearer_of(one) == caller:
                yield one


def _names_in(server_pem: Path) -> x509.SubjectAlternativeName:
    _, certificate = pem.read_server(server_pem)
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def _raw(key: Any) -> bytes:
    raw: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return raw
