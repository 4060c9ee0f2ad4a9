"""An authority in memory, and the signing certificates that it gives."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from adapterdistill.registry.access import Caller
from adapterdistill.registry.trust import pem
from adapterdistill.registry.trust.certificates import Usage, caller_uri, verify_certificate
from adapterdistill.registry.trust.issuing import PublicKey, new_authority, new_certificate

LIFETIME = timedelta(days=30)


@dataclass(frozen=True)
class Signer:
    key: Ed25519PrivateKey
    certificate: bytes
    """DER."""


class TestAuthority:
    __test__ = False

    def __init__(self) -> None:
        self._key = pem.new_tls_key()
        self.certificate = new_authority(self._key, 2 * LIFETIME)

    def signer(self, caller: Caller, usage: Usage = Usage.signing) -> Signer:
        key = Ed25519PrivateKey.generate()
        return Signer(key, self.certified(key.public_key(), caller, usage))

    def certified(self, key: PublicKey, caller: Caller, usage: Usage = Usage.signing) -> bytes:
        """A certificate of any key, DER."""
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(caller_uri(caller))])
        made = new_certificate(self.certificate, self._key, key, usage, names, LIFETIME)
        return made.public_bytes(Encoding.DER)

    def certify(self, der: bytes, at: datetime) -> Caller:
        return verify_certificate(der, self.certificate, None, at)
