"""Withdrawals and consents of an audit log, made again in an index that is older than the log."""

from pathlib import Path
from typing import cast

from adapterdistill.errors import NotFoundError
from adapterdistill.manifest import VersionRef
from adapterdistill.registry.access import Caller, Role
from adapterdistill.registry.index import lifecycle, lost
from adapterdistill.registry.index.index import Index
from adapterdistill.registry.upkeep.audit_verify import Record, examine, read_public_key, verify
from adapterdistill.registry.wire import parse_adapter_name


def check_continues(audit: Path, head: str, public_key: Path) -> None:
    """Check that the log continues the one that ended with the record `head`.

    Raises:
        AuditBrokenError: it was changed, another key signed it, or it lacks that record.
    """
    # An audit key that was lost since then was replaced; the log announces the new one.
    first = read_public_key(public_key)
    keys = (first, *verify(audit).keys)
    verify(audit, trusted=keys, head=head)


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

    examine(audit, visit=visit)
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
