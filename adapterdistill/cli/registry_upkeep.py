"""`adapterdistill registry audit|backup|restore|fsck`: on a registry's files, served or not."""

import dataclasses
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from adapterdistill.cli.options import Format, Output
from adapterdistill.cli.tables import table
from adapterdistill.errors import AuditBrokenError, ConfigError, IntegrityError
from adapterdistill.registry.upkeep import backup as backups
from adapterdistill.registry.upkeep import fsck as check
from adapterdistill.registry.upkeep.audit_verify import LOG, examine, read_public_key

audit_app = typer.Typer(help="Verify and read the audit log.", no_args_is_help=True)
LogPath = Annotated[
    Path, typer.Argument(help="The log, or the folder of a registry or of a backup.")
]
PublicKeys = Annotated[
    list[Path] | None,
    typer.Option(
        "--public-key",
        help="A copy of the registry's audit/public.pem, kept elsewhere; may be repeated."
        " Without it, the keys that the log itself names are taken.",
    ),
]


@audit_app.command("verify")
def audit_verify(
    path: LogPath,
    public_key: PublicKeys = None,
    head: Annotated[
        str | None,
        typer.Option(help="sha256 that an earlier verification ended with: shows a cut end."),
    ] = None,
    output: Output = Format.table,
) -> None:
    """Whether the audit log is as it was written; names the first line that is not.

    Ends with 10 where it is not.
    """
    if head is not None and re.fullmatch("[0-9a-f]{64}", head) is None:
        raise ConfigError("--head must be the 64 hexadecimal digits of a sha256")
    keys = None if not public_key else [read_public_key(one) for one in public_key]
    log = _log_in(path)
    found = examine(log, trusted=keys, head=head)
    if output is Format.json:
        typer.echo(json.dumps(dataclasses.asdict(found), indent=2))
    if found.fault is not None:
        raise AuditBrokenError(f"{log.name} {found.fault}")
    if output is Format.table:
        by = "by the keys given" if keys else "by the keys that it names itself (no --public-key)"
        typer.echo(
            f"{found.records} records up to change {found.revision} are as they were written;"
            f" the first {found.signed_records} are signed, {by}"
        )
        typer.echo(f"head {found.head}")


@audit_app.command("show")
def audit_show(
    path: LogPath,
    last: Annotated[int, typer.Option(min=1, help="How many of the newest lines.")] = 50,
    output: Output = Format.table,
) -> None:
    """Show the newest lines of the audit log, unverified."""
    records = list(_newest(_log_in(path), last))
    if output is Format.json:
        typer.echo(json.dumps(records, indent=2))
        return
    shown = table("line", "time", "caller", "what", "of")
    for record in records:
        when = datetime.fromtimestamp(record["time_ns"] / 1e9, UTC)
        what = [record["kind"], record.get("call"), record.get("reason")]
        of = [record.get("name"), record.get("other_name")]
        cells = (
            str(record["number"]),
            f"{when:%F %T}",
            record.get("caller", ""),
            "\n".join(filter(None, what)),
            "\n".join(filter(None, of)),
        )
        shown.add_row(*map(Text, cells))
    Console().print(shown)


def _newest(log: Path, count: int) -> Iterator[dict[str, Any]]:
    try:
        lines = log.read_bytes().splitlines()
        yield from (json.loads(line) for line in islice(lines, max(0, len(lines) - count), None))
    except OSError as error:
        raise ConfigError(f"cannot read the audit log {log}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise AuditBrokenError(f"{log.name}: one of the newest lines is no record") from None


def _log_in(path: Path) -> Path:
    found = next((one for one in (path / "audit" / LOG, path / LOG) if one.is_file()), path)
    if found.exists() and not found.is_file():
        raise ConfigError(f"{path}: expected an audit log, or a folder that holds one")
    return found


def backup(
    root: Annotated[Path, typer.Argument(help="The registry's folder; it may be served.")],
    target: Annotated[Path, typer.Argument(help="A new folder.")],
    output: Output = Format.table,
) -> None:
    """Copy what the registry holds at one moment, checked, into a new folder.

    Keys are not copied: keep ROOT/authority, ROOT/server and ROOT/audit.key apart.
    """
    _tell(backups.backup(root, target), f"{root} is backed up in {target}", output)


def restore(
    source: Annotated[Path, typer.Argument(help="A backup.")],
    root: Annotated[Path, typer.Argument(help="The registry's new folder.")],
    output: Output = Format.table,
) -> None:
    """Make a registry's folder from a backup, all of which is verified first.

    If it served TLS, put ROOT/server back before serving, with the newest list of revocations.
    """
    contents = backups.restore(source, root)
    _tell(contents, f"{source} is restored in {root}", output)
    if contents.served_tls and output is Format.table:
        typer.echo(f"put {root / 'server'} back before you serve it: backups hold no keys")


def _tell(contents: backups.Contents, done: str, output: Format) -> None:
    if output is Format.json:
        shown = contents.model_dump(mode="json", exclude={"files"})
        typer.echo(json.dumps(shown | {"bytes": contents.size}, indent=2))
        return
    typer.echo(
        f"{done}: {contents.versions} versions up to change {contents.revision}, of"
        f" {contents.time}, {contents.size} bytes; head of the audit log {contents.audit_head}"
    )


def fsck(
    root: Annotated[Path, typer.Argument(help="A registry's folder, or a backup.")],
    output: Output = Format.table,
) -> None:
    """Check index, payloads, manifests, lineage and audit log against each other.

    Ends with 10 where they do not agree.
    """
    checked = check.fsck(root)
    if output is Format.json:
        typer.echo(json.dumps(dataclasses.asdict(checked), indent=2))
    elif checked.findings:
        shown = table("what", "of", "detail")
        for one in checked.findings:
            shown.add_row(one.kind, Text(one.name), Text(one.detail))
        Console().print(shown)
    else:
        typer.echo(
            f"{checked.versions} versions, {checked.payloads} payloads of"
            f" {checked.payload_bytes} bytes, change {checked.revision}: all is well"
        )
    if checked.findings:
        raise IntegrityError(f"{root}: {len(checked.findings)} findings")


def register(app: typer.Typer) -> None:
    """Adds the commands to those of `adapterdistill registry`."""
    app.add_typer(audit_app, name="audit")
    for command in (backup, restore, fsck):
        app.command()(command)
