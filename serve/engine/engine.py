"""Answers batches of mixed tenants, an encoder's adapters in one forward. torch only, no Ray.

A batch works on one `Snapshot`, taken once: tenants, adapters, indexes and thresholds of one
moment. Each encoder has a forward, and so has each variant that serves tenants. A change builds the
next snapshot beside the current one and swaps one reference. So searches need no lock, and an
answer cannot mix two versions or two tenants.

Tenants may have different encoders. Each bundle in memory holds the bank of its own encoder
(`serve.engine.banks`), which alone tokenises and embeds its queries.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor

from adapterdistill.backbone import Encoder
from adapterdistill.errors import (
    AdapterDistillError,
    DeadlineExceededError,
    EncoderMismatchError,
    UnknownTenantError,
    WithdrawnError,
)
from adapterdistill.serve.engine.adapter_bank import MAX_MIB, AdapterBank
from adapterdistill.serve.engine.banks import ENCODER_MIB, Banks
from adapterdistill.serve.engine.classifying import classified
from adapterdistill.serve.engine.faq_index import Ranking, rank
from adapterdistill.serve.engine.items import ClassifyItem, ClassifyOutcome, search_answer
from adapterdistill.serve.engine.items import SearchAnswer as SearchAnswer
from adapterdistill.serve.engine.items import SearchItem as SearchItem
from adapterdistill.serve.engine.items import SearchOutcome as SearchOutcome
from adapterdistill.serve.engine.live import Alias, Snapshot, key_of, tenant_of
from adapterdistill.serve.engine.live import LiveTenant as LiveTenant
from adapterdistill.serve.engine.live import NotLive as NotLive
from adapterdistill.serve.engine.load_queue import PagingCounts
from adapterdistill.serve.engine.loading import KeyFor, Loader, no_key
from adapterdistill.serve.engine.pointers import Pointers, read_wanted
from adapterdistill.serve.engine.residents import Residents, refused
from adapterdistill.store.bundle import Place

WARM = 1024
LOAD_TIMEOUT_S = 5.0
_PROVEN_TOGETHER = 32


@dataclass(frozen=True)
class Refresh:
    """The changes that a refresh made, by key (`serve.engine.live`).

    A refused tenant keeps its earlier version, if it has one; a refused candidate is not used.
    """

    loaded: tuple[str, ...]
    """Keys whose new bundle is proven; it is in memory if there was room."""
    dropped: tuple[str, ...]
    refused: Mapping[str, AdapterDistillError]
    known: tuple[str, ...] = ()
    """New tenants whose bundle is read and proven at their first request."""


@dataclass(frozen=True)
class EncoderUse:
    """A loaded encoder, and what it takes of the memory."""

    name: str
    weights_sha256: str
    encoder_bytes: int
    """Its weights."""
    adapter_bytes: int
    """Its bank: the adapters in memory, and free places."""
    tenants_in_memory: int
    """Candidates are counted like tenants."""


class Engine:
    """Searches over the live bundles of a store. Thread-safe; refreshes run one at a time.

    encoder: the encoder that is there from the start.
    others: loads each encoder that bundles may need beside it; by the encoder's name or folder.
    encoder_mib, bank_mib: most memory of the encoders, and of their adapters, in MiB.
    max_slots: most tenants of an encoder in memory; None: as many as the memory holds.
    load_threads: bundles that are loaded at one time.
    warm: while fewer tenants than this are in memory and there is room, `refresh` loads new tenants
        before anyone asks for them.
    key_for: gives the key of a tenant whose bundles are encrypted.
    """

    def __init__(
        self,
        encoder: Encoder,
        store: Place,
        *,
        retry_refused_s: float = 30.0,
        capacity: int = 8,
        max_slots: int | None = None,
        others: Mapping[str, Callable[[], Encoder]] = MappingProxyType({}),
        encoder_mib: float = ENCODER_MIB,
        bank_mib: float = MAX_MIB,
        load_threads: int = 4,
        warm: int = WARM,
        key_for: KeyFor = no_key,
    ) -> None:
        self.banks = Banks(
            encoder,
            others,
            encoder_mib=encoder_mib,
            bank_mib=bank_mib,
            capacity=capacity,
            max_slots=max_slots,
        )
        self._pointers = Pointers(store)
        self._loader = Loader(self.banks, store, retry_refused_s=retry_refused_s, key_for=key_for)
        self._residents = Residents(self.banks, self._loader, threads=load_threads)
        self._refreshing = threading.Lock()
        self._warm = warm
        self.num_tokens = 0
        """Tokens of queries embedded so far; exact while one thread searches."""

    @property
    def snapshot(self) -> Snapshot:
        return self._residents.snapshot

    @property
    def num_slots(self) -> int:
        """Places for adapters, used and free; the banks add more up to `max_slots`."""
        return sum(bank.num_slots for bank in self.banks.loaded)

    @property
    def num_free_slots(self) -> int:
        return sum(bank.num_free for bank in self.banks.loaded)

    @property
    def max_slots(self) -> int:
        """Most tenants in memory, on the encoders that are loaded."""
        return sum(bank.limit for bank in self.banks.loaded)

    @property
    def bank_bytes(self) -> int:
        return sum(bank.num_bytes for bank in self.banks.loaded)

    @property
    def encoders(self) -> list[EncoderUse]:
        """What each loaded encoder takes of the memory, the first encoder's first."""
        on = Counter(live.bank for live in self.snapshot.tenants.values())
        return [
            EncoderUse(
                bank.encoder.ref.name,
                bank.encoder.ref.weights_sha256,
                bank.encoder_bytes,
                bank.num_bytes,
                on[bank],
            )
            for bank in self.banks.loaded
        ]

    @property
    def paging(self) -> PagingCounts:
        return self._residents.counts

    @property
    def working_set(self) -> int:
        """Tenants that were asked for in the last minutes (`segmented_lru.WINDOW_S`)."""
        return self._residents.lru.working_set()

    @property
    def num_unproven(self) -> int:
        """Bundles in memory that `prove_next` has not proven yet."""
        return self._residents.num_unproven

    async def hold(self, tenant: str, timeout_s: float, alias: Alias = "live") -> LiveTenant:
        """The tenant in memory, after a load if need be; it stays there while the result is kept.

        Raises:
            UnknownTenantError, WithdrawnError: the tenant is not served.
            NoCandidateError: `alias` is "canary", and the tenant has no candidate that is served.
            DeadlineExceededError: the tenant is not loaded within `timeout_s`.
            OverloadedError: too many loads wait, or requests hold all adapters in memory.
        """
        found = self.admit(tenant, alias)
        if isinstance(found, LiveTenant):
            return found
        try:  # shielded: others wait for the same load
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(found)), timeout_s)
        except TimeoutError:
            raise DeadlineExceededError(
                f"tenant {tenant}'s adapter is still being loaded", retry_after_s=1
            ) from None

    def admit(self, tenant: str, alias: Alias = "live") -> LiveTenant | Future[LiveTenant]:
        """The same as `hold`, for threads; see `Residents.admit`."""
        return self._residents.admit(key_of(tenant, alias))

    def close(self) -> None:
        """End the threads that load bundles."""
        self._residents.close()

    def search(self, items: Sequence[SearchItem]) -> list[SearchOutcome]:
        """Answer a batch in the order of `items`.

        For an item of a tenant that is not live, the error stands in its place; the other items are
        answered. Nobody is answered from the bare encoder.
        """
        snapshot = self.snapshot
        found = [(item, _held(snapshot, item)) for item in items]
        del snapshot  # from here on the batch holds its own tenants and no others
        known = [(item, live) for item, live in found if isinstance(live, LiveTenant)]
        self._residents.lru.asked({item.key for item, _ in known if item.held is None})
        rankings = iter(self._rank(known))
        return [
            search_answer(item, live, next(rankings)) if isinstance(live, LiveTenant) else live
            for item, live in found
        ]

    def answer(self, items: Sequence[SearchItem]) -> list[SearchOutcome | ClassifyOutcome]:
        """Answer a batch of searches and classifications in the order of `items`."""
        snapshot = self.snapshot
        found = [(one, _held(snapshot, one)) for one in items if isinstance(one, ClassifyItem)]
        del snapshot  # as in `search`
        outcomes, num_tokens = classified(found)
        self.num_tokens += num_tokens
        classes = iter(outcomes)
        rankings = iter(self.search([one for one in items if not isinstance(one, ClassifyItem)]))
        return [next(classes if isinstance(item, ClassifyItem) else rankings) for item in items]

    @torch.inference_mode()
    def _rank(
        self, known: Sequence[tuple[SearchItem, LiveTenant]]
    ) -> list[Ranking | UnknownTenantError]:
        rows_of: dict[AdapterBank, list[int]] = {}
        for row, (_, live) in enumerate(known):
            rows_of.setdefault(live.bank, []).append(row)
        ranking_of: dict[int, Ranking | UnknownTenantError] = {}
        for bank, rows in rows_of.items():
            ranking_of |= zip(rows, self._rank_on(bank, [known[row] for row in rows]), strict=True)
        return [ranking_of[row] for row in range(len(known))]

    def _rank_on(
        self, bank: AdapterBank, known: Sequence[tuple[SearchItem, LiveTenant]]
    ) -> list[Ranking | UnknownTenantError]:
        """Rankings of items whose tenants are all on this bank's encoder, or errors in the places
        of tenants that fail their proof."""
        ids = bank.encoder.tokenize_queries(
            [item.text for item, _ in known], [live.manifest.encoder for _, live in known]
        )
        self.num_tokens += sum(map(len, ids))
        queries, failed = self._embed_proven(bank, ids, [live for _, live in known])
        rankings = rank(
            queries,
            [item.text for item, _ in known],
            [live.index for _, live in known],
            [item.top_k for item, _ in known],
            [item.explain for item, _ in known],
        )
        return [
            refused(item.key) if live in failed else ranking
            for (item, live), ranking in zip(known, rankings, strict=True)
        ]

    def _embed_proven(
        self, bank: AdapterBank, ids: Sequence[Sequence[int]], lives: Sequence[LiveTenant | None]
    ) -> tuple[Tensor, Mapping[LiveTenant, EncoderMismatchError]]:
        """The same as `Proofs.embed`; tenants that fail are no longer served."""
        embedded, failed = self._loader.proofs.embed(bank, ids, lives)
        for live, error in failed.items():
            self._residents.disprove(live, error)
        return embedded, failed

    @torch.inference_mode()
    def embed(self, texts: Sequence[str], through: Sequence[LiveTenant | None]) -> Tensor:
        """Embeddings of the texts, each through a held tenant or through no adapter: [texts,
        hidden].

        For comparisons, in one batch; `search` answers nothing without an adapter. The encoder is
        that of the held tenants, or the first one if there is none.

        Raises:
            ValueError: the held tenants have different encoders.
            UnknownTenantError: a tenant fails its proof.
        """
        banks = {live.bank for live in through if live is not None} or {self.banks.loaded[0]}
        if len(banks) > 1:
            raise ValueError("the tenants have different encoders: their embeddings do not compare")
        [bank] = banks
        bare = bank.encoder.ref
        refs = [bare if live is None else live.manifest.encoder for live in through]
        ids = bank.encoder.tokenize_queries(texts, refs)
        embedded, failed = self._embed_proven(bank, ids, through)
        for live in failed:
            raise refused(live.manifest.tenant)
        return embedded

    def refresh(self) -> Refresh:
        """Follow the store's releases: a tenant moves to a new bundle when that bundle is proven.

        New tenants are loaded while fewer than `warm` are in memory and there is room, the others
        at their first request. Candidates are always proven first.

        Raises:
            ServingError: the store cannot be read; everything stays as it was.
        """
        with self._refreshing:
            # Without the tenants: a reference to them would keep all of them in memory meanwhile.
            wanted = read_wanted(self._pointers, replace(self.snapshot, tenants={}))
            # First the changes that need no load: a dropped or replaced candidate answers no more.
            if wanted.dropped or wanted.candidates != self.snapshot.candidates:
                self._residents.know({}, wanted.dropped, wanted.candidates)
            loaded: list[str] = []
            fresh: list[str] = []
            refused: dict[str, AdapterDistillError] = dict(wanted.damaged)
            known: dict[str, str] = {}
            for key, bundle_id in wanted.bundles.items():
                served = self.snapshot.bundle_id(key)
                if bundle_id == served or self._loader.was_refused(key, bundle_id):
                    continue
                new = served is None and key == tenant_of(key)
                if new and not self._is_cold():
                    known[key] = bundle_id
                    continue
                try:
                    self._residents.adopt(key, self._loader.load(key, bundle_id, prove=not new))
                    (fresh if new else loaded).append(key)
                except AdapterDistillError as error:
                    refused[key] = error
            if known:
                self._residents.know(known, ())
            refused |= self._prove_together(fresh)
            loaded += [key for key in fresh if key not in refused]
            return Refresh(tuple(loaded), wanted.dropped, refused, tuple(known))

    @torch.inference_mode()
    def _prove_together(self, tenants: Sequence[str]) -> dict[str, EncoderMismatchError]:
        """Prove new tenants briefly, many in a forward; those that fail are no longer known."""
        faults: dict[str, EncoderMismatchError] = {}
        for start in range(0, len(tenants), _PROVEN_TOGETHER):
            lives_on: dict[AdapterBank, list[LiveTenant]] = {}
            for tenant in tenants[start : start + _PROVEN_TOGETHER]:
                live = self.snapshot.tenants.get(tenant)
                if live is not None:
                    lives_on.setdefault(live.bank, []).append(live)
            for bank, lives in lives_on.items():
                _, failed = self._loader.proofs.embed(bank, [], lives)
                for live, error in failed.items():
                    self._loader.refuse(live.manifest.tenant, live.bundle_id)
                    faults[live.manifest.tenant] = error
        if faults:
            self._residents.know({}, faults)
        return faults

    def prove_next(self) -> Refresh:
        """Prove a tenant in memory on all probe sentences; a refused tenant is no longer served."""
        refused = self._residents.prove_next()
        return Refresh((), (), dict([refused] if refused else []))

    def _is_cold(self) -> bool:
        return len(self.snapshot.tenants) < self._warm and self._residents.has_room()

    def withdraw(self, name: str) -> tuple[str, ...]:
        """Stop serving the version of this name from the next batch on, whatever the store says.

        Returns the keys under which it was served.
        """
        return self._residents.withdraw(name)

    def serves(self, name: str) -> bool:
        """Whether a tenant is served the version of this name."""
        return bool(self.snapshot.serving(name))


def _held(snapshot: Snapshot, item: SearchItem) -> LiveTenant | NotLive:
    """The bundle that answers the item: the one that it holds, unless withdrawn, or the live
    one."""
    held = item.held
    if held is None or item.tenant in snapshot.withdrawals:
        return snapshot.live(item.key)
    # Comparing names costs microseconds; a bundle in memory under its key is not withdrawn.
    if snapshot.tenants.get(item.key) is held or held.manifest.ref.name not in snapshot.withdrawn:
        return held
    return WithdrawnError(f"{held.manifest.ref.name} is withdrawn")
