"""The registry's memory of statements, which keeps any from being used twice or too late.

The nonce of every accepted statement is stored. A statement must name the adapter's newest version
by digest and must not be older than that version's statement. So the versions of an adapter form a
chain that only its owner can extend, and replaying an old statement cannot roll it back.
"""

from datetime import UTC, datetime

from adapterdistill.errors import SignatureError, StaleStatementError
from adapterdistill.manifest import Manifest, VersionRef, sha256_hex
from adapterdistill.registry.access import Consent
from adapterdistill.registry.index.database import Database
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
    signed: Signed | None,
    manifest: Manifest,
    consent: Consent,
    certify: Certify | None,
    registry: str | None = None,
) -> bytes | None:
    """Verify the statement of an upload that begins; return it as it is stored.

    Args:
        consent: the upload's consent, as given outside the statement.
        certify: verifies certificates by the registry's authority; None: the registry has no
            authority, serves plain text and takes no statements. The result is None then.
        registry: name of this registry, which the statement must be for.

    Raises:
        SignatureError: the statement is missing, or is not the owner's about this upload.
        ClockSkewError: its time is too far from the registry's clock.
    """
    if certify is None:
        if signed is None:
            return None
        raise SignatureError("statement refused: this registry has no authority to verify it")
    if signed is None:
        raise SignatureError("an upload must bring a statement that its owner signed")
    statement = verify_statement(signed, manifest, certify, registry)
    check_fresh(statement, consent, datetime.now(UTC))
    stored: bytes = statement_message(signed).SerializeToString()
    return stored


def read(statement: bytes) -> Statement:
    """Read a row's statement, which was verified when it was accepted."""
    return Statement.model_validate_json(stored_statement(statement).statement_json)


def newest_version(db: Database, tenant: str, adapter: str) -> VersionRef | None:
    """Return the adapter's newest version, in any state; None if it has none."""
    row = db.execute(
        "SELECT version FROM versions WHERE tenant = ? AND adapter = ?"
        " ORDER BY revision DESC LIMIT 1",
        (tenant, adapter),
    ).fetchone()
    return None if row is None else VersionRef(tenant=tenant, adapter=adapter, version=row[0])


def check_next(db: Database, statement: Statement) -> None:
    """Raise StaleStatementError if the statement was used, or does not follow the newest one."""
    used = db.execute(
        "SELECT 1 FROM nonces WHERE tenant = ? AND nonce = ?", (statement.tenant, statement.nonce)
    ).fetchone()
    if used is not None:
        raise StaleStatementError("statement refused: it was used before")
    newest = newest_version(db, statement.tenant, statement.adapter)
    expected = {None} if newest is None else {sha256_hex(newest.version.encode()), newest.version}
    if statement.previous not in expected:  # earlier clients name the digest itself
        raise StaleStatementError(
            "statement refused: the adapter's newest version is"
            f" {'none' if newest is None else newest.version[:12]}, the statement follows another"
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
                f"statement refused: its time, {statement.time}, is before the time of the newest"
                f" version's statement, {last.time}"
            )


def remember(db: Database, statement: Statement) -> None:
    """Store the statement's nonce, within the transaction that adds the version."""
    db.execute(
        "INSERT INTO nonces (tenant, nonce) VALUES (?, ?)", (statement.tenant, statement.nonce)
    )
