"""The tables of the registry's index, and how a connection to them is opened."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from adapterdistill.errors import RegistryError
from adapterdistill.manifest import VersionRef
from adapterdistill.registry.commitments import Opening

# One script for each schema version, never edited once released. `PRAGMA user_version` counts the
# scripts that were run.
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
    """
    -- One row a change of the registry, written with it. Revisions of versions are those of the
    -- event that made them.
    CREATE TABLE events (
        revision INTEGER PRIMARY KEY AUTOINCREMENT,
        time_ns INTEGER NOT NULL,
        caller TEXT NOT NULL,
        kind TEXT NOT NULL,
        tenant TEXT NOT NULL,
        adapter TEXT NOT NULL,
        name TEXT NOT NULL,
        other_name TEXT NOT NULL,
        reason TEXT NOT NULL,
        -- Told to those who have the adapter's consent, not to its owner alone.
        public INTEGER NOT NULL
    ) STRICT;
    INSERT INTO events SELECT
        revision, created_ns, 'anyone/anonymous', 'published', tenant, adapter,
        'tenants/' || tenant || '/adapters/' || adapter || '/versions/' || version,
        '', '', 1
        FROM versions;
    ALTER TABLE versions ADD COLUMN state TEXT NOT NULL DEFAULT 'active';
    ALTER TABLE versions ADD COLUMN state_reason TEXT NOT NULL DEFAULT '';
    ALTER TABLE versions ADD COLUMN withdrawn_teacher TEXT NOT NULL DEFAULT '';
    ALTER TABLE versions ADD COLUMN statement BLOB;
    ALTER TABLE versions ADD COLUMN statistics_json BLOB;
    ALTER TABLE versions ADD COLUMN task TEXT NOT NULL DEFAULT '';
    ALTER TABLE versions ADD COLUMN language TEXT NOT NULL DEFAULT '';
    UPDATE versions SET
        task = json_extract(CAST(manifest_json AS TEXT), '$.task'),
        language = json_extract(CAST(manifest_json AS TEXT), '$.language');
    ALTER TABLE versions ADD COLUMN payload_bytes INTEGER NOT NULL DEFAULT 0;
    UPDATE versions SET payload_bytes =
        json_extract(CAST(manifest_json AS TEXT), '$.payload_bytes');
    -- Answers what a tenant has stored without reading its rows.
    CREATE INDEX versions_by_tenant ON versions (tenant, payload_bytes);
    -- Finds the newest of each tenant for an encoder.
    CREATE INDEX versions_by_population ON versions (
        weights_sha256, tokenizer_sha256, tenant, revision
    );
    CREATE TABLE labels (
        label TEXT NOT NULL,
        revision INTEGER NOT NULL,
        PRIMARY KEY (label, revision)
    ) STRICT, WITHOUT ROWID;
    -- '*' allows everyone; an adapter without rows is for its owner alone.
    CREATE TABLE consents (
        tenant TEXT NOT NULL,
        adapter TEXT NOT NULL,
        allowed TEXT NOT NULL,
        PRIMARY KEY (tenant, adapter, allowed)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO consents SELECT DISTINCT tenant, adapter, '*' FROM versions;
    CREATE TABLE nonces (
        tenant TEXT NOT NULL,
        nonce TEXT NOT NULL,
        PRIMARY KEY (tenant, nonce)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE requests (
        caller TEXT NOT NULL,
        request_id TEXT NOT NULL,
        request_sha256 TEXT NOT NULL,
        response BLOB NOT NULL,
        time_ns INTEGER NOT NULL,
        PRIMARY KEY (caller, request_id)
    ) STRICT;
    CREATE INDEX requests_by_time ON requests (time_ns);
    CREATE TABLE secrets (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
    INSERT INTO secrets VALUES ('page_token', randomblob(32));
    """,
    """
    -- The withdrawal that marked a version: its event tells of the mark, too.
    ALTER TABLE versions ADD COLUMN marked_revision INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX versions_by_mark ON versions (marked_revision) WHERE marked_revision > 0;
    CREATE INDEX events_by_adapter ON events (tenant, adapter, revision);
    -- Revisions of one incarnation say nothing about another, which a restored backup is.
    INSERT INTO secrets VALUES ('incarnation', randomblob(32)), ('hidden_names', randomblob(32));
    -- Why a restored registry answers nobody but operators yet; empty if it is open.
    CREATE TABLE closed (why TEXT NOT NULL) STRICT;
    """,
    """
    -- Opens the commitment to the teacher in the student's manifest; empty if that names it.
    ALTER TABLE lineage ADD COLUMN salt BLOB NOT NULL DEFAULT x'';
    -- The revision as callers are told it: microseconds since 1970, and later than the one before.
    ALTER TABLE events ADD COLUMN told INTEGER NOT NULL DEFAULT 0;
    UPDATE events SET told = later.told FROM (
        SELECT revision, max(time_ns / 1000 - revision) OVER (ORDER BY revision) + revision AS told
        FROM events
    ) AS later WHERE later.revision = events.revision;
    CREATE UNIQUE INDEX events_by_told ON events (told);
    """,
    """
    -- What is still known of versions and adapters that a restored backup lacks: the reason of a
    -- withdrawal, the consent that was given last.
    CREATE TABLE lost (name TEXT PRIMARY KEY, told TEXT NOT NULL) STRICT, WITHOUT ROWID;
    """,
    """
    -- Summaries are listed without their manifests, which are ten times as large.
    ALTER TABLE versions ADD COLUMN fingerprint_json TEXT NOT NULL DEFAULT '';
    UPDATE versions SET fingerprint_json =
        coalesce(json_extract(CAST(manifest_json AS TEXT), '$.signature'), '');
    -- The revision of the change that gave the consent.
    ALTER TABLE consents ADD COLUMN since INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX consents_by_since ON consents (since);
    """,
)
SCHEMA = len(_MIGRATIONS)

State = Literal["active", "quarantined", "withdrawn"]
EventKind = Literal[
    "published",
    "quarantined",
    "released",
    "withdrawn",
    "teacher_withdrawn",
    "consent_changed",
    "alias_moved",
]


@dataclass(frozen=True)
class Row:
    """A row of `versions`."""

    ref: VersionRef
    weights_sha256: str
    tokenizer_sha256: str
    manifest_json: bytes
    revision: int
    created_ns: int
    state: State
    state_reason: str
    withdrawn_teacher: str
    statement: bytes | None
    told: int
    """The revision as callers are told it."""
    openings: tuple[Opening, ...] = ()
    """Teachers that the caller may see, as `Index.shown` finds them."""


@dataclass(frozen=True)
class SummaryRow:
    """The part of a row of `versions` that choosing among many needs."""

    ref: VersionRef
    revision: int
    told: int
    state: State
    fingerprint_json: str
    """The fingerprint as in the manifest; empty if it has none."""


@dataclass(frozen=True)
class Filter:
    """A choice of versions; None selects all."""

    tenant: str | None = None
    exclude_tenant: str | None = None
    encoder: tuple[str, str] | None = None  # weights, tokenizer
    latest_only: bool = False
    task: str | None = None
    language: str | None = None
    labels: tuple[str, ...] = ()
    changed_after: int = 0
    """A revision as callers are told it; 0 selects all."""


@dataclass(frozen=True)
class EventRow:
    """A row of `events`; `name` is the name of the version, alias or adapter that changed."""

    revision: int
    time_ns: int
    caller: str
    kind: EventKind
    name: str
    other_name: str
    reason: str
    told: int = 0
    """The revision as callers are told it."""


@dataclass(frozen=True)
class AliasRow:
    ref: VersionRef
    alias: str
    etag: str


def connect(path: Path) -> sqlite3.Connection:
    """Open or create the database, and bring its tables up to date.

    Raises:
        RegistryError: a newer release wrote it.
    """
    path.touch(mode=0o600)  # it holds consents and the key of page tokens
    db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    # NORMAL could lose acknowledged rows in a power failure.
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA busy_timeout = 5000")
    done = db.execute("PRAGMA user_version").fetchone()[0]
    if done > SCHEMA:
        db.close()
        raise RegistryError(f"the index has schema {done}, newer than {SCHEMA}")
    for number, script in enumerate(_MIGRATIONS[done:], start=done + 1):
        db.executescript(f"BEGIN; {script} PRAGMA user_version = {number}; COMMIT;")
    return db


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Commit on leaving, roll back on an error. An inner transaction is part of the outer one.

    Other writers wait.
    """
    within = db.in_transaction
    if within:
        yield
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


@contextmanager
def snapshot(db: sqlite3.Connection) -> Iterator[None]:
    """Read the state of one moment in the block, whatever is committed meanwhile."""
    db.execute("BEGIN")
    try:
        yield
    finally:
        db.execute("COMMIT")
