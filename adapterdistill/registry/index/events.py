"""The registry's events: each change writes one, in its own transaction.

Watchers and the audit log read them; the log has them before they are committed. Their revisions
count every change of the registry. Callers are told the time instead, in the same order: a count
would tell each of them how much happens that it may not see.
"""

import time
from collections.abc import Collection, Iterator
from heapq import merge
from itertools import islice

from adapterdistill.registry.access import Caller
from adapterdistill.registry.index.database import Database
from adapterdistill.registry.index.schema import EventKind, EventRow

WINDOW = 500
"""Number of revisions, or of events, that one call looks at."""
VOIDED = "voided"
"""Kind of a revision that no change has: its change could not be committed."""
_COLUMNS = "e.revision, e.time_ns, e.caller, e.kind, e.name, e.other_name, e.reason, e.told"
_NEWEST = "SELECT (SELECT max(revision) FROM events), (SELECT max(told) FROM events)"


def record(
    db: Database,
    caller: Caller,
    kind: EventKind,
    adapter: tuple[str, str],
    name: str,
    *,
    other_name: str = "",
    reason: str = "",
    public: bool = True,
) -> int:
    """Add an event within the open transaction; return its revision.

    Args:
        adapter: tenant and adapter that it belongs to.
        public: false hides it from other owners, even those that the adapter's consent names.
    """
    newest = db.execute(_NEWEST).fetchone()
    return _add(
        db,
        ((newest[0] or 0) + 1, newest[1] or 0),
        (str(caller), kind, *adapter, name, other_name, reason, int(public)),
    )


def _add(db: Database, after: tuple[int, int], values: tuple[object, ...]) -> int:
    """Add an event with a revision, told later than the newest one; return the revision."""
    (revision, newest_told), now = after, time.time_ns()
    db.execute(
        "INSERT INTO events (revision, time_ns, caller, kind, tenant, adapter, name, other_name,"
        " reason, public, told) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (revision, now, *values, max(now // 1000, newest_told + 1)),
    )
    return revision


def void_unmade(db: Database, revision: int) -> bool:
    """Say whether the event of this revision, which the audit log has, was never committed.

    If it is the one after the newest, its revision is marked here and never used again. What an
    index of an earlier time lacks is more than that, and is not marked.
    """
    newest, told = db.execute(_NEWEST).fetchone()
    if (newest or 0) == revision - 1:
        _add(db, (revision, told or 0), ("", VOIDED, "", "", "", "", "", 0))
    kind = db.execute("SELECT kind FROM events WHERE revision = ?", (revision,)).fetchone()
    return kind is not None and kind[0] == VOIDED


def revision_of(db: Database, told: int) -> int:
    """Return the newest revision that is told as this one or an earlier one."""
    found = db.execute("SELECT max(revision) FROM events WHERE told <= ?", (told,)).fetchone()[0]
    return int(found or 0)


def is_future(db: Database, told: int) -> bool:
    """Say whether a told revision is one that no event can have yet.

    An earlier one is no fault, whether there was an event or not: that would tell of hidden ones.
    """
    newest = db.execute("SELECT max(told) FROM events").fetchone()[0]
    return told > max(newest or 0, time.time_ns() // 1000)


def newest_revision(db: Database) -> int:
    newest = db.execute("SELECT max(revision) FROM events").fetchone()[0]
    return int(newest or 0)


def following(
    db: Database,
    revision: int,
    newest: int,
    caller: Caller,
    adapters: Collection[tuple[str, str]] = (),
) -> tuple[list[EventRow], int]:
    """List the next events after `revision` that `caller` may see, of `adapters` or of all.

    Returns also the revision up to which these are all. The work of a call is bounded, whatever
    there is and however little the caller may see: it may return nothing, and not reach `newest`.
    """
    reached = min(newest, revision + WINDOW)
    if not adapters:
        rows = [*after(db, revision, caller, until=reached, max_rows=WINDOW)]
    elif newest <= reached:
        rows = [
            row
            for row in after(db, revision, caller, until=reached, max_rows=WINDOW)
            if _adapter_of(row) in adapters
        ]
    else:  # far behind: the index finds the events of each adapter without reading the others
        of_each = [
            after(db, revision, caller, adapter=one, until=newest, max_rows=WINDOW)
            for one in adapters
        ]
        rows = list(islice(merge(*of_each, key=lambda row: row.revision), WINDOW))
        reached = rows[-1].revision if len(rows) == WINDOW else newest
    return rows, reached


def _adapter_of(row: EventRow) -> tuple[str, str]:
    _, tenant, _, adapter, *_ = row.name.split("/")
    return tenant, adapter


def after(
    db: Database,
    revision: int,
    caller: Caller,
    *,
    adapter: tuple[str, str] | None = None,
    until: int | None = None,
    max_rows: int = 200,
) -> Iterator[EventRow]:
    """Yield the oldest events after `revision` that `caller` may see, of `adapter` or of all."""
    where = ["e.revision > ?", "e.kind <> ?"]
    values: list[object] = [revision, VOIDED]
    if not caller.sees_all:
        where.append(
            "(e.tenant = ? OR (e.public = 1 AND EXISTS (SELECT 1 FROM consents c WHERE"
            " c.tenant = e.tenant AND c.adapter = e.adapter AND c.allowed IN ('*', ?))))"
        )
        values += [caller.name, caller.name]
    if adapter is not None:
        where.append("e.tenant = ? AND e.adapter = ?")
        values += adapter
    if until is not None:
        where.append("e.revision <= ?")
        values.append(until)
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM events e WHERE {' AND '.join(where)} ORDER BY e.revision LIMIT ?",
        (*values, max_rows),
    )
    return (EventRow(*row) for row in rows)
