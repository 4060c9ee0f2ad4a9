"""The tables of the registry's index, in SQLite and in PostgreSQL, and their rows."""

import secrets
from dataclasses import dataclass
from typing import Literal

from adapterdistill.manifest import VersionRef
from adapterdistill.registry.commitments import Opening

# One script for each schema version, never edited once released. `PRAGMA user_version` counts the
# scripts that were run.
MIGRATIONS = (
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
    CREATE INDEX versions_by_payload ON versions (version);
    """,
)
SCHEMA = len(MIGRATIONS)

# The same tables in PostgreSQL, whose first release has all of them. Texts sort by their bytes, as
# in SQLite.
POSTGRESQL_TABLES = """
CREATE TABLE schema_version (version BIGINT NOT NULL);
CREATE TABLE versions (
    revision BIGINT PRIMARY KEY,
    tenant TEXT COLLATE "C" NOT NULL,
    adapter TEXT COLLATE "C" NOT NULL,
    version TEXT COLLATE "C" NOT NULL,
    weights_sha256 TEXT COLLATE "C" NOT NULL,
    tokenizer_sha256 TEXT COLLATE "C" NOT NULL,
    manifest_json BYTEA NOT NULL,
    created_ns BIGINT NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    state_reason TEXT NOT NULL,
    withdrawn_teacher TEXT COLLATE "C" NOT NULL,
    statement BYTEA,
    statistics_json BYTEA,
    task TEXT COLLATE "C" NOT NULL,
    language TEXT COLLATE "C" NOT NULL,
    payload_bytes BIGINT NOT NULL,
    marked_revision BIGINT NOT NULL DEFAULT 0,
    fingerprint_json TEXT NOT NULL,
    UNIQUE (tenant, adapter, version)
);
CREATE INDEX versions_by_adapter ON versions (tenant, adapter, revision);
CREATE INDEX versions_by_encoder ON versions (weights_sha256, tokenizer_sha256, revision);
CREATE INDEX versions_by_tenant ON versions (tenant, payload_bytes);
CREATE INDEX versions_by_population ON versions (
    weights_sha256, tokenizer_sha256, tenant, revision
);
CREATE INDEX versions_by_payload ON versions (version);
CREATE INDEX versions_by_mark ON versions (marked_revision) WHERE marked_revision > 0;
CREATE TABLE events (
    revision BIGINT PRIMARY KEY,
    time_ns BIGINT NOT NULL,
    caller TEXT COLLATE "C" NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    tenant TEXT COLLATE "C" NOT NULL,
    adapter TEXT COLLATE "C" NOT NULL,
    name TEXT NOT NULL,
    other_name TEXT NOT NULL,
    reason TEXT NOT NULL,
    public BIGINT NOT NULL,
    told BIGINT NOT NULL UNIQUE
);
CREATE INDEX events_by_adapter ON events (tenant, adapter, revision);
CREATE TABLE lineage (
    student TEXT COLLATE "C" NOT NULL,
    teacher TEXT COLLATE "C" NOT NULL,
    salt BYTEA NOT NULL,
    PRIMARY KEY (student, teacher)
);
CREATE INDEX lineage_by_teacher ON lineage (teacher);
CREATE TABLE aliases (
    tenant TEXT COLLATE "C" NOT NULL,
    adapter TEXT COLLATE "C" NOT NULL,
    alias TEXT COLLATE "C" NOT NULL,
    version TEXT NOT NULL,
    moves BIGINT NOT NULL,
    PRIMARY KEY (tenant, adapter, alias)
);
CREATE TABLE labels (
    label TEXT COLLATE "C" NOT NULL,
    revision BIGINT NOT NULL,
    PRIMARY KEY (label, revision)
);
CREATE TABLE consents (
    tenant TEXT COLLATE "C" NOT NULL,
    adapter TEXT COLLATE "C" NOT NULL,
    allowed TEXT COLLATE "C" NOT NULL,
    since BIGINT NOT NULL,
    PRIMARY KEY (tenant, adapter, allowed)
);
CREATE INDEX consents_by_since ON consents (since);
CREATE TABLE nonces (
    tenant TEXT COLLATE "C" NOT NULL,
    nonce TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant, nonce)
);
CREATE TABLE requests (
    caller TEXT COLLATE "C" NOT NULL,
    request_id TEXT COLLATE "C" NOT NULL,
    request_sha256 TEXT NOT NULL,
    response BYTEA NOT NULL,
    time_ns BIGINT NOT NULL,
    PRIMARY KEY (caller, request_id)
);
CREATE INDEX requests_by_time ON requests (time_ns);
CREATE TABLE secrets (name TEXT PRIMARY KEY, value BYTEA NOT NULL);
CREATE TABLE closed (why TEXT NOT NULL);
CREATE TABLE lost (name TEXT PRIMARY KEY, told TEXT NOT NULL)
"""
TABLES = (
    "versions", "events", "lineage", "aliases", "labels", "consents", "nonces", "requests",
    "secrets", "closed", "lost",
)  # fmt: skip
"""All tables of the index, which a move copies."""

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


def new_secrets() -> list[tuple[str, bytes]]:
    """Make the random bytes of a new index, by name."""
    return [
        (name, secrets.token_bytes(32)) for name in ("page_token", "incarnation", "hidden_names")
    ]
