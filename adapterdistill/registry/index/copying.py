"""Copies of an index from one database to another, whichever of the two kinds they are."""

import hashlib
from collections.abc import Iterator
from typing import Any

from adapterdistill.registry.index.database import Database, snapshot, transaction
from adapterdistill.registry.index.schema import TABLES

_AT_ONCE = 1000
_BY_REVISION = ("versions", "events")
"""Tables that may be larger than the memory; they are read by revision."""


def copy_tables(source: Database, target: Database) -> None:
    """Replace all rows of `target` by those that `source` has at one moment."""
    with snapshot(source), transaction(target):
        for table in TABLES:
            columns = _columns(target, table)
            target.execute(f"DELETE FROM {table}")
            marks = ", ".join("?" * len(columns))
            insert = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"
            for rows in _batches(source, table, columns):
                target.executemany(insert, rows)


def digests(db: Database) -> dict[str, tuple[int, str]]:
    """Count the rows of each table, and digest them whatever their order."""
    found = {}
    with snapshot(db):
        for table in TABLES:
            count = total = 0
            for rows in _batches(db, table, _columns(db, table)):
                for row in rows:
                    count += 1
                    total += int.from_bytes(hashlib.sha256(repr(tuple(row)).encode()).digest())
            found[table] = (count, f"{total % 2**256:064x}")
    return found


def _columns(db: Database, table: str) -> list[str]:
    cursor: Any = db.execute(f"SELECT * FROM {table} LIMIT 0")
    return sorted(column[0] for column in cursor.description)


def _batches(db: Database, table: str, columns: list[str]) -> Iterator[list[Any]]:
    select = f"SELECT {', '.join(columns)} FROM {table}"
    if table not in _BY_REVISION:
        rows = db.execute(select).fetchall()
        yield from (rows[i : i + _AT_ONCE] for i in range(0, len(rows), _AT_ONCE))
        return
    place, revision = columns.index("revision"), 0
    while rows := db.execute(
        f"{select} WHERE revision > ? ORDER BY revision LIMIT ?", (revision, _AT_ONCE)
    ).fetchall():
        yield rows
        revision = rows[-1][place]
