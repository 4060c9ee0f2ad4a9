"""Payload bytes on disk, each file named by its sha256.

A payload is written to a staged file, flushed to disk, and renamed into place; a file under `blobs`
is therefore always whole. Files that no index row names are harmless and swept at the next start.
"""

import fcntl
import hashlib
import os
import threading
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from uuid import uuid4

from adapterdistill.errors import RegistryError


class StagedBlob:
    """A payload on its way in. Leaving its `with` block uncommitted removes the file.

    The methods may be called from different threads: an upload that is cancelled discards the file
    while its last write may still run.
    """

    def __init__(self, staging: Path, blobs: Path) -> None:
        self.path = staging / uuid4().hex
        self.size = 0
        self._blobs = blobs
        self._digest = hashlib.sha256()
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = self.path.open("xb", buffering=0)

    def write(self, data: bytes) -> None:
        with self._lock:
            if self._file is None:
                raise RegistryError("the upload was given up")
            # An unbuffered write may take only a part.
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
            self._digest.update(data)
            self.size += len(data)

    def sha256(self) -> str:
        return self._digest.hexdigest()

    def commit(self) -> str:
        """Makes the payload durable under its sha256, which it returns."""
        with self._lock:
            if self._file is None:
                raise RegistryError("the upload was given up")
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None
            sha256 = self.sha256()
            target = _blob_path(self._blobs, sha256)
            if not target.parent.exists():
                target.parent.mkdir(exist_ok=True)
                _sync_folder(self._blobs)
            self.path.replace(target)
            _sync_folder(target.parent)
            return sha256

    def discard(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None
                self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.discard()


class BlobStore:
    """The payloads under one folder, which one process at a time may use.

    Raises:
        RegistryError: another process has the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._staging = root / "staging"
        self._blobs = root / "blobs"
        for folder in (root, self._staging, self._blobs):
            folder.mkdir(parents=True, exist_ok=True)
        self._lock = (root / "lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise RegistryError(f"another registry process uses the folder {root.name}") from None

    def stage(self) -> StagedBlob:
        return StagedBlob(self._staging, self._blobs)

    def open(self, sha256: str) -> IO[bytes]:
        """Raises RegistryError if the payload is not there: the disk lost it."""
        try:
            return _blob_path(self._blobs, sha256).open("rb")
        except FileNotFoundError:
            raise RegistryError(f"payload {sha256[:12]} is missing from the store") from None

    def size(self, sha256: str) -> int | None:
        try:
            return _blob_path(self._blobs, sha256).stat().st_size
        except FileNotFoundError:
            return None

    def sweep(self, keep: Collection[str]) -> int:
        """Removes and counts staged files and payloads not in `keep`. Not while uploads run."""
        stale = [*self._staging.iterdir()]
        stale += [blob for blob in self._blobs.glob("*/*") if blob.name not in keep]
        for path in stale:
            path.unlink()
        return len(stale)

    def check_writable(self) -> None:
        """Raises OSError when uploads cannot be staged."""
        probe = self._staging / uuid4().hex
        probe.touch(exist_ok=False)
        probe.unlink()

    def close(self) -> None:
        self._lock.close()


def _blob_path(blobs: Path, sha256: str) -> Path:
    return blobs / sha256[:2] / sha256


def _sync_folder(folder: Path) -> None:
    """Makes the names in `folder` durable: fsync of a file does not cover its entry."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
