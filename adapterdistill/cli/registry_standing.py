"""`adapterdistill registry consent|withdraw|release|watch`: who may learn from an adapter."""

import json
from typing import Annotated

import typer

from adapterdistill.cli.options import Format, Output
from adapterdistill.cli.registry_client import (
    Address,
    AddressFile,
    CredentialsFolder,
    Name,
    Timeout,
    connect,
    resolve,
)
from adapterdistill.errors import ConfigError
from adapterdistill.registry.access import EVERYONE, NOBODY, Consent
from adapterdistill.registry.wire import parse_adapter_name

AdapterName = Annotated[str, typer.Argument(help="tenants/T/adapters/A")]


def register(app: typer.Typer) -> None:
    """Add the commands to `adapterdistill registry`."""
    for command in (consent, withdraw, release, watch):
        app.command()(command)


def consent(
    adapter: AdapterName,
    everyone: Annotated[bool, typer.Option("--everyone", help="All tenants.")] = False,
    nobody: Annotated[bool, typer.Option("--nobody", help="No other tenant.")] = False,
    tenant: Annotated[
        list[str] | None, typer.Option(help="This tenant; may be given several times.")
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
    reason: Annotated[str, typer.Option(help="Shown to whoever asks for the version.")],
    address: Address = None,
    address_file: AddressFile = None,
    credentials: CredentialsFolder = None,
    timeout_s: Timeout = 10.0,
    output: Output = Format.table,
) -> None:
    """Take a version back for ever: it is listed, fetched and served no more.

    Those that learnt from it, at any depth, are marked and printed.
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


def release(
    name: Name,
    address: Address = None,
    address_file: AddressFile = None,
    credentials: CredentialsFolder = None,
    timeout_s: Timeout = 10.0,
) -> None:
    """Let a version out of quarantine; for operators. `show` tells why it is there."""
    with connect(address, address_file, timeout_s, credentials) as client:
        ref = resolve(client, name)
        client.release(ref)
    typer.echo(f"{ref.name}: active")


def watch(
    after_revision: Annotated[
        int, typer.Option("--after", min=0, help="The last revision seen; 0 tells all.")
    ] = 0,
    adapter: Annotated[
        list[str] | None, typer.Option(help="tenants/T/adapters/A only; may be repeated.")
    ] = None,
    address: Address = None,
    address_file: AddressFile = None,
    credentials: CredentialsFolder = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds without the registry to give up.")
    ] = 60.0,
    output: Output = Format.table,
) -> None:
    """Print every change that you may see, a line each, until Ctrl-C."""
    adapters = [parse_adapter_name(name) for name in adapter or []]
    with connect(address, address_file, timeout_s, credentials) as client:
        for change in client.watch(after_revision, adapters):
            if output is Format.json:
                typer.echo(json.dumps(vars(change)))
                continue
            more = " ".join(filter(None, (change.other_name, change.reason)))
            typer.echo(f"{change.revision:>8}  {change.kind:<17}  {change.name}  {more}".rstrip())
