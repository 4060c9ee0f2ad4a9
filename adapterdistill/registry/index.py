"""The registry's SQLite index: versions, lineage and aliases.

Rows of `versions` are only ever added, so that a name is never reused; a row is added after its
payload is on disk. All methods block: the server calls them on one thread of their own.
"""

import time
from collections.abc import Iterable
from pathlib import Path

from adapterdistill.errors import (
    AliasConflictError,
    EncoderMismatchError,
    InvalidManifestError,
    NotFoundError,
)
from adapterdistill.manifest import Manifest, VersionRef, sha256_hex
from adapterdistill.registry.schema import AliasRow, Filter, Row, connect, transaction

_COLUMNS = (
    "tenant, adapter, version, weights_sha256, tokenizer_sha256, manifest_json, revision,"
    " created_ns"
)


class Index:
    """The index in one file. Not thread-safe: one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._db = connect(path)

    def close(self) -> None:
        self._db.close()

    def check(self) -> None:
        """Raises sqlite3.Error when the index cannot be read."""
        self._db.execute("SELECT revision FROM versions LIMIT 1").fetchone()

    def find(self, ref: VersionRef) -> Row | None:
        row = self._db.execute(
            f"SELECT {_COLUMNS} FROM versions WHERE tenant = ? AND adapter = ? AND version = ?",
            (ref.tenant, ref.adapter, ref.version),
        ).fetchone()
        return None if row is None else _row(row)

    def get(self, ref: VersionRef) -> Row:
        """Raises NotFoundError if `ref` is not published."""
        row = self.find(ref)
        if row is None:
            raise NotFoundError(f"no version {ref.name}")
        return row

    def published(self, manifest: Manifest) -> Row | None:
        """The row if this very manifest is published; None if it may be.

        Raises:
            InvalidManifestError: the version has another manifest, or a teacher is unknown.
            EncoderMismatchError: the adapter's other versions, or a teacher, have another encoder.
        """
        row = self.find(manifest.ref)
        if row is not None:
            if row.manifest_json != manifest.canonical_json():
                raise InvalidManifestError(
                    f"{manifest.ref.name} is published with another manifest; versions never change"
                )
            return row
        encoder = (manifest.encoder.weights_sha256, manifest.encoder.tokenizer_sha256)
        sibling = self._db.execute(
            "SELECT weights_sha256, tokenizer_sha256 FROM versions"
            " WHERE tenant = ? AND adapter = ? LIMIT 1",
            (manifest.tenant, manifest.adapter),
        ).fetchone()
        if sibling is not None and sibling != encoder:
            raise EncoderMismatchError(
                f"tenants/{manifest.tenant}/adapters/{manifest.adapter} belongs to encoder"
                f" {sibling[0][:12]}, not {encoder[0][:12]}; publish under another adapter name"
            )
        for name in manifest.teachers:
            teacher = self.find(VersionRef.parse(name))
            if teacher is None:
                raise InvalidManifestError(f"teacher {name} is not published here")
            if (teacher.weights_sha256, teacher.tokenizer_sha256) != encoder:
                raise EncoderMismatchError(
                    f"teacher {name} belongs to encoder {teacher.weights_sha256[:12]},"
                    f" not {encoder[0][:12]}"
                )
        return None

    def add(self, manifest: Manifest) -> Row:
        """Publishes `manifest`, whose payload is on disk; as `published` if that already happened.

        Raises as `published`, whose checks it repeats: two uploads may have raced.
        """
        with transaction(self._db):
            row = self.published(manifest)
            if row is not None:
                return row
            self._db.execute(
                "INSERT INTO versions (tenant, adapter, version, weights_sha256, tokenizer_sha256,"
                " manifest_json, created_ns) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    manifest.tenant,
                    manifest.adapter,
                    manifest.version,
                    manifest.encoder.weights_sha256,
                    manifest.encoder.tokenizer_sha256,
                    manifest.canonical_json(),
                    time.time_ns(),
                ),
            )
            self._db.executemany(
                "INSERT OR IGNORE INTO lineage (student, teacher) VALUES (?, ?)",
                [(manifest.ref.name, teacher) for teacher in manifest.teachers],
            )
        return self.get(manifest.ref)

    def payloads(self) -> set[str]:
        """sha256 of every payload that a version names."""
        return {row[0] for row in self._db.execute("SELECT DISTINCT version FROM versions")}

    def newest_revision(self) -> int:
        newest = self._db.execute("SELECT max(revision) FROM versions").fetchone()[0]
        return int(newest or 0)

    def page(
        self, chosen: Filter, *, before: int, newest: int, max_rows: int, max_bytes: int
    ) -> tuple[list[Row], bool]:
        """Versions with revision < `before`, newest first, and whether more follow.

        Versions after revision `newest` are treated as unpublished, so that the pages of one
        listing agree on which version of an adapter is the latest.
        """
        where = ["v.revision < ?", "v.revision <= ?"]
        values: list[object] = [before, newest]
        if chosen.tenant is not None:
            where.append("v.tenant = ?")
            values.append(chosen.tenant)
        if chosen.exclude_tenant is not None:
            where.append("v.tenant <> ?")
            values.append(chosen.exclude_tenant)
        if chosen.encoder is not None:
            where.append("v.weights_sha256 = ? AND v.tokenizer_sha256 = ?")
            values.extend(chosen.encoder)
        if chosen.latest_only:
            where.append(
                "NOT EXISTS (SELECT 1 FROM versions n WHERE n.tenant = v.tenant"
                " AND n.adapter = v.adapter AND n.revision > v.revision AND n.revision <= ?)"
            )
            values.append(newest)
        rows: list[Row] = []
        size = 0
        cursor = self._db.execute(
            f"SELECT {_COLUMNS} FROM versions v WHERE {' AND '.join(where)}"
            " ORDER BY v.revision DESC LIMIT ?",
            (*values, max_rows + 1),
        )
        for found in cursor:
            row = _row(found)
            size += len(row.manifest_json)
            if len(rows) == max_rows or (rows and size > max_bytes):
                cursor.close()
                return rows, True
            rows.append(row)
        return rows, False

    def alias(self, tenant: str, adapter: str, alias: str) -> AliasRow:
        """Raises NotFoundError if there is no such alias."""
        row = self._db.execute(
            "SELECT version, moves FROM aliases WHERE tenant = ? AND adapter = ? AND alias = ?",
            (tenant, adapter, alias),
        ).fetchone()
        if row is None:
            raise NotFoundError(f"no alias tenants/{tenant}/adapters/{adapter}/aliases/{alias}")
        ref = VersionRef(tenant=tenant, adapter=adapter, version=row[0])
        return AliasRow(ref, alias, _etag(ref, alias, row[1]))

    def set_alias(self, ref: VersionRef, alias: str, etag: str | None) -> AliasRow:
        """Creates the alias (no etag) or moves it (the etag that it has).

        Raises:
            NotFoundError: `ref` is not published.
            AliasConflictError: the alias has another etag, or none.
        """
        with transaction(self._db):
            self.get(ref)
            try:
                current: AliasRow | None = self.alias(ref.tenant, ref.adapter, alias)
            except NotFoundError:
                current = None
            # So a repeated call, whose first answer was lost, succeeds.
            if current is not None and current.ref == ref:
                return current
            if (None if current is None else current.etag) != etag:
                raise AliasConflictError(
                    f"alias {alias} of tenants/{ref.tenant}/adapters/{ref.adapter}"
                    + (" does not exist" if current is None else " is not at the etag given")
                )
            self._db.execute(
                "INSERT INTO aliases (tenant, adapter, alias, version, moves)"
                " VALUES (?, ?, ?, ?, 1)"
                " ON CONFLICT DO UPDATE SET version = excluded.version, moves = moves + 1",
                (ref.tenant, ref.adapter, alias, ref.version),
            )
        return self.alias(ref.tenant, ref.adapter, alias)

    def ancestors(self, ref: VersionRef, limit: int) -> tuple[list[tuple[str, int]], bool]:
        """Names and depths, nearest first, of at most `limit` teachers at any depth."""
        return self._relatives(ref, "SELECT teacher FROM lineage WHERE student = ?", limit)

    def descendants(self, ref: VersionRef, limit: int) -> tuple[list[tuple[str, int]], bool]:
        """Names and depths, nearest first, of at most `limit` students at any depth."""
        return self._relatives(ref, "SELECT student FROM lineage WHERE teacher = ?", limit)

    def _relatives(
        self, ref: VersionRef, query: str, limit: int
    ) -> tuple[list[tuple[str, int]], bool]:
        depth_of = {ref.name: 0}
        level: Iterable[str] = [ref.name]
        depth = 0
        while level:
            depth += 1
            found: list[str] = []
            for name in level:
                for (relative,) in self._db.execute(query, (name,)):
                    if relative not in depth_of:
                        if len(depth_of) > limit:
                            return list(depth_of.items())[1:], True
                        depth_of[relative] = depth
                        found.append(relative)
            level = found
        return list(depth_of.items())[1:], False


def _row(values: tuple[str, str, str, str, str, bytes, int, int]) -> Row:
    tenant, adapter, version, weights, tokenizer, manifest_json, revision, created_ns = values
    ref = VersionRef(tenant=tenant, adapter=adapter, version=version)
    return Row(ref, weights, tokenizer, manifest_json, revision, created_ns)


def _etag(ref: VersionRef, alias: str, moves: int) -> str:
    return sha256_hex(f"{ref.name} {alias} {moves}".encode())[:16]
