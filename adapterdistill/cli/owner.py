"""`adapterdistill owner ...`: make and show an owner's credentials, which stay with the owner."""

import json
from pathlib import Path
from typing import Annotated

import typer

from adapterdistill.cli.options import Format, Output
from adapterdistill.cli.registry.authority import Role, caller_named, request_for
from adapterdistill.registry.trust.certificates import serial_of
from adapterdistill.registry.trust.credentials import read_credentials

app = typer.Typer(help="Make and show credentials for a registry.", no_args_is_help=True)
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The credentials folder.")]


@app.command()
def keygen(
    folder: Folder,
    tenant: Annotated[str, typer.Option(metavar="TENANT", help="The tenant to enrol.")],
) -> None:
    """Make keys, which stay in the folder, and a request to send to the registry's operator.

    Existing keys are kept: the request then renews their certificates.
    """
    request_for(folder, caller_named(Role.owner, tenant))


@app.command()
def show(folder: Folder, output: Output = Format.table) -> None:
    """Show whose credentials these are, and until when; exit code 6 if they are not valid."""
    own = read_credentials(folder)
    shown = {
        "name": own.caller.name,
        "role": own.caller.role,
        "serial": serial_of(own.certificate),
        "expires": own.certificate.not_valid_after_utc.isoformat(),
    }
    if output is Format.json:
        typer.echo(json.dumps(shown))
    else:
        typer.echo("\n".join(f"{key:8} {value}" for key, value in shown.items()))
    own.check()
