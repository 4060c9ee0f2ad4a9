"""Backups of a registry's folder, made while it serves, and their restoration.

A backup has the registry's own layout (index, payloads, audit log) and `backup.json` with the
digest of every file. It holds no private key: neither the authority's, nor the server's, nor the
audit log's. Keys rarely change: keep copies of them elsewhere. A restored registry makes a new
audit key unless `audit.key` is put back. If it had ROOT/server, it does not start until that is put
back: its revocation list must be the newest, not one as old as the backup.
"""

import hashlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from uuid import uuid4

from pydantic import Field, ValidationError

from adapterdistill import __version__
from adapterdistill.errors import ConfigError, IntegrityError
from adapterdistill.manifest import Record, Sha256
from adapterdistill.registry.index.copying import copy_tables
from adapterdistill.registry.index.database import (
    INDEX,
    Database,
    connect,
    connect_for_reading,
    sqlite,
)
from adapterdistill.registry.index.events import newest_revision
from adapterdistill.registry.index.index import Index
from adapterdistill.registry.trust.pem import AUTHORITY_FOLDER, SERVER_FOLDER
from adapterdistill.registry.upkeep.audit_line import unseal
from adapterdistill.registry.upkeep.audit_verify import LOG, PUBLIC_KEY, verify
from adapterdistill.registry.upkeep.fsck import Checked, fsck
from adapterdistill.registry.upkeep.replay import check_continues, replay

CONTENTS = "backup.json"
_BLOBS = "blobs/"


class FileDigest(Record):
    sha256: Sha256
    bytes: int = Field(ge=0)


class Contents(Record):
    """The contents of a backup: `backup.json`."""

    format: Literal[1] = 1
    time: str
    """Time when the index was copied, in RFC 3339, UTC."""
    release: str
    revision: int
    """Revision of the newest event."""
    versions: int
    audit_head: str
    served_tls: bool
    files: dict[str, FileDigest]
    """Digests by path within the backup, with slashes."""

    @property
    def size(self) -> int:
        return sum(file.bytes for file in self.files.values())


def backup(root: Path, target: Path) -> Contents:
    """Copy the state of a registry at one moment, served or not, into the new folder `target`.

    Raises:
        ConfigError: `root` is not a registry's folder, or `target` is in use or cannot be written.
        IntegrityError: the files in `root` are not what was published; no backup was made.
    """
    with closing(connect_for_reading(root)) as index, _new_folder(target) as staged:
        now = f"{datetime.now(UTC):%FT%TZ}"
        _copy_index(index, staged / INDEX)
        with closing(sqlite(staged / INDEX)) as copied:
            versions = copied.execute("SELECT count(*) FROM versions").fetchone()[0]
            revision = newest_revision(copied)
            payloads = copied.execute("SELECT DISTINCT version FROM versions").fetchall()
        _copy_log(root / "audit", staged / "audit", revision)
        for (sha256,) in payloads:
            _copy_payload(root, staged, sha256)
        checked = _sound(staged)
        contents = Contents(
            time=now,
            release=__version__,
            revision=revision,
            versions=versions,
            audit_head=checked.audit_head,
            served_tls=any((root / one).exists() for one in (SERVER_FOLDER, AUTHORITY_FOLDER)),
            files={name: _digest(staged, name) for name in _files(staged)},
        )
        (staged / CONTENTS).write_bytes(contents.canonical_json())
    return contents


def restore(source: Path, root: Path, *, audit: Path | None = None) -> Contents:
    """Copy a backup into the new folder `root`, from which a registry may then be served.

    Args:
        audit: the audit log of the registry that is gone, whose later withdrawals and consents are
            made again. Without it, the registry stays closed to all but operators until `reopen`.

    Raises:
        ConfigError: `source` is not a backup, or `root` is not empty or cannot be written.
        IntegrityError: the backup was changed; nothing was restored.
        AuditBrokenError: `audit` was changed, or does not continue the backup's log.
    """
    contents = _contents(source)
    if audit is not None:
        check_continues(audit, contents.audit_head, source / "audit" / PUBLIC_KEY)
    found = {*_files(source)} - {CONTENTS}
    if found != contents.files.keys():
        name = min(found ^ contents.files.keys())
        raise IntegrityError(
            f"{name} is {'missing from' if name in contents.files else 'not part of'} the backup"
        )
    with _new_folder(root) as staged:
        for name, expected in contents.files.items():
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, staged / name)
            if _digest(staged, name) != expected:
                raise IntegrityError(f"{name} of the backup was changed")
        _sound(staged)
        _begin_anew(staged, contents, audit)
        if contents.served_tls:
            # Without this folder the registry would serve plain text.
            (staged / SERVER_FOLDER).mkdir(mode=0o700)
    return contents


def _begin_anew(staged: Path, contents: Contents, audit: Path | None) -> None:
    """Give the restored index a new incarnation, and replay `audit` or close it."""
    index = Index(sqlite(staged / INDEX))
    try:
        # As at the backup: what was made with these is of the registry that is gone.
        index.db.execute("UPDATE secrets SET value = randomblob(32)")
        index.db.execute("DELETE FROM closed")
        if audit is None:
            why = (
                f"it was restored from a backup of {contents.time}, and later withdrawals and"
                " consents may be lost; an operator runs `registry reopen` if none are"
            )
            index.db.execute("INSERT INTO closed VALUES (?)", (why,))
        else:
            replay(index, audit, contents.revision)
        index.db.execute("PRAGMA journal_mode = DELETE")
    finally:
        index.close()


def reopen(root: Path) -> None:
    """Open a restored registry to all callers; ConfigError if `root` is not a registry's folder."""
    connect_for_reading(root).close()
    with closing(connect(root)) as db:
        db.execute("DELETE FROM closed")


def _contents(source: Path) -> Contents:
    try:
        return Contents.model_validate_json((source / CONTENTS).read_bytes())
    except OSError as error:
        raise ConfigError(f"{source}: expected a backup: {CONTENTS}: {error.strerror}") from None
    except ValidationError as error:
        raise IntegrityError(f"{CONTENTS} is malformed: {error.error_count()} faults") from None


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """Yield a folder that becomes `target`, flushed to disk, if the block ends without an error."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target}: expected a new or empty folder")
    staged = target.with_name(f".{target.name}.{uuid4().hex}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staged.mkdir(mode=0o700)
        try:
            yield staged
            os.sync()  # thousands of files: one flush of the disk, not one each
            staged.rename(target)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        os.sync()
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error.strerror}") from None


def _copy_index(index: Database, target: Path) -> None:
    """Copy the state of one moment to an SQLite file, while the registry continues to write."""
    with closing(sqlite(target)) as copy:
        if isinstance(index, sqlite3.Connection):
            index.backup(copy)
        else:
            copy_tables(index, copy)
        copy.execute("PRAGMA journal_mode = DELETE")
        copy.execute("UPDATE secrets SET value = randomblob(32)")


def _copy_log(source: Path, target: Path, revision: int) -> None:
    """Copy the log up to `revision`, which the index may have reached before the log."""
    target.mkdir()
    shutil.copyfile(source / PUBLIC_KEY, target / PUBLIC_KEY)
    with (source / LOG).open("rb") as file, (target / LOG).open("xb") as copy:
        for line in file:
            record = unseal(line.rstrip(b"\n"))
            if not line.endswith(b"\n") or (record is not None and record["revision"] > revision):
                break
            copy.write(line)
    verify(target / LOG)


def _copy_payload(root: Path, staged: Path, sha256: str) -> None:
    name = f"{_BLOBS}{sha256[:2]}/{sha256}"
    (staged / name).parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(root / name, staged / name)
    except FileNotFoundError:
        raise IntegrityError(f"payload {sha256} is missing: see `registry fsck`") from None


def _sound(staged: Path) -> Checked:
    checked = fsck(staged)
    if checked.findings:
        first = checked.findings[0]
        raise IntegrityError(
            f"{len(checked.findings)} faults, the first {first.kind}: {first.name}: {first.detail}"
        )
    return checked


def _files(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise IntegrityError(f"{path.name} is neither a file nor a folder")
        if path.is_file():
            yield path.relative_to(folder).as_posix()


def _digest(folder: Path, name: str) -> FileDigest:
    path = folder / name
    with path.open("rb") as file:
        # Payloads are named by their sha256, which `fsck` compares with what they hold.
        is_payload = name.startswith(_BLOBS)
        sha256 = path.name if is_payload else hashlib.file_digest(file, "sha256").hexdigest()
        return FileDigest(sha256=sha256, bytes=path.stat().st_size)
