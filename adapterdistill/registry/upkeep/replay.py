"""Withdrawals and consents of an audit log, made again in an index that is older than the log."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from adapterdistill.errors import ConfigError, NotFoundError
from adapterdistill.manifest import VersionRef
from adapterdistill.registry.access import Caller, Role
from adapterdistill.registry.index import lifecycle, lost
from adapterdistill.registry.index.index import Index
from adapterdistill.registry.upkeep.audit_line import MAX_LINE_BYTES
from adapterdistill.registry.upkeep.audit_verify import Record, examine, read_public_key, verify
from adapterdistill.registry.wire import parse_adapter_name


@contextmanager
def whole_lines(audit: Path) -> Iterator[Path]:
    """Yield the log, or a copy without the end of a last line that a crash cut short.

    The change of such a line was not made: the registry makes none before its line is on disk.

    Raises:
        ConfigError: the log cannot be read.
    """
    try:
        with audit.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = file.seek(max(0, size - MAX_LINE_BYTES))
            whole = start + file.read().rfind(b"\n") + 1
    except OSError as error:
        raise ConfigError(f"cannot read the audit log {audit}: {error.strerror}") from None
    if whole == size:
        yield audit
        return
    with TemporaryDirectory() as folder:
        copy = Path(folder) / audit.name
        shutil.copyfile(audit, copy)
        os.truncate(copy, whole)
        yield copy


def check_continues(audit: Path, head: str, public_key: Path) -> None:
    """Check that the log continues the one that ended with the record `head`.

    Raises:
        AuditBrokenError: it was changed, another key signed it, or it lacks that record.
    """
    # An audit key that was lost since then was replaced; the log announces the new one.
    first = read_public_key(public_key)
    with whole_lines(audit) as log:
        keys = (first, *verify(log).keys)
        verify(log, trusted=keys, head=head)


def replay(index: Index, audit: Path, after_revision: int) -> None:
    """Withdraw and restrict again what the log says was, after the revision of the index.

    Versions and adapters that the index does not have are gone. What was said of them is kept, for
    the case that their owners publish them again.
    """
    made: list[Record] = []

    def visit(record: Record) -> None:
        if record["kind"] == "void":
            made.pop()
        elif record["kind"] != "checkpoint":
            made.append(record)

    with whole_lines(audit) as log:
        examine(log, visit=visit)
    for record in made:
        if record["revision"] > after_revision:
            _again(index, record)


def _again(index: Index, record: Record) -> None:
    role, _, name = record.get("caller", "").partition("/")
    caller = Caller(cast(Role, role), name)
    try:
        if record["kind"] == "withdrawn":
            # The caller was allowed to then; the index may show it less now.
            lifecycle.withdraw(index, VersionRef.parse(record["name"]), record["reason"], caller)
        elif record["kind"] == "consent_changed":
            tenant, adapter = parse_adapter_name(record["name"])
            consent = lost.read_consent_text(record["reason"])
            lifecycle.set_consent(index, tenant, adapter, consent, caller)
    except NotFoundError:
        lost.keep(index.db, record["name"], record["reason"])
