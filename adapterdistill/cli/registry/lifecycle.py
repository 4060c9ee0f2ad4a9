"""`registry alias|consent|withdraw|release-from-quarantine|watch`: lifecycle commands."""

import json
from typing import Annotated

import typer

from adapterdistill.cli.options import Format, Output
from adapterdistill.cli.registry.client import (
    Address,
    AddressFile,
    CredentialsFolder,
    Name,
    Timeout,
    connect,
    resolve,
)
from adapterdistill.errors import ConfigError, NotFoundError
from adapterdistill.registry.access import EVERYONE, NOBODY, Consent
from adapterdistill.registry.wire import alias_name, parse_adapter_name

AdapterName = Annotated[str, typer.Argument(metavar="ADAPTER", help="tenants/T/adapters/A")]


def register(app: typer.Typer) -> None:
    """Add the commands to `adapterdistill registry`."""
    for command in (alias, consent, withdraw, watch):
        app.command()(command)
    app.command("release-from-quarantine")(release_from_quarantine)
    app.command("release", hidden=True)(release_from_quarantine)  # the name until 0.1.0


def alias(
    name: Name,
    alias: Annotated[str, typer.Argument(help="The alias, such as live.")],
    address: Address = None,
    address_file: AddressFile = None,
    credentials: CredentialsFolder = None,
    timeout_s: Timeout = 10.0,
) -> None:
    """Give a version of yours an alias, or move the alias to it.

    Others may then name the version by it. What a tenant is served by is not changed: see
    `adapterdistill release`.
    """
    with connect(address, address_file, timeout_s, credentials) as client:
        ref = resolve(client, name)
        try:
            _, etag = client.resolve_alias(ref.tenant, ref.adapter, alias)
        except NotFoundError:
            client.set_alias(ref, alias)
        else:
            client.set_alias(ref, alias, etag)
    typer.echo(f"{alias_name(ref.tenant, ref.adapter, alias)}: {ref.name}")


def consent(
    adapter: AdapterName,
    everyone: Annotated[bool, typer.Option("--everyone", help="All tenants.")] = False,
    nobody: Annotated[bool, typer.Option("--nobody", help="No other tenant.")] = False,
    tenant: Annotated[
        list[str] | None,
        typer.Option(metavar="TENANT", help="This tenant; may be given several times."),
    ] = None,
    address: Address = None,
    address_file: AddressFile = None,
    credentials: CredentialsFolder = None,
    timeout_s: Timeout = 10.0,
) -> None:
    """Say which tenants may see your adapter and learn from it, from now on."""
    allowed = _consent(everyone, nobody, tenant or [])
    owner, name = parse_adapter_name(adapter)
    with connect(address, address_file, timeout_s, credentials) as client:
        client.set_consent(owner, name, allowed)
    shown = "everyone" if allowed == EVERYONE else ", ".join(sorted(allowed)) or "nobody"
    typer.echo(f"{adapter}: shared with {shown}")


def _consent(everyone: bool, nobody: bool, tenants: list[str]) -> Consent:
    if everyone + nobody + bool(tenants) != 1:
        raise ConfigError("give one of --everyone, --nobody and --tenant")
    if everyone:
        return EVERYONE
    return frozenset(tenants) if tenants else NOBODY


def withdraw(
    name: Name,
    reason: Annotated[
        str, typer.Option(metavar="REASON", help="Why; shown to everyone who asks for it.")
    ],
    address: Address = None,
    address_file: AddressFile = None,
    credentials: CredentialsFolder = None,
    timeout_s: Timeout = 10.0,
    output: Output = Format.table,
) -> None:
    """Withdraw a version for ever: it cannot be listed, fetched or served any more.

    All versions that learnt from it, at any depth, are marked and printed.
    """
    with connect(address, address_file, timeout_s, credentials) as client:
        ref = resolve(client, name)
        marked = client.withdraw(ref, reason)
    if output is Format.json:
        found = {one.ref.name: one.depth for one in marked}
        typer.echo(json.dumps({"name": ref.name, "marked": found}))
        return
    typer.echo(f"{ref.name}: withdrawn")
    for one in marked:
        typer.echo(f"  learnt from it at depth {one.depth}: {one.ref.name}")


def release_from_quarantine(
    name: Name,
    address: Address = None,
    address_file: AddressFile = None,
    credentials: CredentialsFolder = None,
    timeout_s: Timeout = 10.0,
) -> None:
    """Release a version from quarantine; for operators. `show` prints why it is there."""
    with connect(address, address_file, timeout_s, credentials) as client:
        ref = resolve(client, name)
        client.release_from_quarantine(ref)
    typer.echo(f"{ref.name}: active")


def watch(
    after_revision: Annotated[
        int,
        typer.Option(
            "--after", min=0, metavar="REVISION", help="The last revision seen; 0 prints all."
        ),
    ] = 0,
    adapter: Annotated[
        list[str] | None,
        typer.Option(metavar="ADAPTER", help="Only tenants/T/adapters/A; may be repeated."),
    ] = None,
    address: Address = None,
    address_file: AddressFile = None,
    credentials: CredentialsFolder = None,
    timeout_s: Annotated[
        float,
        typer.Option(
            "--timeout", min=0.1, metavar="SECONDS", help="Give up after this long out of reach."
        ),
    ] = 60.0,
    output: Output = Format.table,
) -> None:
    """Print every event that you may see, one on each line, until Ctrl-C."""
    adapters = [parse_adapter_name(name) for name in adapter or []]
    with connect(address, address_file, timeout_s, credentials) as client:
        for event in client.watch(after_revision, adapters):
            if output is Format.json:
                typer.echo(json.dumps(vars(event)))
                continue
            more = " ".join(filter(None, (event.other_name, event.reason)))
            typer.echo(f"{event.revision:>8}  {event.kind:<17}  {event.name}  {more}".rstrip())
