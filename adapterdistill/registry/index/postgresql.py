"""The index in PostgreSQL, which several registry processes may share.

Every change takes one advisory lock until it is committed, so that changes are made one at a time,
as SQLite makes them. A connection that broke is opened again by the next transaction.
"""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

import psycopg
from psycopg.pq import TransactionStatus

from adapterdistill.errors import ConfigError, RegistryError, RegistryUnavailableError
from adapterdistill.registry.index.database import Cursor
from adapterdistill.registry.index.schema import POSTGRESQL_TABLES, SCHEMA, new_secrets

_LOCK = 0x41446973  # of the registry's changes, in its own database
_WRITES = ("INSERT", "UPDATE", "DELETE")
_SETTINGS = {
    "connect_timeout": "5",
    "application_name": "adapterdistill-registry",
    # A machine that is gone is noticed within 10 s, by either side.
    "keepalives_idle": "4",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
    "options": (
        "-c lock_timeout=20s -c statement_timeout=60s -c idle_in_transaction_session_timeout=20s"
        " -c tcp_keepalives_idle=4 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3"
    ),
}


class PostgreSQL:
    """A connection to the database at a connection string; see `Database`."""

    dialect: Literal["sqlite", "postgresql"] = "postgresql"

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        self._url, self._read_only = url, read_only
        self.total_changes = 0
        self.in_transaction = False
        self._connection = self._opened()
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _opened(self) -> "psycopg.Connection[Any]":
        try:
            return psycopg.connect(
                self._url,
                autocommit=True,
                cursor_factory=psycopg.RawCursor,
                **_SETTINGS,  # type: ignore[arg-type]  # of several types
            )
        except psycopg.ProgrammingError:
            raise ConfigError("expected a connection string like postgresql://HOST/NAME") from None
        except psycopg.OperationalError as error:
            # Its text may hold the connection string's host and user, never its password.
            raise RegistryUnavailableError(f"PostgreSQL: {_first_line(error)}") from None

    def _prepare(self) -> None:
        for setting in ("fsync", "synchronous_commit"):
            if self.execute(f"SHOW {setting}").fetchone()[0] == "off":
                raise ConfigError(
                    f"PostgreSQL has {setting} = off, which could lose published versions:"
                    " set it to on"
                )
        found = self._schema()
        if found is None and not self._read_only:
            self.begin_change()
            if self._schema() is None:  # another process may have made them meanwhile
                for statement in POSTGRESQL_TABLES.split(";"):
                    self.execute(statement)
                self.executemany("INSERT INTO secrets VALUES (?, ?)", new_secrets())
                self.execute("INSERT INTO schema_version VALUES (?)", (SCHEMA,))
            self.execute("COMMIT")
            found = SCHEMA
        if found is None:
            raise ConfigError("the PostgreSQL database holds no index: serve the registry once")
        if found > SCHEMA:
            raise RegistryError(f"the index has schema {found}, newer than {SCHEMA}")

    def _schema(self) -> int | None:
        named = self.execute("SELECT to_regclass('schema_version') IS NOT NULL").fetchone()[0]
        if not named:
            return None
        return int(self.execute("SELECT version FROM schema_version").fetchone()[0])

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Cursor:
        """Run a query.

        Raises:
            RegistryUnavailableError: PostgreSQL cannot be reached, or stopped meanwhile. What the
                transaction did so far is taken back, but for a COMMIT, of which nobody knows.
        """
        try:
            return self._executed(sql, parameters)
        except psycopg.OperationalError as error:
            # Nothing was begun on a connection that broke before: a new one may try.
            if self.in_transaction or not self._connection.broken:
                self._lose(error)
        self._connection = self._opened()
        try:
            return self._executed(sql, parameters)
        except psycopg.OperationalError as error:
            self._lose(error)
            raise

    def _executed(self, sql: str, parameters: Sequence[Any]) -> "psycopg.Cursor[Any]":
        cursor = self._connection.execute(_translated(sql), parameters or None)
        if (cursor.statusmessage or "").startswith(_WRITES):
            self.total_changes += max(0, cursor.rowcount)
        status = self._connection.info.transaction_status
        self.in_transaction = status is not TransactionStatus.IDLE
        return cursor

    def executemany(
        self, sql: str, parameters: Sequence[Sequence[Any]], /
    ) -> "psycopg.Cursor[Any]":
        """Run a statement for each row; raises as `execute`."""
        cursor = self._connection.cursor()
        try:
            cursor.executemany(_translated(sql), parameters)
        except psycopg.OperationalError as error:
            self._lose(error)
        self.total_changes += max(0, cursor.rowcount)
        return cursor

    def _lose(self, error: "psycopg.OperationalError") -> None:
        """Close the connection, which ends its transaction, and raise."""
        self.in_transaction = False
        self._connection.close()
        raise RegistryUnavailableError(f"PostgreSQL: {_first_line(error)}") from None

    def begin_change(self) -> None:
        self.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        # As a statement of its own: the statements after it see what was committed before it.
        self.execute("SELECT pg_advisory_xact_lock(?)", (_LOCK,))

    def begin_reading(self) -> None:
        self.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

    def faults(self) -> list[str]:
        """Find nothing: PostgreSQL checks its pages itself (initdb --data-checksums)."""
        return []

    def close(self) -> None:
        self._connection.close()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


@cache
def _translated(sql: str) -> str:
    """Write `?` and `?2` as PostgreSQL's `$1` and `$2`."""
    count = 0

    def numbered(found: re.Match[str]) -> str:
        nonlocal count
        count += 1
        return f"${found[1] or count}"

    return re.sub(r"\?(\d*)", numbered, sql)
