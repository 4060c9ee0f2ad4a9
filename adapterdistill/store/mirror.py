"""A serving store elsewhere, with copies on this node that answer when it is out of reach.

Blobs are named by their digest, so a copy that has it is as good as the original and is not asked
for again. Everything else is read from the store, and its last copy stands in while the store is
lost. The copies are as private as the store (mode 0600; encrypted where the store is), replicas of
one node share them, and `prune` removes those that no release of a tenant needs.
"""

import time
from collections.abc import Iterator
from pathlib import Path

from adapterdistill.errors import ServingError, StoreError
from adapterdistill.manifest import sha256_hex
from adapterdistill.store.bundle import Contents, contents_key
from adapterdistill.store.objects import Folder, Found, Objects
from adapterdistill.store.release import CHANGED, RELEASES, read_release


class Mirror(Objects):
    """The store, or its copies. Thread-safe.

    lost_at: monotonic time since when the store is out of reach; None: it is within reach.
    """

    def __init__(self, store: Objects, copies: Path) -> None:
        self.store = store
        self.copies = Folder(copies)
        self.where = store.where
        self.lost_at: float | None = None

    def read(self, key: str) -> bytes | None:
        if key.startswith("blobs/"):
            return self._blob(key)
        if self.lost_at is not None and key != CHANGED and self.copies.exists(key):
            return self.copies.read(
                key
            )  # the next refresh asks the store again, nothing else waits
        try:
            found = self.store.read(key)
        except StoreError:
            self._lose()
            copy = self.copies.read(key)
            if copy is None:
                raise
            return copy
        if found is None and key == CHANGED and (copy := self.copies.read(key)) is not None:
            self._lose()  # a share that is not mounted looks like an empty store
            return copy
        self.lost_at = None
        if found is None:
            self.copies.delete(key)
        elif found != self.copies.read(key):
            self.copies.write(key, found)
        return found

    def write(self, key: str, content: bytes) -> None:
        self.store.write(key, content)

    def exists(self, key: str) -> bool:
        try:
            return self.store.exists(key)
        except StoreError:
            self._lose()
            return self.copies.exists(key)

    def list(self, folder: str) -> Iterator[Found]:
        if self.lost_at is None:
            try:
                found = [*self.store.list(folder)]
            except StoreError:
                self._lose()
            else:
                if folder == RELEASES:
                    self._forget_all_but({one.key for one in found})
                yield from found
                return
        yield from self.copies.list(folder)

    def delete(self, key: str) -> None:
        self.store.delete(key)
        self.copies.delete(key)

    def prune(self, tenant: str) -> None:
        """Remove the copies that neither the tenant's live bundle, the one before nor its candidate
        needs."""
        try:
            release = read_release(self.copies, tenant)
        except ServingError:  # damaged: what is served stays
            return
        tried = None if release.candidate is None else release.candidate.bundle
        wanted = {one for one in (release.bundle, release.before, tried) if one is not None}
        lists = {contents_key(tenant, one) for one in wanted}
        blobs: set[str] = set()
        for key in lists:
            copy = self.copies.read(key)
            blobs |= set() if copy is None else _blobs_of(copy)
        for folder, kept in (("bundles", lists), ("blobs", blobs)):
            for one in self.copies.list(f"{folder}/{tenant}"):
                if one.key not in kept and one.key.rpartition("/")[2] not in kept:
                    self.copies.delete(one.key)

    def _blob(self, key: str) -> bytes | None:
        copy, name = self.copies.read(key), key.rpartition("/")[2]
        if copy is not None and sha256_hex(copy) == name:
            return copy
        found = self.store.read(key)
        if found is not None and sha256_hex(found) == name:
            self.copies.write(key, found)
        return found

    def _forget_all_but(self, keys: set[str]) -> None:
        if self.copies.path.is_dir():
            for one in self.copies.list(RELEASES):
                if one.key not in keys:
                    self.copies.delete(one.key)

    def _lose(self) -> None:
        if self.lost_at is None:
            self.lost_at = time.monotonic()


def _blobs_of(contents: bytes) -> set[str]:
    try:
        return {blob.sha256 for blob in Contents.model_validate_json(contents).files.values()}
    except ValueError:
        return set()
