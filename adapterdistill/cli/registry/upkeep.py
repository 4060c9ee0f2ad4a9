"""`adapterdistill registry audit|backup|restore|migrate|fsck`: work on a registry's files."""

import dataclasses
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from adapterdistill.cli.options import Format, Output
from adapterdistill.cli.tables import print_table
from adapterdistill.errors import AuditBrokenError, ConfigError, IntegrityError
from adapterdistill.registry.upkeep import backup as backups
from adapterdistill.registry.upkeep import fsck as check
from adapterdistill.registry.upkeep.audit_verify import LOG, examine, read_public_key

audit_app = typer.Typer(help="Verify and read the audit log.", no_args_is_help=True)
LogPath = Annotated[
    Path,
    typer.Argument(
        metavar="PATH",
        help="The log, or the folder of a registry, of a backup or of an authority.",
    ),
]
PublicKeys = Annotated[
    list[Path] | None,
    typer.Option(
        "--public-key",
        metavar="FILE",
        help="A copy of the registry's audit/public.pem, kept elsewhere; may be repeated."
        " Without it, the keys that the log itself names are accepted.",
    ),
]


@audit_app.command("verify")
def audit_verify(
    path: LogPath,
    public_key: PublicKeys = None,
    head: Annotated[
        str | None,
        typer.Option(
            metavar="SHA256",
            help="The head that an earlier verification printed: shows a cut end.",
        ),
    ] = None,
    output: Output = Format.table,
) -> None:
    """Verify that the audit log is unchanged; name the first line that was changed.

    The exit code is 10 if a line was changed.
    """
    if head is not None and re.fullmatch("[0-9a-f]{64}", head) is None:
        raise ConfigError("--head must be the 64 hexadecimal digits of a sha256")
    keys = None if not public_key else [read_public_key(one) for one in public_key]
    log = log_in(path)
    found = examine(log, trusted=keys, head=head)
    if output is Format.json:
        typer.echo(json.dumps(dataclasses.asdict(found), indent=2))
    if found.fault is not None:
        raise AuditBrokenError(f"{log.name} {found.fault}")
    if output is Format.table:
        signers = "by the given keys" if keys else "by keys that the log names (no --public-key)"
        typer.echo(
            f"{found.records} records up to event {found.revision} are unchanged;"
            f" the first {found.signed_records} are signed {signers}"
        )
        typer.echo(f"head {found.head}")


@audit_app.command("show")
def audit_show(
    path: LogPath,
    last: Annotated[int, typer.Option(min=1, metavar="COUNT", help="Number of lines.")] = 50,
    output: Output = Format.table,
) -> None:
    """Show the newest lines of the audit log, without verifying them."""
    records = list(_newest(log_in(path), last))
    if output is Format.json:
        typer.echo(json.dumps(records, indent=2))
        return
    print_table(
        {
            "line": [str(one["number"]) for one in records],
            "time": [
                f"{datetime.fromtimestamp(one['time_ns'] / 1e9, UTC):%F %T}" for one in records
            ],
            "caller": [one.get("caller", "") for one in records],
            "event": [_lines(one, "kind", "call", "use") for one in records],
            # Long ones fold here, in the last column, so that the others stay whole.
            "name, reason": [
                _lines(one, "name", "other_name", "serial", "reason") for one in records
            ],
        }
    )


def _lines(record: dict[str, Any], *fields: str) -> str:
    return "\n".join(record[field] for field in fields if record.get(field))


def _newest(log: Path, count: int) -> Iterator[dict[str, Any]]:
    try:
        lines = log.read_bytes().splitlines()
        yield from (json.loads(line) for line in islice(lines, max(0, len(lines) - count), None))
    except OSError as error:
        raise ConfigError(f"cannot read the audit log {log}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise AuditBrokenError(f"{log.name}: one of the newest lines is not a record") from None


def log_in(path: Path) -> Path:
    """Find the audit log in a folder, or take the path for the log's own."""
    found = next((one for one in (path / "audit" / LOG, path / LOG) if one.is_file()), path)
    if found.exists() and not found.is_file():
        raise ConfigError(f"{path}: expected an audit log, or a folder that holds one")
    return found


def backup(
    root: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The registry's folder; it may be served.")
    ],
    target: Annotated[Path, typer.Argument(metavar="NEW-FOLDER", help="The backup's new folder.")],
    output: Output = Format.table,
) -> None:
    """Copy the registry's state at one moment into a new folder, and check it.

    Keys are not copied: keep copies of authority, server and audit.key elsewhere.
    """
    _show(backups.backup(root, target), f"{root} is backed up in {target}", output)


def restore(
    source: Annotated[Path, typer.Argument(metavar="BACKUP", help="A backup.")],
    root: Annotated[Path, typer.Argument(metavar="NEW-FOLDER", help="The registry's new folder.")],
    audit: Annotated[
        Path | None,
        typer.Option(
            metavar="LOG",
            help="The audit log of the registry that is gone: later withdrawals and consents are"
            " made again. Without it, the restored registry is closed until `registry reopen`.",
        ),
    ] = None,
    output: Output = Format.table,
) -> None:
    """Make a registry's folder from a backup, after verifying all of it.

    If it served TLS, put the server folder back first, with the newest revocation list.
    """
    contents = backups.restore(source, root, audit=None if audit is None else log_in(audit))
    _show(contents, f"{source} is restored in {root}", output)
    if contents.served_tls and output is Format.table:
        typer.echo(f"put {root / 'server'} back before you serve it: backups hold no keys")
    if audit is None and output is Format.table:
        typer.echo(
            "it stays closed to all but operators: withdrawals since the backup may be lost."
            f" If none are: adapterdistill registry reopen {root}"
        )


def reopen(
    root: Annotated[Path, typer.Argument(metavar="FOLDER", help="A restored registry's folder.")],
) -> None:
    """Open a restored registry: you say that no withdrawal and no consent was lost.

    It was closed to all but operators. A registry that is running opens within seconds.
    """
    backups.reopen(root)
    typer.echo(f"{root} is open")


def _show(contents: backups.Contents, done: str, output: Format) -> None:
    if output is Format.json:
        shown = contents.model_dump(mode="json", exclude={"files"})
        typer.echo(json.dumps(shown | {"bytes": contents.size}, indent=2))
        return
    typer.echo(
        f"{done}: {contents.versions} versions up to event {contents.revision}, state of"
        f" {contents.time}, {contents.size} bytes; head of the audit log {contents.audit_head}"
    )


def fsck(
    root: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A registry's folder, or a backup.")
    ],
    output: Output = Format.table,
) -> None:
    """Check index, payloads, manifests, lineage and audit log against each other.

    The exit code is 10 if they do not agree. Notes, such as versions of an owner whose certificates
    were revoked, are no faults.
    """
    checked = check.fsck(root)
    if output is Format.json:
        typer.echo(json.dumps(dataclasses.asdict(checked), indent=2))
    else:
        for one in checked.findings:
            typer.echo(f"{one.kind}: {one.name}: {one.detail}")
        for one in checked.notes:
            typer.echo(f"note: {one.kind}: {one.name}: {one.detail}")
        if not checked.findings:
            typer.echo(
                f"{checked.versions} versions, {checked.payloads} payloads of"
                f" {checked.payload_bytes} bytes, event {checked.revision}: no faults"
            )
    if checked.findings:
        raise IntegrityError(f"{root}: {len(checked.findings)} findings")


def migrate(
    root: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The folder of a registry that is stopped.")
    ],
    postgresql: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Move the index to the empty database whose connection string, postgresql://...,"
            " the file (mode 0600) holds.",
        ),
    ] = None,
    sqlite: Annotated[bool, typer.Option(help="Move the index back into the folder.")] = False,
    output: Output = Format.table,
) -> None:
    """Move a registry's index to PostgreSQL, or back; all rows are compared before it counts.

    Payloads, audit log and certificates stay in the folder.
    """
    from adapterdistill.registry.upkeep.migrate import to_postgresql, to_sqlite

    if (postgresql is None) != sqlite:
        raise ConfigError("give either --postgresql FILE or --sqlite")
    moved = to_sqlite(root) if postgresql is None else to_postgresql(root, postgresql)
    if output is Format.json:
        typer.echo(json.dumps({"rows": moved.rows}, indent=2))
        return
    typer.echo(
        f"moved {moved.rows['versions']} versions and {moved.rows['events']} events to"
        f" {'SQLite' if sqlite else 'PostgreSQL'}; all rows were compared"
    )


def register(app: typer.Typer) -> None:
    """Add the commands to `adapterdistill registry`."""
    app.add_typer(audit_app, name="audit")
    for command in (backup, restore, reopen, migrate, fsck):
        app.command()(command)
