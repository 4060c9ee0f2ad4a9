"""The check of a registry's folder, or of a backup, which changes nothing.

A server may be running: its changes meanwhile are not reported as faults.
"""

import hashlib
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from adapterdistill.manifest import VersionRef
from adapterdistill.registry.folder import is_served, was_served
from adapterdistill.registry.index.database import (
    INDEX,
    Database,
    connect_for_reading,
    snapshot,
)
from adapterdistill.registry.index.events import VOIDED, newest_revision
from adapterdistill.registry.index.schema import EventKind, EventRow
from adapterdistill.registry.trust.pem import AUTHORITY_FOLDER
from adapterdistill.registry.upkeep.audit_verify import LOG, examine
from adapterdistill.registry.upkeep.fsck_versions import (
    Finding,
    certify_by,
    lineage_findings,
    manifest_findings,
    read_versions,
    revocation_notes,
    statement_findings,
)

_EVENT_KINDS = get_args(EventKind)
_EVENT_FIELDS = tuple(name for name in EventRow.__annotations__ if name != "told")
_SETTLE_S = 1.0


@dataclass(frozen=True)
class Checked:
    """The counts of a check, its findings, and notes, which are no faults."""

    versions: int
    payloads: int
    payload_bytes: int
    revision: int
    audit_head: str
    findings: tuple[Finding, ...]
    notes: tuple[Finding, ...] = ()


def blob_files(root: Path) -> dict[str, Path]:
    """Map the sha256 of payloads to their files."""
    return {path.name: path for path in sorted((root / "blobs").glob("*/*"))}


def fsck(root: Path) -> Checked:
    """Check a folder; raises ConfigError if `root` is not a registry's folder."""
    with closing(connect_for_reading(root)) as db:
        # Before reading the index, because a payload is on disk before the index names it.
        blobs = blob_files(root)
        try:
            findings = [*_index_findings(db)]
            notes: list[Finding] = []
            rows = []
            if not findings:
                with snapshot(db):
                    rows = read_versions(db)
                    findings += lineage_findings(db, rows)
                    findings += _alias_findings(db)
                findings += manifest_findings(rows)
                findings += statement_findings(rows, *certify_by(root))
                notes += revocation_notes(root, rows)
                findings += _payload_findings(root, db, blobs)
                for one in _audit_findings(root, db):
                    # A restored folder's first start adds the withdrawals that it made again.
                    is_note = one.kind == "audit_behind" and not was_served(root)
                    (notes if is_note else findings).append(one)
                findings += _enrolment_findings(root)
        except sqlite3.DatabaseError as error:
            findings, notes, rows = [Finding("index_corrupt", INDEX, str(error))], [], []
        revision = 0 if not rows else newest_revision(db)
    head = examine(root / "audit" / LOG).head if (root / "audit" / LOG).exists() else ""
    return Checked(
        versions=len(rows),
        payloads=len(blobs),
        payload_bytes=sum(path.stat().st_size for path in blobs.values()),
        revision=revision,
        audit_head=head,
        findings=tuple(findings),
        notes=tuple(notes),
    )


def tenant_versions(root: Path, tenant: str) -> list[str]:
    """List the names of a tenant's versions that are not withdrawn, oldest first.

    Raises:
        ConfigError: `root` is not a registry's folder.
    """
    with closing(connect_for_reading(root)) as db:
        rows = db.execute(
            "SELECT adapter, version FROM versions WHERE tenant = ? AND state <> 'withdrawn'"
            " ORDER BY revision",
            (tenant,),
        ).fetchall()
    return [
        VersionRef(tenant=tenant, adapter=adapter, version=version).name
        for adapter, version in rows
    ]


def _index_findings(db: Database) -> Iterator[Finding]:
    for fault in db.faults():
        yield Finding("index_corrupt", INDEX, fault)


def _alias_findings(db: Database) -> Iterator[Finding]:
    rows = db.execute(
        "SELECT a.tenant, a.adapter, a.alias FROM aliases a LEFT JOIN versions v"
        " ON v.tenant = a.tenant AND v.adapter = a.adapter AND v.version = a.version"
        " WHERE v.version IS NULL"
    )
    for tenant, adapter, alias in rows:
        name = f"tenants/{tenant}/adapters/{adapter}/aliases/{alias}"
        yield Finding("alias_dangling", name, "its version does not exist")


def _payload_findings(root: Path, db: Database, blobs: dict[str, Path]) -> Iterator[Finding]:
    named = _payloads(db)
    orphans = blobs.keys() - named
    if orphans and is_served(root):
        time.sleep(_SETTLE_S)
        orphans -= _payloads(db)
    for sha256 in sorted(orphans):
        yield Finding("payload_orphaned", sha256, "no version names it; the next start removes it")
    for sha256 in sorted(named):
        # Look it up again, because it may have come since.
        path = root / "blobs" / sha256[:2] / sha256
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            yield Finding(
                "payload_missing", sha256, "a version names it; publishing it again repairs this"
            )
        except OSError as error:
            yield Finding(
                "payload_corrupt",
                sha256,
                f"it cannot be read: {error.strerror}; publishing it again repairs this",
            )
        else:
            if found != sha256:
                detail = f"its sha256 is {found}; publishing it again repairs this"
                yield Finding("payload_corrupt", sha256, detail)


def _payloads(db: Database) -> set[str]:
    return {row[0] for row in db.execute("SELECT DISTINCT version FROM versions")}


def _audit_findings(root: Path, db: Database) -> Iterator[Finding]:
    log = root / "audit" / LOG
    differing: list[int] = []

    def compare(record: dict[str, Any]) -> None:
        if record["kind"] not in _EVENT_KINDS:
            return
        revision = record["revision"]
        if (event := _event(db, revision)) is None:
            # The line comes before its change is committed; one that never is becomes void.
            if revision == newest_revision(db) + 1:
                return
            event = _event(db, revision)
        if event is None or not (
            event[_EVENT_FIELDS.index("kind")] == VOIDED
            or event == tuple(record.get(field) for field in _EVENT_FIELDS)
        ):
            differing.append(record["number"])

    newest = newest_revision(db)
    if not log.exists():
        if newest:
            yield Finding("audit_behind", LOG, f"there is no log; the index has {newest} events")
        return
    found = examine(log, visit=compare)
    if found.fault is not None and found.fault.why == "torn" and is_served(root):
        time.sleep(_SETTLE_S)  # a line was being written
        differing.clear()
        found = examine(log, visit=compare)
    if found.fault is not None:
        yield Finding("audit_broken", LOG, str(found.fault))
    for number in differing:
        yield Finding("audit_differs", LOG, f"line {number}: the index has another event")
    # Events reach the index before the log, so the log may have passed `newest` meanwhile.
    if found.fault is None and found.revision < newest:
        if is_served(root):
            time.sleep(_SETTLE_S)
            found = examine(log)
        if found.revision < newest:
            yield Finding(
                "audit_behind",
                LOG,
                f"it ends with event {found.revision}, the index with {newest};"
                " the next start adds the missing ones",
            )


def _enrolment_findings(root: Path) -> Iterator[Finding]:
    log = root / AUTHORITY_FOLDER / "audit" / LOG
    if log.exists() and (fault := examine(log).fault) is not None:
        yield Finding("audit_broken", f"{AUTHORITY_FOLDER}/audit/{LOG}", str(fault))


def _event(db: Database, revision: int) -> tuple[Any, ...] | None:
    found: tuple[Any, ...] | None = db.execute(
        f"SELECT {', '.join(_EVENT_FIELDS)} FROM events WHERE revision = ?", (revision,)
    ).fetchone()
    return found
