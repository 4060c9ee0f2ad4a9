"""The registry's private certificate authority: a folder of files that the operator's commands use.

    ROOT/authority/ca.key, ca.pem       the authority's key and certificate
    ROOT/authority/issued/SERIAL.pem    every certificate that it issued to a caller
    ROOT/authority/crl.pem              the certificates that it revoked
    ROOT/authority/2/, 3/, ...          authorities that replaced it (`issuers`)
    ROOT/server/                        the server's files: server.pem, ca.pem, crl.pem

Only the commands that enrol and revoke need ROOT/authority. The server notices changes of
ROOT/server by itself. If the authority is on another machine, copy its ROOT/server to the server.
"""

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from adapterdistill.errors import ConfigError, NotFoundError, NotPermittedError
from adapterdistill.files import private_folder, read_file
from adapterdistill.registry.access import Caller
from adapterdistill.registry.trust import issuers, pem
from adapterdistill.registry.trust.bundle import public_bytes
from adapterdistill.registry.trust.certificates import (
    Usage,
    bearer_of,
    caller_uri,
    is_for,
    is_revoked,
    serial_of,
)
from adapterdistill.registry.trust.issuing import (
    PublicKey,
    host_names,
    new_authority,
    new_certificate,
)

OPERATOR = Caller("operator", "operator")
CA_LIFETIME = timedelta(days=3650)
LIFETIME = timedelta(days=30)
"""Lifetime of a caller's certificates, which renew themselves."""
SERVER_LIFETIME = timedelta(days=365)


@dataclass(frozen=True)
class Issued:
    """A certificate that the authority issued to a caller."""

    caller: Caller
    usage: Usage
    serial: str
    expires: datetime
    revoked: bool


@dataclass(frozen=True)
class Renewed:
    """The answer to a renewal."""

    certificates: bytes
    """The caller's certificates.pem."""
    serials: tuple[str, ...]
    expires: datetime


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
    issuers.write_issuer(staged, key, new_authority(key, CA_LIFETIME), passphrase)
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
        self.folder = root / pem.AUTHORITY_FOLDER
        self.passphrase = passphrase
        self._server = root / pem.SERVER_FOLDER
        self.reread()

    def reread(self) -> None:
        """Read the authorities again, after a step of a rotation."""
        self.issuers = issuers.read_issuers(self.folder, self.passphrase)
        """All authorities, the first one first."""
        self.issuer = self.issuers[issuers.issuing(self.folder) - 1]
        """The one that issues now."""

    @property
    def certificate(self) -> x509.Certificate:
        return self.issuer.certificate

    def unlock(self) -> None:
        """Read the key now; ConfigError if it is not here, or cannot be read."""
        self.issuer.key  # noqa: B018  # reading it raises where it is offline

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
            new_keys: accept other keys than those of the caller's valid certificates, which did not
                sign the request either. Keys of a revoked certificate, whoever's it was, are never
                accepted: somebody may have them.

        Raises:
            ConfigError: the request is malformed or names another caller, or its keys are new or
                those of a revoked certificate.
            UnauthenticatedError: the request names nobody.
        """
        asked = pem.read_request(read_file(request), str(request))
        if asked.caller != caller:
            raise ConfigError(f"{request} asks for certificates of {asked.caller}, not of {caller}")
        self._check_not_lost(asked)
        if not (new_keys or self._is_known(asked)) and any(self.held(caller)):
            raise ConfigError(
                f"{caller} has certificates with other keys than {request}: make sure that the"
                " request is the caller's own, then give --new-keys, or revoke the others first"
            )
        return pem.certificate_pem(*self._issue(asked, lifetime), *self._chain())

    def renew(self, caller: Caller, request: bytes, lifetime: timedelta = LIFETIME) -> Renewed:
        """Issue certificates to a caller that has some, and that signs the request by their key.

        Raises:
            ConfigError: the request is malformed, or its keys are those of a revoked certificate.
            NotPermittedError: it names another caller, or the signing key of none of the caller's
                valid certificates signed it.
        """
        asked = pem.read_request(request, "request_pem")
        if asked.caller != caller:
            raise NotPermittedError(f"{caller} asks for certificates of {asked.caller}")
        self._check_not_lost(asked)
        if not self._is_known(asked):
            raise NotPermittedError(
                f"a renewal must be signed by the signing key of a valid certificate of {caller}"
            )
        issued = self._issue(asked, lifetime)
        return Renewed(
            pem.certificate_pem(*issued, *self._chain()),
            tuple(map(serial_of, issued)),
            issued[0].not_valid_after_utc,
        )

    def _check_not_lost(self, asked: pem.Request) -> None:
        lost = {public_bytes(one) for one in self._certificates() if self._is_revoked(one)}
        if not lost.isdisjoint(map(_raw, (asked.tls, asked.signing))):
            raise ConfigError(
                f"{asked.source} asks for certificates of a key whose certificate was revoked, and"
                f" which is refused for ever: {asked.caller} makes new keys in another folder and"
                " sends their request"
            )

    def _is_known(self, asked: pem.Request) -> bool:
        """Say whether the keys, or the key that signed the request, are of valid certificates."""
        held = [one.public_key() for one in self.held(asked.caller)]
        if {_raw(asked.tls), _raw(asked.signing)} <= set(map(_raw, held)):
            return True
        return any(isinstance(key, Ed25519PublicKey) and asked.is_proven_by(key) for key in held)

    def _issue(self, asked: pem.Request, lifetime: timedelta) -> list[x509.Certificate]:
        uri = x509.UniformResourceIdentifier(caller_uri(asked.caller))
        names = x509.SubjectAlternativeName([uri])
        keys: tuple[tuple[PublicKey, Usage], ...] = (
            (asked.tls, Usage.client),
            (asked.signing, Usage.signing),
        )
        issued = [
            new_certificate(self.certificate, self.issuer.key, key, usage, names, lifetime)
            for key, usage in keys
        ]
        for one in issued:
            file = self.folder / "issued" / f"{serial_of(one)}.pem"
            pem.write(file, pem.certificate_pem(one))
        return issued

    def _chain(self) -> Iterator[x509.Certificate]:
        """Yield all authorities, the issuing one first, and the links between them."""
        for issuer in sorted(self.issuers, key=lambda one: one is not self.issuer):
            yield from issuer.certificates()

    def certify_server(
        self, hosts: Sequence[str] = (), *, lifetime: timedelta = SERVER_LIFETIME
    ) -> None:
        """Make a new key and certificate for the server; no hosts means those that it has.

        Raises:
            ConfigError: a host is malformed, or there are none.
        """
        file = self._server / pem.SERVER_PEM
        names = host_names(hosts) if hosts or not file.exists() else _names_in(file)
        key = pem.new_tls_key()
        certificate = new_certificate(
            self.certificate, self.issuer.key, key.public_key(), Usage.server, names, lifetime
        )
        self.publish()
        # One file, so that no reader combines an old key with a new certificate.
        pem.write(file, pem.key_pem(key) + pem.certificate_pem(certificate))

    def publish(self) -> None:
        """Write the trust bundle and the revocation lists to the server's folder."""
        # A reader of the two wants a list of each authority, and takes no harm from another list.
        lists = b"".join(one.crl.public_bytes(Encoding.PEM) for one in self.issuers)
        pem.write(self._server / pem.CRL_PEM, lists)
        pem.write(self._server / pem.CA_PEM, pem.certificate_pem(*self._chain()))

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
        for issuer in self.issuers:
            issuer.revoke([one for one in chosen if self.issuer_of(one) is issuer])
        self.publish()
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
        return is_revoked(certificate, self.issuer_of(certificate).crl)

    def issuer_of(self, certificate: x509.Certificate) -> issuers.Issuer:
        """Return the authority that issued a certificate."""
        found = issuers.key_identifier(certificate)
        return next(one for one in self.issuers if one.identifier == found)

    def _certificates(self) -> list[x509.Certificate]:
        files = (self.folder / "issued").glob("*.pem")
        found = [one for file in files for one in pem.read_certificates(file)]
        return sorted(found, key=lambda one: (one.not_valid_before_utc, one.serial_number))

    def held(self, caller: Caller | None = None) -> Iterator[x509.Certificate]:
        """Yield the certificates that are valid now, of one caller or of all, oldest first."""
        for one in self._certificates():
            valid = one.not_valid_after_utc > datetime.now(UTC) and not self._is_revoked(one)
            if valid and caller in (None, bearer_of(one)):
                yield one


def _names_in(server_pem: Path) -> x509.SubjectAlternativeName:
    _, certificate = pem.read_server(server_pem)
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def _raw(key: Any) -> bytes:
    raw: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return raw
