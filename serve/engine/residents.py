"""The tenants in memory: which are loaded, which are evicted, and which requests wait.

Tenants of all encoders are in one snapshot, so that a tenant moves from one encoder to another in
one step. Only tenants of the same encoder make room for each other.

Loads run on their own threads; only the last step, which copies weights into a free slot, runs one
at a time. A batch waits for neither. A tenant is evicted only when a finished load needs the room,
and only if nobody holds it: its weak reference tells, so no count can be forgotten.

A tenant is a key of `serve.engine.live` here: a candidate is loaded and evicted like a tenant of
its own.
"""

import logging
import threading
import time
import weakref
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from types import MappingProxyType

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.errors import (
    AdapterDistillError,
    EncoderMismatchError,
    NoCandidateError,
    OverloadedError,
    UnknownTenantError,
)
from adapterdistill.serve.engine.adapter_bank import AdapterBank
from adapterdistill.serve.engine.banks import Banks
from adapterdistill.serve.engine.drift import kept_drifts
from adapterdistill.serve.engine.live import LiveTenant, Snapshot, Withdrawal, tenant_of
from adapterdistill.serve.engine.load_queue import LoadQueue, PagingCounts
from adapterdistill.serve.engine.loading import Loaded, Loader
from adapterdistill.serve.engine.segmented_lru import SegmentedLru
from adapterdistill.store.release import Candidate

ROOM_TIMEOUT_S = 10.0
"""Longest time that a load waits for a slot while requests hold all of them."""
_MOST_VICTIMS = 64
_log = logging.getLogger("ray.serve")


class Residents:
    """Owns the snapshot. Thread-safe."""

    def __init__(self, banks: Banks, loader: Loader, *, threads: int) -> None:
        self.counts = PagingCounts()
        self.lru = SegmentedLru()
        self._banks = banks
        self._loader = loader
        self._drift_of = kept_drifts()
        nothing: Mapping[str, str] = MappingProxyType({})
        self._snapshot = Snapshot(
            tenants=MappingProxyType({}),
            bundles=nothing,
            withdrawals=MappingProxyType({}),
            withdrawn=frozenset(),
            candidates=MappingProxyType({}),
        )
        self._changing = threading.Lock()  # the bank and the snapshot
        self._loads = LoadQueue(self._load, self.counts, threads=threads)

    @property
    def snapshot(self) -> Snapshot:
        return self._snapshot

    def admit(self, tenant: str) -> LiveTenant | Future[LiveTenant]:
        """The tenant in memory, or its load, which all requests for it share. Does not block.

        A `LiveTenant` stays in memory while somebody keeps it: keep it until the request is
        answered.

        Raises:
            UnknownTenantError: nothing is live, or its bundle was refused a moment ago.
            WithdrawnError: its version is withdrawn.
            OverloadedError: too many loads wait.
        """
        found = self._snapshot.find(tenant)
        if isinstance(found, AdapterDistillError):
            try:
                raise found
            finally:  # an error whose own frame names it keeps all callers until garbage collection
                del found
        self.lru.asked([tenant])
        if isinstance(found, LiveTenant):
            self.counts.hits += 1
            return found
        if self._loader.was_refused(tenant, found):
            raise refused(tenant)
        return self._loads.join(tenant)

    def adopt(self, tenant: str, loaded: Loaded) -> None:
        """Make a proven bundle the tenant's live one, in memory if it was or if there is room."""
        with self._changing:
            name = loaded.manifest.ref.name
            if name in self._snapshot.withdrawn:
                self._withhold(tenant, loaded.bundle_id, name)
                return
            in_memory = tenant in self._snapshot.tenants
            fits = self._has_room(tenant, loaded) or (in_memory and self._make_room(loaded))
            # Without room the old version leaves all the same: the next request loads the new one.
            tenants = {t: one for t, one in self._snapshot.tenants.items() if t != tenant}
            if fits:
                tenants[tenant] = self._placed(loaded)
            self._swap(
                tenants=tenants,
                bundles={**self._snapshot.bundles, tenant: loaded.bundle_id},
                withdrawals={t: r for t, r in self._snapshot.withdrawals.items() if t != tenant},
            )
            (self.lru.entered if fits else self.lru.left)(tenant)

    def know(
        self,
        bundles: Mapping[str, str],
        dropped: Iterable[str],
        candidates: Mapping[str, Candidate] | None = None,
    ) -> None:
        """Add live tenants that are loaded at their first request, and drop others.

        candidates: all candidates in the store; None: unchanged.
        """
        with self._changing:
            now = self._snapshot
            gone = frozenset(dropped)
            self._swap(
                tenants={t: one for t, one in now.tenants.items() if t not in gone},
                bundles={t: one for t, one in {**now.bundles, **bundles}.items() if t not in gone},
                withdrawals={t: one for t, one in now.withdrawals.items() if t not in gone},
                candidates=candidates,
            )
            for tenant in gone:
                self.lru.left(tenant)

    @property
    def num_unproven(self) -> int:
        return self._loader.proofs.num_left(self._snapshot)

    def prove_next(self) -> tuple[str, EncoderMismatchError] | None:
        """Prove one tenant in memory on all sentences; if that fails, drop it and return it."""
        found = self._loader.proofs.prove_next(self._snapshot)
        if found is None:
            return None
        key, bundle_id, error = found
        self._drop(key, bundle_id)
        return key, error

    def disprove(self, live: LiveTenant, error: EncoderMismatchError) -> None:
        """Stop serving a tenant that failed the proof with its first answer; it is logged."""
        resident = self._snapshot.tenants
        keys = [key for key, one in resident.items() if one.bundle_id == live.bundle_id]
        del resident
        for key in keys:
            self._drop(key, live.bundle_id)
            self._count_refused(key, error)

    def _drop(self, key: str, bundle_id: str) -> None:
        self._loader.refuse(key, bundle_id)
        with self._changing:
            if self._snapshot.bundles.get(key) == bundle_id:
                tenants = {k: one for k, one in self._snapshot.tenants.items() if k != key}
                self._swap(tenants=tenants)
                self.lru.left(key)

    def _count_refused(self, key: str, error: AdapterDistillError) -> None:
        with self._changing:
            self.counts.failures += 1
        _log.error("tenant %s: bundle refused [%s]: %s", key, error.reason, error)

    def withdraw(self, name: str) -> tuple[str, ...]:
        """Stop serving the version of this name; returns the keys under which it was served."""
        with self._changing:
            now = self._snapshot
            served = now.serving(name)
            self._swap(
                tenants={t: one for t, one in now.tenants.items() if t not in served},
                bundles={t: one for t, one in now.bundles.items() if t not in served},
                withdrawals={
                    **now.withdrawals,
                    **{t: Withdrawal(now.bundles[t], name) for t in served},
                },
                withdrawn=now.withdrawn | {name},
            )
            for tenant in served:
                self.lru.left(tenant)
            return served

    def has_room(self) -> bool:
        """Whether another tenant fits without an eviction, on one of the encoders at least."""
        return any(
            bank.has_room() and self._num_on(bank) < bank.limit for bank in self._banks.loaded
        )

    def close(self) -> None:
        self._loads.close()

    def _load(self, tenant: str) -> LiveTenant:
        give_up_at = time.monotonic() + ROOM_TIMEOUT_S
        while True:
            found = self._snapshot.find(tenant)
            if isinstance(found, LiveTenant):
                return found
            if isinstance(found, AdapterDistillError):
                try:
                    raise found
                finally:
                    del found  # as in `admit`
            try:
                loaded = self._loader.load(tenant, found, prove=False)
            except AdapterDistillError as error:
                self._count_refused(tenant, error)
                raise refused(tenant) from error
            live = self._enter(tenant, loaded, give_up_at)
            if live is not None:
                return live

    def _enter(self, tenant: str, loaded: Loaded, give_up_at: float) -> LiveTenant | None:
        """Put the tenant into memory; None: another bundle is live by now."""
        while True:
            with self._changing:
                if self._snapshot.find(tenant) != loaded.bundle_id:
                    return None
                name = loaded.manifest.ref.name
                if name in self._snapshot.withdrawn:  # withdrawn before its bundle was known here
                    self._withhold(tenant, loaded.bundle_id, name)
                    return None
                if self._has_room(tenant, loaded) or self._make_room(loaded):
                    live = self._placed(loaded)
                    self._swap(tenants={**self._snapshot.tenants, tenant: live})
                    self.lru.entered(tenant)
                    self.counts.loads += 1
                    return live
            if time.monotonic() > give_up_at:
                raise OverloadedError("all adapters in memory are in use", retry_after_s=1)
            time.sleep(0.01)  # a batch takes some milliseconds

    def _withhold(self, tenant: str, bundle_id: str, name: str) -> None:
        now = self._snapshot
        self._swap(
            tenants={t: one for t, one in now.tenants.items() if t != tenant},
            bundles={t: one for t, one in now.bundles.items() if t != tenant},
            withdrawals={**now.withdrawals, tenant: Withdrawal(bundle_id, name)},
        )
        self.lru.left(tenant)

    def _has_room(self, tenant: str, loaded: Loaded) -> bool:
        """Whether the bundle fits. A variant has no slot but takes memory, so it counts as one."""
        bank, served = loaded.bank, loaded.served
        before = self._snapshot.tenants.get(tenant)
        if self._num_on(bank) - (before is not None and before.bank is bank) >= bank.limit:
            return False
        return not isinstance(served, BottleneckAdapter) or bank.has_room(served.bottleneck_size)

    def _num_on(self, bank: AdapterBank) -> int:
        """Tenants in memory on this encoder."""
        tenants = self._snapshot.tenants
        if self._banks.loaded == (bank,):  # counting a thousand takes as long as reading a file
            return len(tenants)
        return [live.bank for live in tenants.values()].count(bank)

    def _make_room(self, loaded: Loaded) -> bool:
        for victim in self._first_to_go(loaded.bank):
            self._evict_if_idle(victim)
            if self._has_room("", loaded):
                return True
        return False

    def _first_to_go(self, bank: AdapterBank) -> list[str]:
        """Tenants in memory on this encoder, in the order in which they leave.

        A method of its own, so that nothing refers to the tenants while they are evicted.
        """
        resident = self._snapshot.tenants

        def may_go(key: str) -> bool:
            return key in resident and resident[key].bank is bank

        return self.lru.first_to_go(may_go, _MOST_VICTIMS)

    def _evict_if_idle(self, tenant: str) -> None:
        if tenant not in self._snapshot.tenants:
            return
        held = weakref.ref(self._snapshot.tenants[tenant])
        remaining = dict(self._snapshot.tenants)
        del remaining[tenant]
        self._swap(tenants=remaining)
        live = held()
        if live is None:
            self.lru.left(tenant)
            self.counts.evictions += 1
        else:  # a request waits with it, or a batch runs on it
            self._swap(tenants={**remaining, tenant: live})

    def _placed(self, loaded: Loaded) -> LiveTenant:
        served = loaded.served
        return LiveTenant(
            bundle_id=loaded.bundle_id,
            manifest=loaded.manifest,
            bank=loaded.bank,
            served=loaded.bank.place(served) if isinstance(served, BottleneckAdapter) else served,
            index=loaded.index,
            faqs=loaded.faqs,
            threshold=loaded.threshold,
            calibration=loaded.calibration,
            drift=self._drift_of(loaded.bundle_id, loaded.calibration),
        )

    def _swap(
        self,
        *,
        tenants: Mapping[str, LiveTenant] | None = None,
        bundles: Mapping[str, str] | None = None,
        withdrawals: Mapping[str, Withdrawal] | None = None,
        withdrawn: frozenset[str] | None = None,
        candidates: Mapping[str, Candidate] | None = None,
    ) -> None:
        """Swap in the next snapshot; arguments that are not given stay the same, without a copy."""
        now = self._snapshot
        self._snapshot = Snapshot(
            tenants=now.tenants if tenants is None else MappingProxyType(tenants),
            bundles=now.bundles if bundles is None else MappingProxyType(bundles),
            withdrawals=now.withdrawals if withdrawals is None else MappingProxyType(withdrawals),
            withdrawn=now.withdrawn if withdrawn is None else withdrawn,
            candidates=now.candidates if candidates is None else MappingProxyType(candidates),
        )


def refused(tenant: str) -> UnknownTenantError:
    """The answer to a request for a tenant whose bundle was refused."""
    if tenant != tenant_of(tenant):
        return NoCandidateError(f"tenant {tenant_of(tenant)}'s candidate is refused")
    return UnknownTenantError(f"tenant {tenant} has no live adapter: its bundle is refused")
