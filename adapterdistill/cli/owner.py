"""`adapterdistill owner ...`: an owner's credentials, whose keys stay with the owner."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from adapterdistill.cli.options import Format, Output
from adapterdistill.cli.registry.authority import Role, caller_named, request_for
from adapterdistill.cli.registry.client import Address, AddressFile, Timeout, connect
from adapterdistill.errors import AuthorityOfflineError, UnauthenticatedError
from adapterdistill.registry.client.renewal import renew as renew_by
from adapterdistill.registry.trust import renewal
from adapterdistill.registry.trust.certificates import left_of, serial_of
from adapterdistill.registry.trust.credentials import Credentials, read_credentials

app = typer.Typer(help="Make, renew and show credentials for a registry.", no_args_is_help=True)
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The credentials folder.")]


@app.command()
def keygen(
    folder: Folder,
    tenant: Annotated[str, typer.Option(metavar="TENANT", help="The tenant to enrol.")],
) -> None:
    """Make keys, which stay in the folder, and a request to send to the registry's operator.

    Existing keys are kept: the request then renews their certificates, even those that have ended.
    """
    request_for(folder, caller_named(Role.owner, tenant))


@app.command()
def renew(
    folder: Folder,
    address: Address = None,
    address_file: AddressFile = None,
    if_due: Annotated[
        bool,
        typer.Option("--if-due", help="Only once less than a third of their time is left."),
    ] = False,
    offline: Annotated[
        bool,
        typer.Option(
            "--offline", help="Only write the request, which the registry's operator signs."
        ),
    ] = False,
    timeout_s: Timeout = 10.0,
) -> None:
    """Renew the certificates in a folder, with new keys; a running client takes them up.

    The registry signs the request, which the present keys prove. If its authority is offline, send
    the request to its operator, and keep the answer as certificates.pem in the folder. An
    operator's or auditor's folder is renewed in the same way.
    """
    if offline:
        typer.echo(_send(renewal.begin(folder), folder))
        return
    with connect(address, address_file, timeout_s, folder) as client:
        try:
            own = renew_by(client, folder, if_due=if_due)
        except AuthorityOfflineError as error:
            request = folder / "renewal" / "request.pem"
            raise AuthorityOfflineError(f"{error}. {_send(request, folder)}") from None
        except UnauthenticatedError:
            _check(read_credentials(folder), folder)
            raise
    typer.echo(f"{folder}: certificates of {own.caller}, {left(own)}")


@app.command()
def show(folder: Folder, output: Output = Format.table) -> None:
    """Show whose credentials these are, and until when; exit code 6 if they are not valid."""
    own = read_credentials(folder)
    now = datetime.now(UTC)
    shown = {
        "name": own.caller.name,
        "role": own.caller.role,
        "registry": own.registry,
        "serial": serial_of(own.certificate),
        "expires": own.certificate.not_valid_after_utc.isoformat(),
        "days_left": max((own.first_to_end.not_valid_after_utc - now).days, 0),
    }
    if output is Format.json:
        typer.echo(json.dumps(shown))
    else:
        typer.echo("\n".join(f"{key:9} {value}" for key, value in shown.items()))
    _check(own, folder)
    if own.is_due(now):
        typer.echo(f"renew them: adapterdistill owner renew {folder}", err=True)


def left(own: Credentials) -> str:
    """Say until when all of the certificates are valid."""
    return left_of(own.first_to_end, datetime.now(UTC))


def _send(request: Path, folder: Path) -> str:
    return (
        f"Send {request} to the registry's operator, and keep the answer as"
        f" {folder / 'certificates.pem'}"
    )


def _check(own: Credentials, folder: Path) -> None:
    """Raise UnauthenticatedError, with the remedy, if the certificates are not valid now."""
    try:
        own.check()
    except UnauthenticatedError as error:
        raise UnauthenticatedError(
            f"{error}. It cannot renew itself any more: run `adapterdistill owner keygen {folder}"
            f" --tenant {own.caller.name}`, and send the request to the registry's operator"
        ) from None
