"""What the registry asks and remembers of statements, so that none counts twice or too late.

Every accepted statement leaves its nonce. It must follow the adapter's newest version by digest,
and must not be older than that one's statement: the versions of an adapter form a chain that only
its owner can lengthen, and that cannot be rolled back by repeating what the owner once signed.
"""

import sqlite3
from datetime import UTC, datetime

from adapterdistill.errors import SignatureError, StaleStatementError
from adapterdistill.manifest import Manifest, VersionRef
from adapterdistill.registry.access import Consent
from adapterdistill.registry.trust.statement import (
    Certify,
    Signed,
    Statement,
    check_fresh,
    statement_message,
    stored_statement,
    verify_statement,
)


def accept(
    signed: Signed | None, manifest: Manifest, consent: Consent, certify: Certify | None
) -> bytes | None:
    """The statement of an upload that has just begun, as it is stored; None: it needs none.

    Args:
        consent: as the upload says it outside the statement.
        certify: by the registry's own authority; None: it has none, and speaks plain text.

    Raises:
        SignatureError: it is missing, or not the owner's about this upload.
        ClockSkewError: it was not made for now.
    """
    if certify is None:
        if signed is None:
            return None
        raise SignatureError("statement refused: this registry has no authority to verify it by")
    if signed is None:
        raise SignatureError("an upload must bring a statement that its owner signed")
    statement = verify_statement(signed, manifest, certify)
    check_fresh(statement, consent, datetime.now(UTC))
    stored: bytes = statement_message(signed).SerializeToString()
    return stored


def read(statement: bytes) -> Statement:
    """What a row's statement says; it was verified when it came in."""
    return Statement.model_validate_json(stored_statement(statement).statement_json)


def newest_version(db: sqlite3.Connection, tenant: str, adapter: str) -> VersionRef | None:
    """Of the adapter, in whatever state; None: it has none."""
    row = db.execute(
        "SELECT version FROM versions WHERE tenant = ? AND adapter = ?"
        " ORDER BY revision DESC LIMIT 1",
        (tenant, adapter),
    ).fetchone()
    return None if row is None else VersionRef(tenant=tenant, adapter=adapter, version=row[0])


def check_next(db: sqlite3.Connection, statement: Statement) -> None:
    """Raises StaleStatementError if the statement was used, or does not follow the newest one."""
    used = db.execute(
        "SELECT 1 FROM nonces WHERE tenant = ? AND nonce = ?", (statement.tenant, statement.nonce)
    ).fetchone()
    if used is not None:
        raise StaleStatementError("statement refused: it was used before")
    newest = newest_version(db, statement.tenant, statement.adapter)
    if statement.previous != (None if newest is None else newest.version):
        raise StaleStatementError(
            f"statement refused: it is not about what follows"
            f" {'nothing' if newest is None else newest.version[:12]}, the adapter's newest version"
        )
    before = db.execute(
        "SELECT statement FROM versions WHERE tenant = ? AND adapter = ? AND statement IS NOT NULL"
        " ORDER BY revision DESC LIMIT 1",
        (statement.tenant, statement.adapter),
    ).fetchone()
    if before is not None:
        last = read(before[0])
        if statement.time < last.time:  # RFC 3339 in UTC sorts by time
            raise StaleStatementError(
                f"statement refused: its time, {statement.time}, is before that of the newest"
                f" version's, {last.time}"
            )


def remember(db: sqlite3.Connection, statement: Statement) -> None:
    """Within the transaction that adds the version."""
    db.execute(
        "INSERT INTO nonces (tenant, nonce) VALUES (?, ?)", (statement.tenant, statement.nonce)
    )
