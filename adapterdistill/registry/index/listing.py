"""Pages of versions that a caller may see."""

from adapterdistill.registry.access import ANYONE, Caller
from adapterdistill.registry.index.index import COLUMNS, Index, row_of
from adapterdistill.registry.index.schema import Filter, Row


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
    seen, seen_values = index.seen_by(caller)
    where = ["v.revision < ?", "v.revision <= ?", "v.state <> 'withdrawn'", seen]
    values: list[object] = [before, newest, *seen_values]
    weights, tokenizer = chosen.encoder or (None, None)
    has_label = "v.revision IN (SELECT revision FROM labels WHERE label = ?)"
    conditions = [
        ("v.tenant = ?", chosen.tenant),
        ("v.tenant <> ?", chosen.exclude_tenant),
        ("v.weights_sha256 = ?", weights),
        ("v.tokenizer_sha256 = ?", tokenizer),
        ("v.task = ?", chosen.task),
        # A language's filter finds its regional forms too (RFC 4647, basic filtering).
        ("instr(lower(v.language) || '-', lower(?) || '-') = 1", chosen.language),
        *((has_label, label) for label in chosen.labels),
    ]
    for condition, value in conditions:
        if value is not None:
            where.append(condition)
            values.append(value)
    if chosen.latest_only:
        seen, seen_values = index.seen_by(caller, "n")
        where.append(
            "NOT EXISTS (SELECT 1 FROM versions n WHERE n.tenant = v.tenant"
            " AND n.adapter = v.adapter AND n.revision > v.revision AND n.revision <= ?"
            f" AND n.state <> 'withdrawn' AND {seen})"
        )
        values += [newest, *seen_values]
    rows: list[Row] = []
    size = 0
    cursor = index.db.execute(
        f"SELECT {COLUMNS} FROM versions v WHERE {' AND '.join(where)}"
        " ORDER BY v.revision DESC LIMIT ?",
        (*values, max_rows + 1),
    )
    for found in cursor:
        row = row_of(found)
        size += len(row.manifest_json) + len(row.statement or b"")
        if len(rows) == max_rows or (rows and size > max_bytes):
            cursor.close()
            return rows, True
        rows.append(row)
    return rows, False
