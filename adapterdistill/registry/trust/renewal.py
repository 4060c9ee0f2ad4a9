"""Renewal in a credentials folder: new keys wait in `renewal` until certificates for them come.

`certificates.pem` is replaced last, in one step, and whoever reads the folder takes the keys that
belong to it from either place. So a key and a certificate that do not match are never used,
wherever a process ends.
"""

import shutil
from pathlib import Path

from adapterdistill.errors import ConfigError, UnauthenticatedError
from adapterdistill.registry.trust import pem
from adapterdistill.registry.trust.bundle import public_bytes, vouched
from adapterdistill.registry.trust.credentials import Credentials, read_credentials


def begin(folder: Path) -> Path:
    """Make new keys in FOLDER/renewal, and return the request for their certificates.

    The request is signed by the present signing key as well, so that no other than its owner can
    have made it. Keys of a renewal that has begun are kept: an answer may be on its way.

    Raises:
        ConfigError: the folder is unusable, or cannot be written.
    """
    settle(folder)
    own = read_credentials(folder)
    request = pem.request_credentials(folder / pem.RENEWAL, own.caller)
    content = request.read_bytes()
    pem.write(request, content + pem.proof_of(content, own.signing_key))
    return request


def install(folder: Path, certificates: bytes) -> Credentials:
    """Take the certificates that the registry answered to a request of `begin`.

    Raises:
        ConfigError: they are not for the keys of the renewal, or cannot be written; nothing
            changed.
        UnauthenticatedError: they are another caller's or another registry's, or bring an authority
            that none of the trusted ones has signed.
    """
    own, staged = read_credentials(folder), folder / pem.RENEWAL
    pem.write(staged / pem.CERTIFICATES, certificates)
    offered = read_credentials(staged)
    offered.check()
    if (offered.caller, offered.registry) != (own.caller, own.registry):
        raise UnauthenticatedError(
            f"{folder}: the answer is for {offered.caller} at registry {offered.registry}, not for"
            f" {own.caller} at {own.registry}"
        )
    offer = pem.read_certificates(staged / pem.CERTIFICATES)
    known = {public_bytes(one) for one in vouched(own.bundle.authorities, offer)}
    if any(public_bytes(one) not in known for one in offered.bundle.authorities):
        raise UnauthenticatedError(
            f"{folder}: the answer brings an authority that the present one has not signed"
        )
    pem.write(folder / pem.CERTIFICATES, certificates)
    settle(folder)
    return offered


def settle(folder: Path) -> None:
    """Move the keys of FOLDER/renewal to their place if the certificates are for them.

    Raises:
        ConfigError: the folder cannot be written.
    """
    staged = folder / pem.RENEWAL
    if not staged.exists():
        return
    try:
        own = read_credentials(folder)
    except ConfigError:
        return  # whoever reads the folder next says what is wrong
    try:
        for name, public in (
            (pem.TLS_KEY, own.certificate.public_key()),
            (pem.SIGNING_KEY, own.signing_certificate.public_key()),
        ):
            read = pem.read_tls_key if name == pem.TLS_KEY else pem.read_signing_key
            if (staged / name).exists() and read(staged / name).public_key() == public:
                (staged / name).replace(folder / name)
        if not (staged / pem.TLS_KEY).exists():
            shutil.rmtree(staged)
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error.strerror}") from None
