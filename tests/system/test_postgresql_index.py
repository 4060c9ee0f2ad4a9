"""The index's contract, as SQLite meets it in tests/unit/registry/index, on PostgreSQL."""

from collections.abc import Iterator
from itertools import count

import pytest

pytest.importorskip("psycopg", reason="the extra adapterdistill[postgresql] is not installed")

from adapterdistill.errors import ConfigError
from adapterdistill.registry.index.database import Database, postgresql
from adapterdistill.registry.index.index import Index
from adapterdistill.testbed.postgresql import PostgreSQLServer, postgresql_server
from tests.unit.registry.index.test_idempotency import *  # noqa: F403  # the same tests, on PostgreSQL
from tests.unit.registry.index.test_index import *  # noqa: F403  # the same tests, on PostgreSQL
from tests.unit.registry.index.test_lifecycle import *  # noqa: F403  # the same tests, on PostgreSQL

_numbers = count()


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQLServer]:
    try:
        with postgresql_server() as started:
            yield started
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.fixture
def db(server: PostgreSQLServer) -> Iterator[Database]:
    opened = postgresql(server.new_database(f"index{next(_numbers)}"))
    yield opened
    opened.close()


@pytest.fixture
def index(db: Database) -> Index:
    return Index(db)


@pytest.fixture
def strict(db: Database) -> Index:
    return Index(db, refuse_descendants=True)


@pytest.fixture
def changes(db: Database) -> Changes:  # noqa: F405
    return Changes(db)  # noqa: F405
