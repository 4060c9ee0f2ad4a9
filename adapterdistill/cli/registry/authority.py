"""`adapterdistill registry init|enrol|...`: commands of a registry's certificate authority.

They read and write the authority's folder. No registry needs to run; one that runs notices the
changes.
"""

import json
from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from adapterdistill.cli.options import Format, Output
from adapterdistill.cli.tables import print_table
from adapterdistill.errors import ConfigError
from adapterdistill.manifest import is_name
from adapterdistill.registry.access import Caller
from adapterdistill.registry.trust import authority, pem, rotation
from adapterdistill.registry.upkeep import enrolments

LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Role(StrEnum):
    """A role at the registry."""

    owner = "owner"
    operator = "operator"
    auditor = "auditor"


Root = Annotated[Path, typer.Option("--root", metavar="FOLDER", help="The registry's folder.")]
Bearer = Annotated[Role, typer.Option("--role", help="The role of the name.")]
Hosts = Annotated[
    list[str] | None,
    typer.Option(
        "--host", metavar="HOST", help="Name or IP address of the server; may be repeated."
    ),
]
Days = Annotated[
    int,
    typer.Option("--days", min=1, max=3650, metavar="DAYS", help="Days until they expire."),
]
Passphrase = Annotated[
    bytes | None,
    typer.Option(
        "--passphrase-file",
        envvar="ADAPTERDISTILL_AUTHORITY_PASSPHRASE_FILE",
        metavar="FILE",
        parser=lambda path: pem.read_passphrase(Path(path)),
        help="Holds the passphrase of the authority's key, if it is encrypted.",
    ),
]
DAYS = authority.LIFETIME.days
SERVER_DAYS = authority.SERVER_LIFETIME.days


class Step(StrEnum):
    """A step of a rotation, in their order."""

    begin = "begin"
    switch = "switch"
    drop = "drop"


def register(app: typer.Typer) -> None:
    """Add the commands to `adapterdistill registry`."""
    for command in (init, renew_server, rotate_authority, enrol, certificates, keygen):
        app.command(command.__name__.replace("_", "-"))(command)


def init(root: Root, host: Hosts = None, passphrase_file: Passphrase = None) -> None:
    """Make a private authority, and the files that serving over mutual TLS needs.

    The folder authority is for enrolling and revoking: keep it safe, best on a machine of its own,
    and its key encrypted. The server reads only the
    folder server. The folder operator holds an operator's credentials. The server's certificate
    always includes the names of loopback, so that its operator can call it on its machine.
    """
    hosts = [*dict.fromkeys([*(host or ()), *LOOPBACK])]
    authority.create(root, hosts, passphrase=passphrase_file)
    with authority.opened(root) as opened, enrolments.opened(root) as log:
        log.enrolled(opened.issued())
    typer.echo(
        f"the registry in {root} asks for certificates from now on;"
        f" an operator's credentials are in {root / 'operator'}"
    )


def renew_server(
    root: Root, host: Hosts = None, days: Days = SERVER_DAYS, passphrase_file: Passphrase = None
) -> None:
    """Make a new key and certificate for the server, by default for the same hosts."""
    with authority.opened(root, passphrase_file) as opened:
        hosts = [*dict.fromkeys([*host, *LOOPBACK])] if host else []
        opened.certify_server(hosts, lifetime=timedelta(days=days))
    typer.echo("renewed; new connections see the new certificate")


def rotate_authority(
    step: Annotated[Step, typer.Argument(metavar="STEP", help="begin, switch or drop.")],
    root: Root,
    force: Annotated[
        bool,
        typer.Option("--force", help="Go on, although named callers will be refused."),
    ] = False,
    passphrase_file: Passphrase = None,
) -> None:
    """Replace the authority while everyone keeps working, in three steps.

    begin makes a successor, which callers trust from their next renewal on. switch lets it issue,
    once all of them have renewed. drop ends the old one, once all have certificates of the new.
    """
    with authority.opened(root, passphrase_file) as opened:
        if step is Step.begin:
            rotation.begin(opened)
        else:
            {Step.switch: rotation.switch, Step.drop: rotation.drop}[step](opened, force=force)
    typer.echo(
        {
            Step.begin: "the successor is in the trust bundle; next, once all have renewed: switch",
            Step.switch: "the successor issues from now on; next, once all have renewed: drop",
            Step.drop: "the old authority has ended; certificates of it are refused",
        }[step]
    )


def enrol(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the tenant, operator or auditor.")
    ],
    root: Root,
    request: Annotated[
        Path, typer.Option(metavar="FILE", help="The request.pem that keygen wrote.")
    ],
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="The certificates.pem to write and send back.")
    ],
    role: Bearer = Role.owner,
    days: Days = DAYS,
    new_keys: Annotated[
        bool, typer.Option("--new-keys", help="Accept other keys than before.")
    ] = False,
    passphrase_file: Passphrase = None,
) -> None:
    """Issue or renew certificates. Make sure first that the request is the named one's."""
    caller = caller_named(role, name)
    with authority.opened(root, passphrase_file) as opened, enrolments.opened(root) as log:
        before = opened.issued()
        issued = opened.enrol(caller, request, new_keys=new_keys, lifetime=timedelta(days=days))
        log.enrolled([one for one in opened.issued() if one not in before])
    pem.write(out, issued)
    typer.echo(f"{out}: certificates of {caller} for {days} days")


def certificates(root: Root, output: Output = Format.table) -> None:
    """List the issued certificates, oldest first."""
    with authority.opened(root) as opened:
        show_certificates(opened.issued(), output)


def keygen(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Credentials folder to make or renew.")
    ],
    name: Annotated[str, typer.Option(metavar="NAME", help="The name to enrol.")],
    role: Bearer = Role.operator,
) -> None:
    """Make keys and a request for an operator or an auditor. The keys stay in the folder."""
    request_for(folder, caller_named(role, name))


def request_for(folder: Path, caller: Caller) -> None:
    """Make the folder's missing keys and its request, and print what to do with it."""
    request = pem.request_credentials(folder, caller)
    typer.echo(
        f"{request}: send it to the registry's operator, and keep the answer as"
        f" {folder / pem.CERTIFICATES}"
    )


def caller_named(role: Role, name: str) -> Caller:
    """Make the caller; raises ConfigError for a malformed name."""
    if not is_name(name):
        raise ConfigError(
            f"not a name: {name!r}; expected up to 63 of a-z, 0-9, '.', '_' and '-',"
            " with a letter or a digit at either end"
        )
    return Caller(role.value, name)


def show_certificates(issued: Sequence[authority.Issued], output: Format) -> None:
    """Print certificates as a table or as JSON."""
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
    print_table(
        {
            "name": [one.caller.name for one in issued],
            "role": [one.caller.role for one in issued],
            "use": [one.usage.name for one in issued],
            "serial": [one.serial[:12] for one in issued],
            "expires": [f"{one.expires:%Y-%m-%d %H:%M}" for one in issued],
            "revoked": ["revoked" if one.revoked else "" for one in issued],
        },
        optional=("use",),
    )
