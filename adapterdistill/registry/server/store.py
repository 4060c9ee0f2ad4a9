"""Payload bytes on disk, each file named by its sha256.

A payload is staged, flushed to disk, and renamed into place, so a file under `blobs` is always
whole. Files that no index row names are harmless; the next start removes them.
"""

import hashlib
import os
import shutil
import socket
from collections.abc import Callable, Collection
from pathlib import Path
from typing import IO
from uuid import uuid4

from adapterdistill.errors import RegistryError
from adapterdistill.files import private_folder, sync
from adapterdistill.registry.admission.quotas import Quotas
from adapterdistill.registry.folder import locked
from adapterdistill.registry.server.staging import Staging, Upload

DEFAULT_QUOTAS = Quotas()


class BlobStore:
    """The payloads under one folder, which one process uses, or those that share an index.

    Raises:
        RegistryError: another process uses the folder.
    """

    def __init__(
        self, root: Path, quotas: Quotas = DEFAULT_QUOTAS, *, shared: bool = False
    ) -> None:
        """Open the folder; `shared` lets other processes that do so use it, too."""
        self.root = root
        self.shared = shared
        self._blobs = root / "blobs"
        # Uploads in progress are of one process: it alone may continue or remove them.
        self._staging = (
            root / "staging" / f"{socket.gethostname()}-{os.getpid()}"
            if shared
            else (root / "staging")
        )
        for folder in (root, root / "staging", self._staging, self._blobs):
            private_folder(folder)
        self._lock = locked(root, shared=shared)
        self.staging = Staging(self._staging, quotas)

    def commit(self, upload: Upload) -> str:
        """Store the payload durably under its sha256; return that."""
        sha256 = upload.sha256()
        target = _blob_path(self._blobs, sha256)
        if not target.parent.exists():
            target.parent.mkdir(exist_ok=True)
            sync(self._blobs)
        upload.commit(target)
        sync(target.parent)
        return sha256

    def open(self, sha256: str) -> IO[bytes]:
        """Open a payload; raises RegistryError if the disk lost it."""
        try:
            return _blob_path(self._blobs, sha256).open("rb")
        except FileNotFoundError:
            raise RegistryError(f"payload {sha256[:12]} is missing from the store") from None

    def path(self, sha256: str) -> Path:
        return _blob_path(self._blobs, sha256)

    def size(self, sha256: str) -> int | None:
        try:
            return _blob_path(self._blobs, sha256).stat().st_size
        except FileNotFoundError:
            return None

    def is_sound(self, sha256: str) -> bool:
        """Return whether the payload is there and unchanged; reads all of it."""
        try:
            with _blob_path(self._blobs, sha256).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == sha256
        except OSError:  # a missing file, or a defect of the disk
            return False

    def remove(self, sha256: str) -> None:
        _blob_path(self._blobs, sha256).unlink(missing_ok=True)

    def sweep(self, named: Callable[[], Collection[str]]) -> int:
        """Remove and count payloads that are not `named`, and abandoned uploads. None may run.

        Nothing is removed while other processes share the folder: they may be about to name it.
        """
        if self.shared:
            self._lock.close()
            try:
                self._lock = locked(self.root)
            except RegistryError:
                self._lock = locked(self.root, shared=True)
                return 0
        try:
            return self._sweep(named())
        finally:
            if self.shared:
                self._lock.close()
                self._lock = locked(self.root, shared=True)

    def _sweep(self, keep: Collection[str]) -> int:
        if self.shared:
            for other in self._staging.parent.iterdir():
                if other != self._staging:
                    shutil.rmtree(other, ignore_errors=True)
        orphans = [blob for blob in self._blobs.glob("*/*") if blob.name not in keep]
        for path in orphans:
            path.unlink()
        return len(orphans) + self.staging.sweep()

    def check_writable(self) -> None:
        """Raise OSError if uploads cannot be staged."""
        probe = self._staging / uuid4().hex
        probe.touch(exist_ok=False)
        probe.unlink(missing_ok=True)  # a sweep may have removed it

    def close(self) -> None:
        self._lock.close()
        if self.shared:
            shutil.rmtree(self._staging, ignore_errors=True)


def _blob_path(blobs: Path, sha256: str) -> Path:
    return blobs / sha256[:2] / sha256
