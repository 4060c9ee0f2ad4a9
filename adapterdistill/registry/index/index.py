"""The registry's index: versions, who may see them, and their lineage.

Rows of `versions` are never deleted, so no name is reused; a row is added after its payload is on
disk. A version that a caller may not see looks as if it did not exist. All methods block: the
server calls them on a thread of their own.
"""

import hmac
import json
import time
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from adapterdistill.errors import (
    EncoderMismatchError,
    InvalidManifestError,
    NotFoundError,
    WithdrawnError,
)
from adapterdistill.manifest import EncoderRef, Manifest, VersionRef
from adapterdistill.registry.access import ANYONE, EVERYONE, Caller, Consent
from adapterdistill.registry.admission.quotas import Stored
from adapterdistill.registry.commitments import Opening, opened
from adapterdistill.registry.index import events, ledger, lost
from adapterdistill.registry.index.database import Database, transaction
from adapterdistill.registry.index.schema import Row

COLUMNS = (
    "v.tenant, v.adapter, v.version, v.weights_sha256, v.tokenizer_sha256, v.manifest_json,"
    " v.revision, v.created_ns, v.state, v.state_reason, v.withdrawn_teacher, v.statement,"
    " (SELECT e.told FROM events e WHERE e.revision = v.revision)"
)
IS = "v.tenant = ? AND v.adapter = ? AND v.version = ?"


class Index:
    """The index on one connection. Not thread-safe: one thread at a time."""

    def __init__(self, db: Database, *, refuse_descendants: bool = False) -> None:
        """Take over the connection, which the other modules of this package use, too.

        `refuse_descendants` hides the descendants of withdrawn versions from other owners.
        """
        self.hides_descendants = refuse_descendants
        self.db = db

    def close(self) -> None:
        self.db.close()

    def check(self) -> None:
        """Raise one of `database.UNREADABLE` if the index cannot be read."""
        self.db.execute("SELECT revision FROM versions LIMIT 1").fetchone()

    def secret(self, name: str) -> bytes:
        """Return random bytes that stay the same as long as the index exists."""
        row = self.db.execute("SELECT value FROM secrets WHERE name = ?", (name,)).fetchone()
        return bytes(row[0])

    def incarnation(self) -> str:
        """Return the name of this life of the registry, which ends when a backup is restored."""
        return self.secret("incarnation").hex()[:16]

    def closed(self) -> str:
        """Say why the registry is closed to all but operators; empty if it is open."""
        row = self.db.execute("SELECT why FROM closed").fetchone()
        return "" if row is None else str(row[0])

    def seen_by(self, caller: Caller, version: str = "v") -> tuple[str, list[object]]:
        """Return the SQL condition, and its values, for rows that the caller may see."""
        if caller.sees_all:
            return "TRUE", []
        v = version
        allowed = (
            f"{v}.state <> 'quarantined' AND EXISTS (SELECT 1 FROM consents c WHERE"
            f" c.tenant = {v}.tenant AND c.adapter = {v}.adapter AND c.allowed IN ('*', ?))"
        )
        if self.hides_descendants:
            allowed += f" AND {v}.withdrawn_teacher = ''"
        return f"({v}.tenant = ? OR ({allowed}))", [caller.name, caller.name]

    def find(self, ref: VersionRef, caller: Caller = ANYONE) -> Row | None:
        """Return the version, in any state; None if the caller may see no such version."""
        seen, values = self.seen_by(caller)
        row = self.db.execute(
            f"SELECT {COLUMNS} FROM versions v WHERE {IS} AND {seen}",
            (ref.tenant, ref.adapter, ref.version, *values),
        ).fetchone()
        return None if row is None else row_of(row)

    def get(self, ref: VersionRef, caller: Caller = ANYONE) -> Row:
        """Return the version, in any state; NotFoundError if `find` finds nothing."""
        row = self.find(ref, caller)
        if row is None:
            raise NotFoundError(f"no version {ref.name}")
        return row

    def get_active(self, ref: VersionRef, caller: Caller) -> Row:
        """Return the version like `get`; WithdrawnError if it was withdrawn."""
        row = self.get(ref, caller)
        if row.state == "withdrawn":
            raise WithdrawnError(f"{ref.name} is withdrawn: {row.state_reason}")
        return row

    def published(
        self,
        manifest: Manifest,
        caller: Caller = ANYONE,
        statement: bytes | None = None,
        openings: Collection[Opening] = (),
    ) -> Row | None:
        """Return the row if exactly this manifest is published; None if it may be published.

        The commitments to its teachers may differ, if they are opened to the same names.

        Raises:
            StaleStatementError: `statement` was used before, or does not follow the newest one.
            InvalidManifestError: the version has another manifest, or a teacher is unknown.
            EncoderMismatchError: the adapter's other versions, or a teacher, have another encoder,
                or the encoder has other shapes here.
            WithdrawnError: the version, or a teacher, was withdrawn.
        """
        row = self.find(manifest.ref)
        if row is not None:
            stored = Manifest.from_json(row.manifest_json)
            if stored != manifest and (
                opened(stored, self.openings(row.ref)) != opened(manifest, openings)
            ):
                raise InvalidManifestError(
                    f"{manifest.ref.name} is published with another manifest; versions never change"
                )
            return self.get_active(manifest.ref, caller)
        reason = lost.withdrawal_of(self.db, manifest.ref)
        if reason is not None:
            raise WithdrawnError(f"{manifest.ref.name} is withdrawn: {reason}")
        encoder = (manifest.encoder.weights_sha256, manifest.encoder.tokenizer_sha256)
        sibling = self.db.execute(
            "SELECT weights_sha256, tokenizer_sha256 FROM versions"
            " WHERE tenant = ? AND adapter = ? LIMIT 1",
            (manifest.tenant, manifest.adapter),
        ).fetchone()
        if sibling is not None and sibling != encoder:
            raise EncoderMismatchError(
                f"tenants/{manifest.tenant}/adapters/{manifest.adapter} belongs to encoder"
                f" {sibling[0][:12]}, not {encoder[0][:12]}; publish under another adapter name"
            )
        self._check_shapes(manifest.encoder)
        for teacher in self._teachers(opened(manifest, openings), caller):
            if (teacher.weights_sha256, teacher.tokenizer_sha256) != encoder:
                raise EncoderMismatchError(
                    f"teacher {teacher.ref.name} belongs to encoder"
                    f" {teacher.weights_sha256[:12]}, not {encoder[0][:12]}"
                )
        if statement is not None:
            ledger.check_next(self.db, ledger.read(statement))
        return None

    def _check_shapes(self, encoder: EncoderRef) -> None:
        """Refuse other shapes than those of the encoder's oldest active version.

        A manifest's word alone would let one owner declare a shape that no loader can use. If the
        oldest itself is wrong, an operator withdraws it.
        """
        oldest = self.db.execute(
            "SELECT manifest_json FROM versions WHERE weights_sha256 = ?"
            " AND tokenizer_sha256 = ? AND state = 'active' ORDER BY revision LIMIT 1",
            (encoder.weights_sha256, encoder.tokenizer_sha256),
        ).fetchone()
        if oldest is None:
            return
        shapes = json.loads(oldest[0])["encoder"]
        layers, hidden = shapes["num_layers"], shapes["hidden_size"]
        found = [encoder.num_layers, encoder.hidden_size]
        if [layers, hidden] != found:
            raise EncoderMismatchError(
                f"encoder {encoder.weights_sha256[:12]} has {layers} layers of hidden size {hidden}"
                f" here, the manifest says {found[0]} of {found[1]}"
            )

    def _teachers(self, manifest: Manifest, caller: Caller) -> list[Row]:
        """Return the manifest's teachers; those that the caller may not see count as unknown."""
        found = []
        for name in manifest.teachers:
            ref = VersionRef.parse(name)
            if self.find(ref, caller) is None:
                raise InvalidManifestError(f"teacher {name} is not published here")
            row = self.get_active(ref, caller)
            if row.state == "quarantined":
                raise InvalidManifestError(
                    f"teacher {name} is in quarantine and cannot be a teacher"
                )
            found.append(row)
        return found

    def add(
        self,
        manifest: Manifest,
        caller: Caller = ANYONE,
        *,
        consent: Consent = EVERYONE,
        statement: bytes | None = None,
        statistics_json: bytes | None = None,
        quarantine: str = "",
        openings: Collection[Opening] = (),
    ) -> Row:
        """Publishes `manifest`, whose payload is on disk; as `published` if that already happened.

        Raises as `published`, whose checks it repeats: two uploads may have raced.

        Args:
            consent: of the adapter, if this is its first version and a registry that was restored
                knows no later one.
            statement: verified.
            quarantine: why it goes into quarantine; empty publishes it.
            openings: of the teachers to which the manifest commits.
        """
        with transaction(self.db):
            row = self.published(manifest, caller, statement, openings)
            if row is not None:
                return row
            if statement is not None:
                ledger.remember(self.db, ledger.read(statement))
            adapter = (manifest.tenant, manifest.adapter)
            named = opened(manifest, openings)
            marks = [one.withdrawn_teacher for one in self._teachers(named, caller)]
            revision = events.record(
                self.db,
                caller,
                "quarantined" if quarantine else "published",
                adapter,
                manifest.ref.name,
                reason=quarantine,
                public=not quarantine,
            )
            if not self.has_versions(adapter):
                known = lost.consent_of(self.db, *adapter)
                self.write_consent(adapter, consent if known is None else known, revision)
            self.db.execute(
                "INSERT INTO versions (revision, tenant, adapter, version, weights_sha256,"
                " tokenizer_sha256, manifest_json, created_ns, state, state_reason,"
                " withdrawn_teacher, statement, statistics_json, task, language, payload_bytes,"
                " fingerprint_json)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    revision,
                    *adapter,
                    manifest.version,
                    manifest.encoder.weights_sha256,
                    manifest.encoder.tokenizer_sha256,
                    manifest.canonical_json(),
                    time.time_ns(),
                    "quarantined" if quarantine else "active",
                    quarantine,
                    next(filter(None, marks), ""),
                    statement,
                    statistics_json,
                    manifest.task,
                    manifest.language,
                    manifest.payload_bytes,
                    "" if manifest.fingerprint is None else manifest.fingerprint.text(),
                ),
            )
            salts = {opening.name: opening.salt for opening in openings}
            self.db.executemany(
                "INSERT INTO lineage (student, teacher, salt) VALUES (?, ?, ?)"
                " ON CONFLICT DO NOTHING",
                [
                    (manifest.ref.name, teacher, salts.get(teacher, b""))
                    for teacher in named.teachers
                ],
            )
            self.db.executemany(
                "INSERT INTO labels (label, revision) VALUES (?, ?) ON CONFLICT DO NOTHING",
                [(label, revision) for label in manifest.labels],
            )
        return self.get(manifest.ref)

    def stored(self, tenant: str) -> Stored:
        """Count the tenant's payloads and versions, in any state."""
        found = self.db.execute(
            "SELECT CAST(coalesce(sum(payload_bytes), 0) AS BIGINT), count(*) FROM versions"
            " WHERE tenant = ?",
            (tenant,),
        ).fetchone()
        return Stored(*found)

    def published_lately(self, caller: Caller) -> int:
        """Count the versions that the caller published in the last hour."""
        found = self.db.execute(
            "SELECT count(*) FROM events WHERE caller = ? AND kind IN ('published', 'quarantined')"
            " AND tenant = ? AND time_ns > ?",
            (str(caller), caller.name, time.time_ns() - 3600 * 10**9),
        ).fetchone()
        return int(found[0])

    def consent(self, tenant: str, adapter: str) -> Consent:
        rows = self.db.execute(
            "SELECT allowed FROM consents WHERE tenant = ? AND adapter = ?", (tenant, adapter)
        )
        return frozenset(allowed for (allowed,) in rows)

    def write_consent(self, adapter: tuple[str, str], consent: Consent, revision: int) -> None:
        """Write a consent that the change of this revision gives."""
        before = self.consent(*adapter)
        self.db.executemany(
            "DELETE FROM consents WHERE tenant = ? AND adapter = ? AND allowed = ?",
            [(*adapter, allowed) for allowed in before - consent],
        )
        self.db.executemany(
            "INSERT INTO consents (tenant, adapter, allowed, since) VALUES (?, ?, ?, ?)",
            [(*adapter, allowed, revision) for allowed in consent - before],
        )

    def has_versions(self, adapter: tuple[str, str]) -> bool:
        found = self.db.execute(
            "SELECT 1 FROM versions WHERE tenant = ? AND adapter = ? LIMIT 1", adapter
        )
        return found.fetchone() is not None

    def names_payload(self, sha256: str) -> bool:
        found = self.db.execute("SELECT 1 FROM versions WHERE version = ? LIMIT 1", (sha256,))
        return found.fetchone() is not None

    def payloads(self) -> set[str]:
        """Return the sha256 of every payload that a version names."""
        return {row[0] for row in self.db.execute("SELECT DISTINCT version FROM versions")}

    def newest_revision(self) -> int:
        return events.newest_revision(self.db)

    def openings(self, ref: VersionRef, caller: Caller = ANYONE) -> tuple[Opening, ...]:
        """List the openings of the version's teachers, as far as the caller may see these."""
        rows = self.db.execute(
            "SELECT teacher, salt FROM lineage WHERE student = ? AND length(salt) > 0", (ref.name,)
        ).fetchall()
        return tuple(Opening(*row) for row in rows if self.sees(row[0], caller))

    def sees(self, name: str, caller: Caller) -> bool:
        """Say whether the caller may see the version of this name."""
        return caller.sees_all or self.find(VersionRef.parse(name), caller) is not None

    def shown(self, row: Row, caller: Caller) -> Row:
        """Return the row as the caller may see it, with the teachers that it may see."""
        teacher = self.shown_name(row.withdrawn_teacher, caller)
        has_hidden = b'"hidden/' in row.manifest_json
        openings = self.openings(row.ref, caller) if has_hidden else ()
        return replace(row, withdrawn_teacher=teacher, openings=openings)

    def shown_name(self, name: str, caller: Caller) -> str:
        """Return the name of a version; a keyed digest of it if the caller may not see that."""
        if not name or self.sees(name, caller):
            return name
        return f"hidden/{self.keyed_digest(name)[:32]}"

    def keyed_digest(self, text: str) -> str:
        """Digest a text so that nobody without the registry's key can guess it."""
        return hmac.new(self.secret("hidden_names"), text.encode(), "sha256").hexdigest()

    def visible(
        self, relatives: Collection[tuple[str, int]], caller: Caller
    ) -> list[tuple[str, int]]:
        """Keep the relatives that the caller may see."""
        return [one for one in relatives if self.sees(one[0], caller)]


def row_of(values: tuple[Any, ...]) -> Row:
    tenant, adapter, version, *rest = values
    return Row(VersionRef(tenant=tenant, adapter=adapter, version=version), *rest)
