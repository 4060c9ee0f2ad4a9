"""Uploads in progress, and those that broke off and may be continued.

The bytes of an upload are in `staging/{caller}/{sha256}`, named by the digest that the whole
payload must have. A continued upload is hashed again from its start, and only a payload with the
right digest moves to `blobs`. The unfinished uploads of a caller are limited; the oldest are
removed first.

All functions block and may be called from any thread.
"""

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Self
from uuid import uuid4

from adapterdistill.errors import (
    ChunkChecksumError,
    InvalidPayloadError,
    RegistryError,
    UploadIncompleteError,
)
from adapterdistill.registry.access import Caller
from adapterdistill.registry.admission.quotas import Quotas

MIN_KEPT_BYTES = 1 << 20
"""Smaller unfinished uploads are not kept: sending them again is faster than asking."""
_SYNC_BYTES = 16 << 20
_READ_BYTES = 1 << 20


class Upload:
    """A payload that is being uploaded.

    Leaving its `with` block without `commit` keeps the bytes, so that the upload may be continued,
    unless the content is at fault. The methods may be called from different threads: a cancelled
    upload is left while its last write may still run.
    """

    def __init__(self, staging: "Staging", path: Path, kept: Path) -> None:
        self.path = path
        self.kept = kept
        self.size = 0
        self.durable_bytes = 0
        self._staging = staging
        self._digest = hashlib.sha256()
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        self._ended = False

    def open(self, offset: int = 0) -> Self:
        """Get ready to write after the first `offset` bytes that were kept.

        Raises:
            UploadIncompleteError: fewer bytes were kept.
        """
        with self._lock:
            assert self._file is None
            if self._ended:
                raise RegistryError("the upload was abandoned")
            try:
                self._continue_from(offset)
            except BaseException:
                self._end(keep=True)  # the kept bytes are unchanged
                raise
        return self

    def _continue_from(self, offset: int) -> None:
        try:
            if offset and self.path != self.kept:
                shutil.copyfile(self.kept, self.path)
            self._file = self.path.open("r+b" if offset else "wb", buffering=0)
        except FileNotFoundError:
            raise UploadIncompleteError(
                f"no bytes of this upload are here, expected {offset}"
            ) from None
        for data in _pieces(self._file, offset):
            self._digest.update(data)
        self._file.truncate(offset)
        self.size = self.durable_bytes = offset

    def write(self, data: bytes) -> None:
        with self._lock:
            file = self._open_file()
            # An unbuffered write may write only a part.
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
            self._digest.update(data)
            self.size += len(data)
            if self.size - self.durable_bytes >= _SYNC_BYTES:
                os.fsync(file.fileno())
                self.durable_bytes = self.size

    def sha256(self) -> str:
        return self._digest.hexdigest()

    def commit(self, target: Path) -> None:
        """Flush the payload to disk and move it to `target`."""
        with self._lock:
            os.fsync(self._open_file().fileno())
            self.path.replace(target)
            self._end(keep=False)

    def leave(self, *, keep: bool) -> None:
        """End an upload; does nothing to one that was committed."""
        with self._lock:
            if self._ended:
                return
            try:
                if keep and self._file is not None:
                    os.fsync(self._file.fileno())
            finally:
                self._end(keep=keep)

    def _end(self, *, keep: bool) -> None:
        self._ended = True
        if self._file is not None:
            self._file.close()
            self._file = None
        self._staging.release(self, keep=keep)

    def _open_file(self) -> IO[bytes]:
        if self._file is None:
            raise RegistryError("the upload was abandoned")
        return self._file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self.leave(keep=may_continue(error))


def may_continue(error: BaseException | None) -> bool:
    """Return whether an upload that `error` ended can be continued with the bytes before it."""
    in_transit = isinstance(error, ChunkChecksumError | UploadIncompleteError)
    return in_transit or not isinstance(error, InvalidPayloadError)


class Staging:
    """The uploads under one folder; each file is written by one upload at a time."""

    def __init__(self, folder: Path, quotas: Quotas) -> None:
        self._folder = folder
        self._quotas = quotas
        self._active: dict[Path, Upload] = {}
        self._lock = threading.Lock()

    def begin(self, caller: Caller, sha256: str) -> Upload:
        """Return an upload that is to be opened next.

        While another upload of the same payload runs, this one has a file of its own.
        """
        kept = self._kept(caller, sha256)
        with self._lock:
            kept.parent.mkdir(exist_ok=True)
            path = kept if kept not in self._active else kept.with_suffix(f".{uuid4().hex}")
            upload = self._active[path] = Upload(self, path, kept)
        return upload

    def durable_bytes(self, caller: Caller, sha256: str) -> int:
        """Return the offset from which an upload of this caller may be continued."""
        kept = self._kept(caller, sha256)
        with self._lock:
            active = self._active.get(kept)
        if active is not None:
            return active.durable_bytes
        try:
            return kept.stat().st_size
        except FileNotFoundError:
            return 0

    def release(self, upload: Upload, *, keep: bool) -> None:
        """Release the upload's file; remove it unless it may be kept and is within the limits."""
        with self._lock:
            del self._active[upload.path]
            if not keep:
                upload.path.unlink(missing_ok=True)
            elif upload.path != upload.kept and upload.kept not in self._active:
                kept_bytes = upload.kept.stat().st_size if upload.kept.exists() else 0
                if kept_bytes < upload.size:
                    upload.path.replace(upload.kept)
            self._trim(upload.kept.parent)

    def sweep(self) -> int:
        """Remove and count files that no upload will continue, or none in time."""
        with self._lock:
            removed = 0
            for path in [*self._folder.iterdir()]:
                if (
                    not path.is_dir()
                ):  # a file of an earlier release, or a probe that may be gone already
                    path.unlink(missing_ok=True)
                    removed += 1
                    continue
                removed += self._trim(path)
                if not any(one.parent == path for one in self._active) and not any(path.iterdir()):
                    path.rmdir()
            return removed

    def _trim(self, folder: Path) -> int:
        """Remove what exceeds the caller's limits, keeping the newest uploads; return the count."""
        idle = [path for path in folder.iterdir() if path not in self._active]
        found = sorted(((path.stat(), path) for path in idle), key=lambda one: -one[0].st_mtime)
        oldest_s = time.time() - self._quotas.staged_s
        room, files, removed = self._quotas.staged_bytes, self._quotas.staged_files, 0
        for stat, path in found:
            worth = not path.suffix and stat.st_size >= MIN_KEPT_BYTES and stat.st_mtime > oldest_s
            if worth and files and stat.st_size <= room:
                room, files = room - stat.st_size, files - 1
            else:
                path.unlink()
                removed += 1
        return removed

    def _kept(self, caller: Caller, sha256: str) -> Path:
        return self._folder / f"{caller.role}.{caller.name}" / sha256


def _pieces(file: IO[bytes], size: int) -> Iterator[bytes]:
    """Yield the first `size` bytes of the file; UploadIncompleteError if there are fewer."""
    left = size
    while left:
        data = file.read(min(_READ_BYTES, left))
        if not data:
            raise UploadIncompleteError(
                f"{size - left} bytes of this upload are here, expected {size}"
            )
        yield data
        left -= len(data)
