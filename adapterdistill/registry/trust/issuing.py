"""Certificates and revocation lists as values, without an authority's files."""

import ipaddress
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import NameOID

from adapterdistill.errors import ConfigError
from adapterdistill.registry.trust.bundle import REGISTRY_URI
from adapterdistill.registry.trust.certificates import Usage

_DNS_NAME = re.compile(r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_])?")
PublicKey = EllipticCurvePublicKey | Ed25519PublicKey
_CLOCK_SKEW = timedelta(minutes=10)
"""A clock that is this late still accepts a new certificate. A statement's time may be off by as
much."""


def subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def host_names(hosts: Iterable[str]) -> x509.SubjectAlternativeName:
    """Make the server's names; ConfigError unless all are DNS names or IP addresses."""
    names: list[x509.GeneralName] = []
    for host in dict.fromkeys(hosts):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            if not _DNS_NAME.fullmatch(host):
                raise ConfigError(f"not a host name or an IP address: {host!r}") from None
            names.append(x509.DNSName(host))
    if not names:
        raise ConfigError("the server needs a name or an address: give --host")
    return x509.SubjectAlternativeName(names)


def new_authority(
    key: EllipticCurvePrivateKey, lifetime: timedelta, registry: str | None = None
) -> x509.Certificate:
    """Make a self-signed authority, which may not certify further authorities.

    Args:
        registry: the registry's name, which the first authority leaves out: its key gives it.
    """
    return _authority(key.public_key(), key, lifetime, registry)


def link(
    authority: x509.Certificate, old: x509.Certificate, old_key: EllipticCurvePrivateKey
) -> x509.Certificate:
    """Certify a new authority by the one that it will replace (`bundle.vouched`)."""
    key, left = authority.public_key(), old.not_valid_after_utc - datetime.now(UTC)
    assert isinstance(key, EllipticCurvePublicKey)
    return _authority(key, old_key, left, None)


def ended(
    authority: x509.Certificate, key: EllipticCurvePrivateKey, at: datetime
) -> x509.Certificate:
    """Make the authority's certificate again, so that it ends at this time."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(authority.subject)
        .issuer_name(authority.issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(authority.not_valid_before_utc, at))
        .not_valid_after(at)
    )
    for extension in authority.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return builder.sign(key, hashes.SHA256())


def _authority(
    key: EllipticCurvePublicKey,
    signer: EllipticCurvePrivateKey,
    lifetime: timedelta,
    registry: str | None,
) -> x509.Certificate:
    name = subject("AdapterDistill registry authority")
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    builder = (
        _builder(name, name, key, lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(issuer, critical=False)
    )
    if registry is not None:
        uri = x509.UniformResourceIdentifier(f"{REGISTRY_URI}{registry}")
        builder = builder.add_extension(x509.SubjectAlternativeName([uri]), critical=False)
    return builder.sign(signer, hashes.SHA256())


def new_certificate(
    ca: x509.Certificate,
    ca_key: EllipticCurvePrivateKey,
    key: PublicKey,
    usage: Usage,
    names: x509.SubjectAlternativeName,
    lifetime: timedelta,
) -> x509.Certificate:
    """Make a certificate for one use, which does not outlive the authority."""
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    lifetime = min(lifetime, ca.not_valid_after_utc - datetime.now(UTC))
    return (
        _builder(subject(usage.name), ca.subject, key, lifetime)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage.value]), critical=True)
        .add_extension(names, critical=False)
        .add_extension(issuer, critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def new_crl(
    ca: x509.Certificate,
    ca_key: EllipticCurvePrivateKey,
    revoked: Iterable[x509.RevokedCertificate],
) -> x509.CertificateRevocationList:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ca.subject)
        .last_update(_now())
        # There is no place to ask for a newer list: this one is valid until the next is written.
        .next_update(max(ca.not_valid_after_utc, _now()))
    )
    for one in revoked:
        builder = builder.add_revoked_certificate(one)
    return builder.sign(ca_key, hashes.SHA256())


def revocation_of(certificate: x509.Certificate) -> x509.RevokedCertificate:
    """Make an entry of a revocation list, valid from now on."""
    builder = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number)
    return builder.revocation_date(_now()).build()


def _builder(
    name: x509.Name, issuer: x509.Name, key: PublicKey, lifetime: timedelta
) -> x509.CertificateBuilder:
    now = _now()
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, now + lifetime) - _CLOCK_SKEW)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
