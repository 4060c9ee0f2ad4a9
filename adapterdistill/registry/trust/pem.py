"""Keys, certificates and requests as PEM files; only their owner can read private keys.

A credentials folder holds `tls.key` (P-256), `signing.key` (ed25519), `request.pem` (a public
certificate request for each key) and `certificates.pem` (the authority's answer: a certificate for
each key, and its own). A server's folder holds `server.pem` (its key and its
certificate), `ca.pem` and `crl.pem`.
"""

import base64
import re
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from adapterdistill.errors import ConfigError
from adapterdistill.files import private_folder, read_file, read_secret, write_file
from adapterdistill.registry.access import Caller
from adapterdistill.registry.trust.certificates import MALFORMED, bearer_of, caller_uri

TLS_KEY = "tls.key"
SIGNING_KEY = "signing.key"
REQUEST = "request.pem"
CERTIFICATES = "certificates.pem"
AUTHORITY_FOLDER = "authority"
SERVER_FOLDER = "server"
SERVER_PEM = "server.pem"
CA_PEM = "ca.pem"
CRL_PEM = "crl.pem"
RENEWAL = "renewal"
"""Folder of a caller's new keys, until the certificates for them are there."""
_PROOF = re.compile(
    rb"-----BEGIN RENEWAL PROOF-----\n([A-Za-z0-9+/=]+)\n-----END RENEWAL PROOF-----"
)
Key = EllipticCurvePrivateKey | Ed25519PrivateKey
write = write_file


def new_tls_key() -> EllipticCurvePrivateKey:
    return generate_private_key(SECP256R1())


def key_pem(key: Key, passphrase: bytes | None = None) -> bytes:
    """A private key as PEM, encrypted where there is a passphrase."""
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def read_passphrase(path: Path) -> bytes:
    """Read a passphrase, without its line end; ConfigError unless only its owner can read it."""
    found = read_secret(path).rstrip(b"\r\n")
    if not found:
        raise ConfigError(f"{path}: expected a passphrase, found nothing")
    return found


def certificate_pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(one.public_bytes(Encoding.PEM) for one in certificates)


def read_tls_key(path: Path, passphrase: bytes | None = None) -> EllipticCurvePrivateKey:
    """Read a P-256 key; ConfigError unless the file holds one that only its owner can read."""
    key = _read_key(path, passphrase)
    if isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1):
        return key
    raise ConfigError(f"{path}: expected a P-256 key")


def read_signing_key(path: Path) -> Ed25519PrivateKey:
    """Read an ed25519 key; ConfigError unless the file holds one that only its owner can read."""
    key = _read_key(path)
    if isinstance(key, Ed25519PrivateKey):
        return key
    raise ConfigError(f"{path}: expected an ed25519 key")


def _read_key(path: Path, passphrase: bytes | None = None) -> object:
    content = read_secret(path)
    try:
        return load_pem_private_key(content, passphrase)
    except MALFORMED:
        if passphrase is not None:
            fault = "wrong passphrase, or not a private key in PEM that this passphrase opens"
        elif b"ENCRYPTED" in content:
            fault = "it is encrypted, and needs its passphrase"
        else:
            fault = "not an unencrypted private key in PEM"
        raise ConfigError(f"{path}: {fault}") from None


def read_certificates(path: Path) -> list[x509.Certificate]:
    """Read certificates; ConfigError unless the file holds at least one in PEM."""
    try:
        return x509.load_pem_x509_certificates(read_file(path))
    except MALFORMED:
        raise ConfigError(f"{path}: no certificates in PEM") from None


def read_crls(path: Path) -> list[x509.CertificateRevocationList]:
    """Read revocation lists, unverified; ConfigError unless the file holds some in PEM."""
    try:
        found = [x509.load_pem_x509_crl(one) for one in _blocks(read_file(path), "X509 CRL")]
    except MALFORMED:
        found = []
    if not found:
        raise ConfigError(f"{path}: no revocation list in PEM")
    return found


def read_crl(path: Path) -> x509.CertificateRevocationList:
    """Read a revocation list, unverified; ConfigError unless the file holds one in PEM."""
    return read_crls(path)[0]


def _blocks(content: bytes, label: str) -> list[bytes]:
    """Split what follows the first block of this kind: each part begins with one."""
    marker = f"-----BEGIN {label}-----".encode()
    return [marker + part for part in content.split(marker)[1:]]


def read_server(path: Path) -> tuple[bytes, x509.Certificate]:
    """Read the key (PEM) and the certificate of a server.pem.

    Raises:
        ConfigError: the file cannot be read, is open to others, or is malformed.
    """
    content = read_secret(path)
    try:
        key = load_pem_private_key(content, None)
        certificate = x509.load_pem_x509_certificate(content)
        if (
            isinstance(key, EllipticCurvePrivateKey)
            and key.public_key() == certificate.public_key()
        ):
            return key_pem(key), certificate
    except MALFORMED:
        pass
    raise ConfigError(f"{path}: expected an unencrypted P-256 key and its certificate in PEM")


def request_credentials(folder: Path, caller: Caller) -> Path:
    """Write the folder's request.pem, which asks an authority for certificates; return its path.

    Keys that exist are kept, so that certificates can be renewed.

    Raises:
        ConfigError: the folder's keys are of another type, or cannot be read or written.
    """
    tls_file, signing_file = folder / TLS_KEY, folder / SIGNING_KEY
    if not tls_file.exists():
        write(tls_file, key_pem(new_tls_key()))
    if not signing_file.exists():
        write(signing_file, key_pem(Ed25519PrivateKey.generate()))
    private_folder(folder)
    requests = (
        _request(caller, read_tls_key(tls_file)),
        _request(caller, read_signing_key(signing_file)),
    )
    write(folder / REQUEST, b"".join(requests))
    return folder / REQUEST


def _request(caller: Caller, key: Key) -> bytes:
    name = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(caller_uri(caller))])
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))  # only the extension names the bearer
        .add_extension(name, critical=False)
        .sign(key, None if isinstance(key, Ed25519PrivateKey) else hashes.SHA256())
    )
    return request.public_bytes(Encoding.PEM)


@dataclass(frozen=True)
class Request:
    """A request for certificates, whose sender has the private keys."""

    source: str
    """Place that it was read from, for messages."""
    caller: Caller
    tls: EllipticCurvePublicKey
    signing: Ed25519PublicKey
    proof: bytes
    """Signature of a renewal by the signing key of before; empty if there is none."""
    proven: bytes
    """What `proof` signs."""

    def is_proven_by(self, key: Ed25519PublicKey) -> bool:
        """Say whether the owner of this key made the request."""
        try:
            key.verify(self.proof, self.proven)
        except InvalidSignature:
            return False
        return True


def read_request(content: bytes, source: str) -> Request:
    """Read a request.pem.

    Raises:
        ConfigError: it is not one that `request_credentials` writes.
        UnauthenticatedError: a request names no caller.
    """
    parts = _blocks(content, "CERTIFICATE REQUEST")
    try:
        requests = [x509.load_pem_x509_csr(part) for part in parts]
        if len(requests) == 2 and all(one.is_signature_valid for one in requests):
            tls, signing = (one.public_key() for one in requests)
            callers = [bearer_of(one) for one in requests]
            if (
                isinstance(tls, EllipticCurvePublicKey)
                and isinstance(tls.curve, SECP256R1)
                and isinstance(signing, Ed25519PublicKey)
                and callers[0] == callers[1]
            ):
                proof = _PROOF.search(content)
                signature = b"" if proof is None else base64.b64decode(proof[1], validate=True)
                signed = _proven(requests)
                return Request(source, callers[0], tls, signing, signature, signed)
    except MALFORMED:
        pass
    raise ConfigError(
        f"{source}: expected two certificate requests of one name, for a P-256 and an ed25519 key"
    )


def proof_of(request: bytes, key: Ed25519PrivateKey) -> bytes:
    """Prove a renewal: a block that follows the request, signed by the signing key of before."""
    requests = [x509.load_pem_x509_csr(one) for one in _blocks(request, "CERTIFICATE REQUEST")]
    signature = base64.b64encode(key.sign(_proven(requests)))
    return b"-----BEGIN RENEWAL PROOF-----\n%s\n-----END RENEWAL PROOF-----\n" % signature


def _proven(requests: list[x509.CertificateSigningRequest]) -> bytes:
    return b"adapterdistill renew v1\n" + b"".join(
        one.public_bytes(Encoding.DER) for one in requests
    )
