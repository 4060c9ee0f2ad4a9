"""The tables of the registry's index, and how a connection to them is opened."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from adapterdistill.errors import RegistryError
from adapterdistill.manifest import VersionRef

# One script a schema version, never edited once released; `PRAGMA user_version` counts those run.
_MIGRATIONS = (
    """
    CREATE TABLE versions (
        revision INTEGER PRIMARY KEY AUTOINCREMENT,
        tenant TEXT NOT NULL,
        adapter TEXT NOT NULL,
        version TEXT NOT NULL,
        weights_sha256 TEXT NOT NULL,
        tokenizer_sha256 TEXT NOT NULL,
        manifest_json BLOB NOT NULL,
        created_ns INTEGER NOT NULL,
        UNIQUE (tenant, adapter, version)
    ) STRICT;
    CREATE INDEX versions_by_adapter ON versions (tenant, adapter, revision);
    CREATE INDEX versions_by_encoder ON versions (weights_sha256, tokenizer_sha256, revision);
    CREATE TABLE lineage (
        student TEXT NOT NULL,
        teacher TEXT NOT NULL,
        PRIMARY KEY (student, teacher)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX lineage_by_teacher ON lineage (teacher);
    CREATE TABLE aliases (
        tenant TEXT NOT NULL,
        adapter TEXT NOT NULL,
        alias TEXT NOT NULL,
        version TEXT NOT NULL,
        moves INTEGER NOT NULL,
        PRIMARY KEY (tenant, adapter, alias)
    ) STRICT, WITHOUT ROWID;
    """,
)


@dataclass(frozen=True)
class Row:
    """A published version as the index has it."""

    ref: VersionRef
    weights_sha256: str
    tokenizer_sha256: str
    manifest_json: bytes
    revision: int
    created_ns: int


@dataclass(frozen=True)
class Filter:
    """Which versions to list; None selects all."""

    tenant: str | None = None
    exclude_tenant: str | None = None
    encoder: tuple[str, str] | None = None  # weights, tokenizer
    latest_only: bool = False


@dataclass(frozen=True)
class AliasRow:
    ref: VersionRef
    alias: str
    etag: str


def connect(path: Path) -> sqlite3.Connection:
    """Opens or creates the database, and brings its tables up to date.

    Raises:
        RegistryError: a newer release wrote it.
    """
    db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    # NORMAL would lose acknowledged rows when the machine loses power.
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA busy_timeout = 5000")
    done = db.execute("PRAGMA user_version").fetchone()[0]
    if done > len(_MIGRATIONS):
        db.close()
        raise RegistryError(f"the index has schema {done}, newer than {len(_MIGRATIONS)}")
    for number, script in enumerate(_MIGRATIONS[done:], start=done + 1):
        db.executescript(f"BEGIN; {script} PRAGMA user_version = {number}; COMMIT;")
    return db


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Commits on leaving, rolls back on an error; other writers wait."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
