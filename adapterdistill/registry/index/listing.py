"""Pages of versions that a caller may see."""

from collections.abc import Iterator
from typing import Any

from adapterdistill.manifest import VersionRef
from adapterdistill.registry.access import ANYONE, Caller
from adapterdistill.registry.index.events import revision_of
from adapterdistill.registry.index.index import COLUMNS, Index, row_of
from adapterdistill.registry.index.schema import Filter, Row, SummaryRow

MAX_CHANGES = 5000
"""Number of changes that a listing looks through for `changed_after`; beyond, it lists all."""
_SUMMARY_COLUMNS = (
    "v.tenant, v.adapter, v.version, v.revision,"
    " (SELECT e.told FROM events e WHERE e.revision = v.revision), v.state, v.fingerprint_json"
)


def page(
    index: Index,
    chosen: Filter,
    caller: Caller = ANYONE,
    *,
    before: int,
    newest: int,
    max_rows: int,
    max_bytes: int,
) -> tuple[list[Row], bool]:
    """List versions with revision < `before`, newest first, and whether more follow.

    Versions after revision `newest` count as unpublished, so that all pages of a listing agree on
    the latest version of each adapter. Versions that were withdrawn or hidden from the caller
    since then are not listed.
    """
    rows: list[Row] = []
    size = 0
    for found in _select(index, COLUMNS, chosen, caller, before, newest, max_rows + 1):
        row = row_of(found)
        size += len(row.manifest_json) + len(row.statement or b"")
        if len(rows) == max_rows or (rows and size > max_bytes):
            return rows, True
        rows.append(row)
    return rows, False


def summary_page(
    index: Index,
    chosen: Filter,
    caller: Caller = ANYONE,
    *,
    before: int,
    newest: int,
    max_rows: int,
) -> tuple[list[SummaryRow], bool]:
    """List summaries of the versions that `page` lists."""
    found = _select(index, _SUMMARY_COLUMNS, chosen, caller, before, newest, max_rows + 1)
    rows = [
        SummaryRow(
            VersionRef.model_construct(tenant=tenant, adapter=adapter, version=version), *rest
        )
        for tenant, adapter, version, *rest in found
    ]
    return rows[:max_rows], len(rows) > max_rows


def _select(
    index: Index,
    columns: str,
    chosen: Filter,
    caller: Caller,
    before: int,
    newest: int,
    max_rows: int,
) -> Iterator[tuple[Any, ...]]:
    tables, where, values = _changed(index, chosen, caller)
    seen, seen_values = index.seen_by(caller)
    where += ["v.revision < ?", "v.revision <= ?", "v.state <> 'withdrawn'", seen]
    values += [before, newest, *seen_values]
    weights, tokenizer = chosen.encoder or (None, None)
    has_label = "v.revision IN (SELECT revision FROM labels WHERE label = ?)"
    conditions = [
        ("v.tenant = ?", chosen.tenant),
        ("v.tenant <> ?", chosen.exclude_tenant),
        ("v.weights_sha256 = ?", weights),
        ("v.tokenizer_sha256 = ?", tokenizer),
        ("v.task = ?", chosen.task),
        *((has_label, label) for label in chosen.labels),
    ]
    for condition, value in conditions:
        if value is not None:
            where.append(condition)
            values.append(value)
    if chosen.language is not None:
        # A language's filter finds its regional forms too (RFC 4647, basic filtering).
        prefix = f"{chosen.language.lower()}-"
        where.append("substr(lower(v.language) || '-', 1, ?) = ?")
        values += [len(prefix), prefix]
    if chosen.latest_only:
        seen, seen_values = index.seen_by(caller, "n")
        where.append(
            "NOT EXISTS (SELECT 1 FROM versions n WHERE n.tenant = v.tenant"
            " AND n.adapter = v.adapter AND n.revision > v.revision AND n.revision <= ?"
            f" AND n.state <> 'withdrawn' AND {seen})"
        )
        values += [newest, *seen_values]
    cursor = index.db.execute(
        f"SELECT {columns} FROM {tables} WHERE {' AND '.join(where)}"
        " ORDER BY v.revision DESC LIMIT ?",
        (*values, max_rows),
    )
    try:
        yield from cursor
    finally:
        cursor.close()


def _changed(index: Index, chosen: Filter, caller: Caller) -> tuple[str, list[str], list[object]]:
    """Return the tables of a listing, conditions and their values.

    With `changed_after` these are the adapters of which the caller may see something else since.
    """
    if not chosen.changed_after:
        return "versions v", [], []
    revision = revision_of(index.db, chosen.changed_after)
    if index.newest_revision() - revision > MAX_CHANGES:
        return "versions v", [], []
    changed = (
        "SELECT tenant, adapter FROM events WHERE revision > ? AND public = 1"
        " AND kind IN ('published', 'released', 'withdrawn')"
        " UNION SELECT tenant, adapter FROM consents WHERE since > ?"
    )
    values: list[object] = [revision, revision]
    if not caller.sees_all:
        changed += " AND allowed IN ('*', ?)"
        values.append(caller.name)
    if index.hides_descendants:
        changed += " UNION SELECT tenant, adapter FROM versions WHERE marked_revision > ?"
        values.append(revision)
    tables = f"({changed}) changed CROSS JOIN versions v"
    return tables, ["v.tenant = changed.tenant", "v.adapter = changed.adapter"], values
