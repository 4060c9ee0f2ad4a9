"""`adapterdistill registry init|enrol|revoke|...`: who may connect to a registry.

These read and write the authority's folder; no registry needs to run, and one that does takes up
what changed.
"""

import json
from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from adapterdistill.cli.options import Format, Output
from adapterdistill.cli.tables import table
from adapterdistill.errors import ConfigError
from adapterdistill.manifest import is_name
from adapterdistill.registry.access import Caller
from adapterdistill.registry.trust import authority, pem

LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Role(StrEnum):
    """What somebody is to the registry."""

    owner = "owner"
    operator = "operator"
    auditor = "auditor"


Root = Annotated[Path, typer.Option("--root", help="The registry's folder.")]
Bearer = Annotated[Role, typer.Option("--role", help="What the name is to the registry.")]
Hosts = Annotated[
    list[str] | None,
    typer.Option("--host", help="Name or IP address at which clients reach it; repeat for more."),
]
Days = Annotated[int, typer.Option("--days", min=1, max=3650, help="Days until they expire.")]
DAYS = authority.LIFETIME.days


def register(app: typer.Typer) -> None:
    """Adds the commands to `adapterdistill registry`."""
    for command in (init, renew_server, enrol, revoke, certificates, keygen):
        app.command(command.__name__.replace("_", "-"))(command)


def init(root: Root, host: Hosts = None) -> None:
    """Make a private authority, and with it what serving over mutual TLS needs.

    ROOT/authority is for enrolling and revoking: keep it safe. ROOT/server is all that the server
    reads. ROOT/operator holds an operator's credentials. Loopback's names are always among the
    server's, so that its operator can call it from where it runs.
    """
    authority.create(root, [*dict.fromkeys([*(host or ()), *LOOPBACK])])
    typer.echo(
        f"the registry in {root} asks for certificates from now on;"
        f" an operator's credentials are in {root / 'operator'}"
    )


def renew_server(root: Root, host: Hosts = None, days: Days = DAYS) -> None:
    """Give the server a new key and certificate, for the hosts it had if none is named."""
    with authority.opened(root) as opened:
        hosts = [*dict.fromkeys([*host, *LOOPBACK])] if host else []
        opened.certify_server(hosts, lifetime=timedelta(days=days))
    typer.echo("renewed; connections from now on see the new certificate")


def enrol(
    name: Annotated[str, typer.Argument(help="The tenant's, operator's or auditor's name.")],
    root: Root,
    request: Annotated[Path, typer.Option(help="The request.pem that keygen wrote.")],
    out: Annotated[Path, typer.Option(help="Where to write certificates.pem, to send back.")],
    role: Bearer = Role.owner,
    days: Days = DAYS,
    new_keys: Annotated[
        bool, typer.Option("--new-keys", help="The name may have other keys than before.")
    ] = False,
) -> None:
    """Give somebody certificates, or renew them: make sure that the request is theirs."""
    caller = caller_named(role, name)
    with authority.opened(root) as opened:
        given = opened.enrol(caller, request, new_keys=new_keys, lifetime=timedelta(days=days))
    pem.write(out, given)
    typer.echo(f"{out}: certificates of {caller} for {days} days")


def revoke(
    root: Root,
    name: Annotated[str | None, typer.Argument(help="Whose certificates, all of them.")] = None,
    role: Bearer = Role.owner,
    serial: Annotated[
        str | None, typer.Option(help="This one alone; a few digits will do.")
    ] = None,
    output: Output = Format.table,
) -> None:
    """Revoke certificates, for good. Calls are refused at once, on open connections too."""
    if (name is None) == (serial is None):
        raise ConfigError("which certificates? Give either a name or --serial")
    with authority.opened(root) as opened:
        caller = None if name is None else caller_named(role, name)
        _show(opened.revoke(caller, None if serial is None else serial.lower()), output)


def certificates(root: Root, output: Output = Format.table) -> None:
    """List the certificates that were given, oldest first."""
    with authority.opened(root) as opened:
        _show(opened.issued(), output)


def keygen(
    folder: Annotated[Path, typer.Argument(help="Credentials folder to make or to renew.")],
    name: Annotated[str, typer.Option(help="The name to be enrolled by.")],
    role: Bearer = Role.operator,
) -> None:
    """Make keys and a request for an operator or an auditor; the keys stay where they are made."""
    request_for(folder, caller_named(role, name))


def request_for(folder: Path, caller: Caller) -> None:
    """Makes the folder's missing keys and its request, and says what to do with it."""
    request = pem.request_credentials(folder, caller)
    typer.echo(
        f"{request}: send it to the registry's operator, and keep the answer as"
        f" {folder / pem.CERTIFICATES}"
    )


def caller_named(role: Role, name: str) -> Caller:
    """Raises ConfigError unless `name` may name a tenant."""
    if not is_name(name):
        raise ConfigError(
            f"not a name: {name!r}; expected up to 63 of a-z, 0-9, '.', '_' and '-',"
            " with a letter or a digit at either end"
        )
    return Caller(role.value, name)


def _show(issued: Sequence[authority.Issued], output: Format) -> None:
    rows = [
        {
            "name": one.caller.name,
            "role": one.caller.role,
            "use": one.usage.name,
            "serial": one.serial,
            "expires": one.expires.isoformat(),
            "revoked": one.revoked,
        }
        for one in issued
    ]
    if output is Format.json:
        typer.echo(json.dumps(rows, indent=2))
        return
    shown = table("name", "role", "use", "serial", "expires", "revoked")
    for one in issued:
        cells = (
            one.caller.name,
            one.caller.role,
            one.usage.name,
            one.serial[:12],
            f"{one.expires:%Y-%m-%d %H:%M}",
            "revoked" if one.revoked else "",
        )
        shown.add_row(*map(Text, cells))
    Console().print(shown)
