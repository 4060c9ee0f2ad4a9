"""Rotation of the authority with overlap: a successor is trusted first, issues next, stands alone.

`begin` puts the successor into everyone's trust bundle, as they renew. `switch` lets it issue, once
everyone trusts it. `drop` ends the one before, once nobody has certificates of it; what was signed
by these before stays valid. No call is refused meanwhile.
"""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime

from cryptography import x509

from adapterdistill.errors import ConfigError, listed
from adapterdistill.files import read_file
from adapterdistill.registry.trust import issuers, pem
from adapterdistill.registry.trust.authority import CA_LIFETIME, Authority
from adapterdistill.registry.trust.bundle import registry_of
from adapterdistill.registry.trust.certificates import bearer_of, serial_of
from adapterdistill.registry.trust.issuing import ended, link, new_authority


def begin(authority: Authority) -> None:
    """Make a successor that everyone trusts from their next renewal on, and that issues nothing.

    Raises:
        ConfigError: an earlier rotation has not ended, or the authority's key cannot be read.
    """
    old, number = authority.issuer, len(authority.issuers) + 1
    if authority.issuers[-1] is not old or not all(one.is_ended for one in _before(authority)):
        raise ConfigError("a rotation has begun already: end it with `switch` and `drop`")
    key = pem.new_tls_key()
    certificate = new_authority(key, CA_LIFETIME, registry_of(old.certificate))
    linked = link(certificate, old.certificate, old.key)
    staged = authority.folder / ".next"
    shutil.rmtree(staged, ignore_errors=True)
    issuers.write_issuer(staged, key, certificate, authority.passphrase)
    pem.write(staged / issuers.LINK, pem.certificate_pem(linked))
    known = "".join(f"{one.serial}\n" for one in authority.issued())
    pem.write(staged / issuers.BEFORE, known.encode())
    staged.chmod(0o700)
    staged.rename(authority.folder / str(number))
    authority.reread()
    authority.publish()


def switch(authority: Authority, *, force: bool = False) -> None:
    """Let the successor issue, also the server's certificate.

    Raises:
        ConfigError: no rotation has begun; or, without `force`, a caller has not renewed since, and
            could not verify the server any more.
    """
    successor = authority.issuers[-1]
    if successor is authority.issuer:
        raise ConfigError("no rotation has begun: `begin` makes a successor")
    before = set(read_file(successor.folder / issuers.BEFORE).decode().split())
    _wait_for(
        authority,
        lambda one: serial_of(one) not in before,
        "callers that do not trust the successor yet: wait until they renew, renew them, or give"
        " --force",
        force=force,
    )
    issuers.let_issue(authority.folder, len(authority.issuers))
    authority.reread()
    authority.certify_server()


def drop(authority: Authority, *, force: bool = False) -> None:
    """End the authorities before the one that issues: their certificates admit nobody any more.

    Raises:
        ConfigError: there is none to end; or, without `force`, a caller has valid certificates of
            it only, and would be refused.
    """
    old = [one for one in _before(authority) if not one.is_ended]
    if not old:
        raise ConfigError("no earlier authority is left to drop: `begin` and `switch` come first")
    _wait_for(
        authority,
        lambda one: authority.issuer_of(one) not in old,
        "callers whose certificates are of the old authority: wait until they renew, renew them, or"
        " give --force",
        force=force,
    )
    now = datetime.now(UTC).replace(microsecond=0)
    for one in old:
        pem.write(
            one.folder / pem.CA_PEM, pem.certificate_pem(ended(one.certificate, one.key, now))
        )
    authority.reread()
    authority.publish()


def _before(authority: Authority) -> list[issuers.Issuer]:
    return authority.issuers[: authority.issuers.index(authority.issuer)]


def _wait_for(
    authority: Authority, is_new: Callable[[x509.Certificate], bool], what: str, *, force: bool
) -> None:
    """Raise ConfigError, unless `force`, if a caller has valid certificates but no new ones."""
    held = [*authority.held()]
    late = {bearer_of(one) for one in held} - {bearer_of(one) for one in held if is_new(one)}
    if late and not force:
        raise ConfigError(listed(what, sorted(map(str, late))))
