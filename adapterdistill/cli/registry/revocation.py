"""`adapterdistill registry revoke`: ends certificates, and says what becomes of their versions."""

from pathlib import Path
from typing import Annotated

import typer

from adapterdistill.cli.options import Format, Output
from adapterdistill.cli.registry.authority import (
    Bearer,
    Passphrase,
    Role,
    Root,
    caller_named,
    show_certificates,
)
from adapterdistill.cli.registry.client import (
    Address,
    AddressFile,
    CredentialsFolder,
    Timeout,
    connect,
)
from adapterdistill.errors import ConfigError
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.trust import authority
from adapterdistill.registry.upkeep import enrolments
from adapterdistill.registry.upkeep.fsck import tenant_versions

REASON = "its owner's certificates were revoked"


def register(app: typer.Typer) -> None:
    """Add the command to `adapterdistill registry`."""
    app.command()(revoke)


def revoke(
    root: Root,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Revoke all of this name.")
    ] = None,
    role: Bearer = Role.owner,
    serial: Annotated[
        str | None,
        typer.Option(metavar="DIGITS", help="Revoke the one whose serial begins so."),
    ] = None,
    withdraw: Annotated[
        bool,
        typer.Option("--withdraw", help="Withdraw all versions of the owner, too, for ever."),
    ] = False,
    reason: Annotated[
        str, typer.Option(metavar="REASON", help="Why they are withdrawn; shown to everyone.")
    ] = REASON,
    address: Address = None,
    address_file: AddressFile = None,
    credentials: CredentialsFolder = None,
    timeout_s: Timeout = 10.0,
    passphrase_file: Passphrase = None,
    output: Output = Format.table,
) -> None:
    """Revoke certificates for ever. Their calls are refused at once, even on open connections.

    What an owner has published stays: others still see and fetch it. --withdraw ends that, through
    the running registry at --address, by the credentials in ROOT/operator or in --credentials. It
    may be given later, in a second call.
    """
    if (name is None) == (serial is None):
        raise ConfigError("which certificates? Give either a name or --serial")
    if withdraw and (name is None or role is not Role.owner):
        raise ConfigError("--withdraw is for an owner: give its name, without --serial")
    own = root / "operator"
    credentials = credentials or (own if own.exists() else None)
    client = connect(address, address_file, timeout_s, credentials) if withdraw else None
    with authority.opened(root, passphrase_file) as opened, enrolments.opened(root) as log:
        caller = None if name is None else caller_named(role, name)
        before = {one.serial for one in opened.issued() if one.revoked}
        revoked = opened.revoke(caller, None if serial is None else serial.lower())
        log.revoked(one for one in revoked if one.serial not in before)
    show_certificates(revoked, output)
    if name is None or role is not Role.owner:
        return
    if client is not None:
        with client:
            _withdraw_all(client, name, reason)
    else:
        _say_what_stays(root, name)


def _withdraw_all(client: RegistryClient, tenant: str, reason: str) -> None:
    published = [one.ref for one in client.list(tenant=tenant, latest_only=False)]
    for ref in published:
        marked = client.withdraw(ref, reason)
        _say(f"{ref.name}: withdrawn; {len(marked)} versions learnt from it")
    if not published:
        _say(f"{tenant} has no version to withdraw")


def _say_what_stays(root: Path, tenant: str) -> None:
    again = f"adapterdistill registry revoke {tenant} --root {root} --withdraw --address HOST:PORT"
    try:
        stays = tenant_versions(root, tenant)
    except ConfigError:  # the registry is elsewhere
        _say(
            f"what {tenant} has published stays until it is withdrawn:"
            f" `adapterdistill registry list --tenant {tenant}` lists it, `{again}` withdraws it"
        )
        return
    for version in stays:
        _say(f"{version}: still published")
    if stays:
        _say(f"others may still fetch what is published; to withdraw it: {again}")
    else:
        _say(f"{tenant} has nothing published")


def _say(line: str) -> None:
    """Print on stderr, so that stdout holds the certificates alone."""
    typer.echo(line, err=True)
