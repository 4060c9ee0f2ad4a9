"""What a watch tells: the events that a caller may see, and the marks of withdrawals."""

from collections.abc import Collection

from adapterdistill.manifest import VersionRef
from adapterdistill.registry.access import Caller
from adapterdistill.registry.index.events import following
from adapterdistill.registry.index.index import Index
from adapterdistill.registry.index.schema import EventRow

MAX_MARKS = 5000
"""Number of marked versions that one call looks at, or those of one withdrawal if it has more."""


def changes(
    index: Index,
    revision: int,
    newest: int,
    caller: Caller,
    adapters: Collection[tuple[str, str]] = (),
) -> tuple[list[EventRow], int]:
    """List what to tell of the next revisions, and the revision up to which this is all.

    A mark is an event of its own, `teacher_withdrawn`, with the revision of the withdrawal. It is
    told to those who may see the marked version, also if they may not see the withdrawn one.
    """
    events, reached = following(index.db, revision, newest, caller, adapters)
    more = index.db.execute(
        "SELECT marked_revision FROM versions WHERE marked_revision > ? AND marked_revision <= ?"
        " ORDER BY marked_revision LIMIT 1 OFFSET ?",
        (revision, reached, MAX_MARKS),
    ).fetchone()
    if more is not None:
        first = index.db.execute(
            "SELECT min(marked_revision) FROM versions WHERE marked_revision > ?", (revision,)
        ).fetchone()[0]
        reached = max(first, more[0] - 1)
    told = [
        event for event in events if event.revision <= reached and _is_told(index, event, caller)
    ]
    marks = _marks(index, revision, reached, caller, adapters)
    return sorted([*told, *marks], key=lambda event: event.revision), reached


def _is_told(index: Index, event: EventRow, caller: Caller) -> bool:
    """Say whether the caller may see every version that the event names."""
    names = (name for name in (event.name, event.other_name) if "/versions/" in name)
    return not index.hides_descendants or all(index.sees(name, caller) for name in names)


def _marks(
    index: Index,
    revision: int,
    reached: int,
    caller: Caller,
    adapters: Collection[tuple[str, str]],
) -> list[EventRow]:
    seen, values = index.seen_by(caller)
    rows = index.db.execute(
        "SELECT v.tenant, v.adapter, v.version, v.withdrawn_teacher, e.revision, e.time_ns, e.told"
        " FROM versions v JOIN events e ON e.revision = v.marked_revision"
        f" WHERE v.marked_revision > ? AND v.marked_revision <= ? AND {seen}",
        (revision, reached, *values),
    )
    return [
        EventRow(
            revision=marked_revision,
            time_ns=time_ns,
            caller="",
            kind="teacher_withdrawn",
            name=VersionRef(tenant=tenant, adapter=adapter, version=version).name,
            other_name=index.shown_name(teacher, caller),
            reason="",
            told=told,
        )
        for tenant, adapter, version, teacher, marked_revision, time_ns, told in rows
        if not adapters or (tenant, adapter) in adapters
    ]
