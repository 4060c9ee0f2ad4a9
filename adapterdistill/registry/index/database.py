"""The database of the registry's index: SQLite in its folder, or PostgreSQL.

The queries are the same text for both, with `?` for values. Both let one change at a time be made,
whichever process makes it: revisions are in the order of commits, without gaps.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

from adapterdistill.errors import ConfigError, RegistryError, RegistryUnavailableError
from adapterdistill.files import read_secret
from adapterdistill.registry.index.schema import MIGRATIONS, SCHEMA

INDEX = "index.sqlite3"
URL = "postgresql.url"
"""File with the connection string of a PostgreSQL database, which holds the index then."""
UNREADABLE = (sqlite3.Error, OSError, RegistryUnavailableError)
"""The errors of an index that cannot be read or written now."""


class Cursor(Protocol):
    """The rows that a query finds."""

    @property
    def rowcount(self) -> int: ...
    def fetchone(self) -> Any: ...
    def fetchall(self) -> list[Any]: ...
    def __iter__(self) -> Iterator[Any]: ...
    def close(self) -> None: ...


class Database(Protocol):
    """One connection. One thread at a time uses it."""

    dialect: Literal["sqlite", "postgresql"]

    @property
    def in_transaction(self) -> bool: ...
    @property
    def total_changes(self) -> int:
        """Number of rows that were written since the connection was opened."""
        ...

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Cursor: ...
    def executemany(self, sql: str, parameters: Sequence[Sequence[Any]], /) -> Cursor: ...
    def begin_change(self) -> None:
        """Begin a transaction; wait until every other change is committed or taken back."""
        ...

    def begin_reading(self) -> None:
        """Begin a transaction that sees the state of one moment."""
        ...

    def faults(self) -> list[str]:
        """List what is wrong with the stored pages, as far as the database can tell."""
        ...

    def close(self) -> None: ...


class SQLite(sqlite3.Connection):
    """A connection to an SQLite file; `sqlite` opens one."""

    dialect: Literal["sqlite", "postgresql"] = "sqlite"

    def begin_change(self) -> None:
        self.execute("BEGIN IMMEDIATE")

    def begin_reading(self) -> None:
        self.execute("BEGIN")

    def faults(self) -> list[str]:
        return [row[0] for row in self.execute("PRAGMA integrity_check") if row[0] != "ok"]


def is_shared(root: Path) -> bool:
    """Say whether the index of this folder is in PostgreSQL, which several registries may share."""
    return (root / URL).exists()


def connect(root: Path) -> Database:
    """Open the index of a registry's folder, and bring its tables up to date.

    Raises:
        RegistryError: a newer release wrote it.
        ConfigError: it is in PostgreSQL, and the connection string or the extra is missing.
        RegistryUnavailableError: PostgreSQL cannot be reached.
    """
    return _postgresql(root) if is_shared(root) else sqlite(root / INDEX)


def connect_for_reading(root: Path) -> Database:
    """Open the index of a registry's folder for reading alone.

    Raises:
        ConfigError: there is none, or another release wrote it; also as `connect`.
        RegistryUnavailableError: PostgreSQL cannot be reached.
    """
    if is_shared(root):
        return _postgresql(root, read_only=True)
    path = root / INDEX
    if not path.is_file():
        raise ConfigError(f"{root}: expected a registry's folder, found no {INDEX}")
    url = f"{path.absolute().as_uri()}?mode=ro"
    db = sqlite3.connect(url, uri=True, isolation_level=None, factory=SQLite)
    db.execute("PRAGMA busy_timeout = 5000")
    try:
        found = db.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.DatabaseError:
        db.close()
        raise ConfigError(f"{path}: expected an SQLite database") from None
    if found != SCHEMA:
        db.close()
        raise ConfigError(
            f"the index has schema {found}, expected {SCHEMA}: serve it once with this release"
        )
    return db


def sqlite(path: Path) -> SQLite:
    """Open or create an SQLite file, and bring its tables up to date.

    Raises:
        RegistryError: a newer release wrote it.
    """
    path.touch(mode=0o600)  # it holds consents and the key of page tokens
    db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, factory=SQLite)
    db.execute("PRAGMA journal_mode = WAL")
    # NORMAL could lose acknowledged rows in a power failure.
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA busy_timeout = 5000")
    done = db.execute("PRAGMA user_version").fetchone()[0]
    if done > SCHEMA:
        db.close()
        raise RegistryError(f"the index has schema {done}, newer than {SCHEMA}")
    for number, script in enumerate(MIGRATIONS[done:], start=done + 1):
        db.executescript(f"BEGIN; {script} PRAGMA user_version = {number}; COMMIT;")
    return db


def _postgresql(root: Path, *, read_only: bool = False) -> Database:
    return postgresql(read_secret(root / URL).decode().strip(), read_only=read_only)


def postgresql(url: str, *, read_only: bool = False) -> Database:
    """Open the index in a PostgreSQL database, and make its tables if there are none.

    Raises:
        ConfigError, RegistryUnavailableError, RegistryError: as `connect`.
    """
    try:
        from adapterdistill.registry.index.postgresql import PostgreSQL
    except ImportError:
        raise ConfigError(
            "an index in PostgreSQL needs psycopg: pip install 'adapterdistill[postgresql]'"
        ) from None
    return PostgreSQL(url, read_only=read_only)


@contextmanager
def transaction(db: Database) -> Iterator[None]:
    """Commit on leaving, roll back on an error. An inner transaction is part of the outer one.

    Other writers wait.
    """
    within = db.in_transaction
    if within:
        yield
        return
    db.begin_change()
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


@contextmanager
def snapshot(db: Database) -> Iterator[None]:
    """Read the state of one moment in the block, whatever is committed meanwhile."""
    db.begin_reading()
    try:
        yield
    finally:
        if db.in_transaction:
            db.execute("COMMIT")
