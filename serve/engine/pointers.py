"""The release of each tenant of a store; a release is read again only when it changed.

A store says with one small object (`release.CHANGED`) whether any release changed: a refresh reads
32 bytes, whether the store has one tenant or 10,000. After a change the releases are listed, a
thousand a request in an object store, and the new ones are read.
"""

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from adapterdistill.errors import ServingError, StoreError
from adapterdistill.manifest import is_name
from adapterdistill.serve.engine.live import Snapshot, key_of
from adapterdistill.store.bundle import Place
from adapterdistill.store.objects import Found, open_objects
from adapterdistill.store.release import CHANGED, RELEASES, Candidate, Release, read_release

LIST_EVERY_S = 60.0
"""Longest time between listings: a writer may die after its change, and before it says so."""
_SAME_TIME_NS = 2_000_000_000
"""Releases written within this time of the newest may be written again with the same time, because
some stores count in seconds: they are read again at the next listing."""
_READERS = 16
"""Releases that are read at one time: an object store takes milliseconds for each."""
_Read = Release | ServingError


@dataclass(frozen=True)
class _Seen:
    found: Found
    release: _Read
    settled: bool
    """Whether another content would have another time."""


class Pointers:
    """The releases of one store. Belongs to one thread at a time."""

    def __init__(self, store: Place) -> None:
        self._store = open_objects(store)
        self._seen: dict[str, _Seen] = {}
        self._changed: bytes | None = None
        self._listed_at = float("-inf")

    def read(self) -> Iterator[tuple[str, _Read]]:
        """Each tenant with its release, sorted by tenant, or with the error of a damaged release.

        Raises:
            StoreError: the store cannot be read.
        """
        changed = self._store.read(CHANGED)  # before the listing: what changes later is seen later
        if changed is None and self._changed is not None:
            raise StoreError(
                f"store {self._store.where} cannot be used: it is empty or not mounted"
            )
        now = time.monotonic()
        if changed != self._changed or now - self._listed_at > LIST_EVERY_S:
            self._list()
            self._changed, self._listed_at = changed, now
        for tenant, seen in self._seen.items():
            yield tenant, seen.release

    def _list(self) -> None:
        listed = {}
        for one in self._store.list(RELEASES):
            tenant = one.key.rpartition("/")[2].removesuffix(".json")
            if one.key.endswith(".json") and is_name(tenant):
                listed[tenant] = one
        newest = max((one.modified_ns for one in listed.values()), default=0)
        stale = [tenant for tenant, one in listed.items() if not self._is_known(tenant, one)]
        with ThreadPoolExecutor(_READERS) as readers:
            read = dict(zip(stale, readers.map(self._read, stale), strict=True))
        self._seen = {
            tenant: _Seen(one, read[tenant], one.modified_ns < newest - _SAME_TIME_NS)
            if tenant in read
            else self._seen[tenant]
            for tenant, one in sorted(listed.items())
        }

    def _is_known(self, tenant: str, found: Found) -> bool:
        seen = self._seen.get(tenant)
        return seen is not None and seen.settled and seen.found == found

    def _read(self, tenant: str) -> _Read:
        try:
            return read_release(self._store, tenant)
        except ServingError as error:
            return error


@dataclass(frozen=True)
class Wanted:
    """The releases that the store wants served, compared with the served ones.

    Keys are those of `serve.engine.live`.
    """

    bundles: Mapping[str, str]
    """Key to bundle id, sorted. A tenant whose release is damaged keeps what is served."""
    candidates: Mapping[str, Candidate]
    """Tenant to candidate."""
    dropped: tuple[str, ...]
    """Keys that are served and no longer wanted, and candidates that others replace."""
    damaged: Mapping[str, ServingError]
    """Tenant to the fault of its release."""


def read_wanted(pointers: Pointers, now: Snapshot) -> Wanted:
    """Read the store and compare. Raises ServingError: it cannot be read."""
    bundles: dict[str, str] = {}
    candidates: dict[str, Candidate] = {}
    damaged: dict[str, ServingError] = {}
    for tenant, release in pointers.read():
        if isinstance(release, ServingError):
            damaged[tenant] = release
            for key in (tenant, key_of(tenant, "canary")):
                served = now.bundle_id(key)
                if served is not None:
                    bundles[key] = served
            candidate = now.candidates.get(tenant)
        else:
            bundles[tenant] = release.bundle
            candidate = release.candidate
            if candidate is not None:
                bundles[key_of(tenant, "canary")] = candidate.bundle
        if candidate is not None:
            candidates[tenant] = candidate
    dropped = {key for key in (*now.bundles, *now.withdrawals) if key not in bundles}
    for tenant in candidates:
        tried = key_of(tenant, "canary")
        if now.bundle_id(tried) not in (None, bundles.get(tried)):
            dropped.add(tried)
    return Wanted(bundles, candidates, tuple(sorted(dropped)), damaged)
