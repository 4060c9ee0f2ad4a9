"""Answers batches of mixed tenants with one encoder forward. torch only, no Ray.

A batch works on one `Snapshot`, taken once: tenants, adapters, indexes and thresholds of one
moment. `refresh` builds the next snapshot beside it and swaps one reference, so searches need no
lock, and an answer cannot mix two versions or two tenants.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import torch

from adapterdistill import bundle as bundles
from adapterdistill.adapters import AdapterStack
from adapterdistill.backbone import Encoder, pack
from adapterdistill.checkpoint import prove_active, unpack_adapter
from adapterdistill.data.schema import Faq
from adapterdistill.errors import (
    AdapterDistillError,
    EncoderMismatchError,
    ServingError,
    UnknownTenantError,
)
from adapterdistill.manifest import Manifest
from serve.adapter_bank import AdapterBank, Slot
from serve.faq_index import FaqIndex, Ranking, rank


@dataclass(frozen=True)
class SearchItem:
    """One question of one tenant's user."""

    tenant: str
    text: str = field(repr=False)  # private: must not reach a log through a repr
    top_k: int = 5


@dataclass(frozen=True)
class RankedFaq:
    faq_id: str
    question: str
    answer: str | None
    score: float
    """Cosine of the query and the FAQ's nearest vector."""


@dataclass(frozen=True)
class SearchAnswer:
    """FAQs best first. If `abstained`, the best is below the tenant's threshold."""

    tenant: str
    adapter: str
    version: str
    ranked: tuple[RankedFaq, ...]
    abstained: bool


@dataclass(frozen=True, eq=False)
class LiveTenant:
    """What one bundle is in memory. Immutable."""

    bundle_id: str
    manifest: Manifest
    slot: Slot
    index: FaqIndex
    faqs: tuple[Faq, ...]
    threshold: float


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Everything that a batch needs, of one moment. Holding it keeps its slots from reuse."""

    stack: AdapterStack
    tenants: Mapping[str, LiveTenant]


@dataclass(frozen=True)
class Refresh:
    """What a refresh changed. A refused tenant keeps its earlier version, if it has one."""

    loaded: tuple[str, ...]
    dropped: tuple[str, ...]
    refused: Mapping[str, AdapterDistillError]


class Engine:
    """Searches over the live bundles of a store. Thread-safe; `refresh` serialises itself."""

    def __init__(
        self, encoder: Encoder, store: Path, *, retry_refused_s: float = 30.0, capacity: int = 8
    ) -> None:
        self._encoder = encoder
        self._store = store
        self._bank = AdapterBank(
            encoder.num_layers,
            encoder.hidden_size,
            dtype=encoder.dtype,
            device=encoder.device,
            capacity=capacity,
        )
        self._snapshot = Snapshot(self._bank.stack, MappingProxyType({}))
        self._refreshing = threading.Lock()
        self._retry_refused_s = retry_refused_s
        self._refused: dict[str, tuple[str, float]] = {}  # tenant -> (bundle id, when)

    @property
    def snapshot(self) -> Snapshot:
        return self._snapshot

    def search(self, items: Sequence[SearchItem]) -> list[SearchAnswer | UnknownTenantError]:
        """Answer a batch in one forward, in the order of `items`.

        An item of a tenant that is not live yields an error in its place and costs the others
        nothing. Nobody is answered from the bare encoder.
        """
        snapshot = self._snapshot
        found = [(item, snapshot.tenants.get(item.tenant)) for item in items]
        known = [(item, live) for item, live in found if live is not None]
        rankings = iter(self._rank(snapshot, known))
        return [
            UnknownTenantError(f"tenant {item.tenant} has no live adapter")
            if live is None
            else _answer(item.tenant, live, next(rankings))
            for item, live in found
        ]

    @torch.inference_mode()
    def _rank(
        self, snapshot: Snapshot, known: Sequence[tuple[SearchItem, LiveTenant]]
    ) -> list[Ranking]:
        if not known:
            return []
        ids = self._encoder.tokenize([item.text for item, _ in known])
        tokens = pack(ids, self._encoder.device)
        slots = torch.tensor([live.slot.number for _, live in known], device=self._encoder.device)
        queries = self._encoder.embed(tokens, snapshot.stack.mixed(slots, tokens))
        return rank(queries, [live.index for _, live in known], [item.top_k for item, _ in known])

    def refresh(self) -> Refresh:
        """Load new and changed live bundles, drop those whose pointer is gone, swap the snapshot.

        Raises:
            ServingError: the store cannot be read; everything stays as it was.
        """
        with self._refreshing:
            before = self._snapshot.tenants
            after: dict[str, LiveTenant] = {}
            loaded: list[str] = []
            refused: dict[str, AdapterDistillError] = {}
            for tenant in bundles.tenants_in(self._store):
                if tenant in before:
                    after[tenant] = before[tenant]
                try:
                    live = self._load_if_changed(tenant, before.get(tenant))
                except AdapterDistillError as error:
                    refused[tenant] = error
                    continue
                if live is not None:
                    after[tenant] = live
                    loaded.append(tenant)
            dropped = tuple(sorted(before.keys() - after.keys()))
            if loaded or dropped:
                self._snapshot = Snapshot(self._bank.stack, MappingProxyType(after))
            return Refresh(tuple(loaded), dropped, refused)

    def _load_if_changed(self, tenant: str, now: LiveTenant | None) -> LiveTenant | None:
        """The tenant's live bundle, or None if it is in memory or was refused a moment ago."""
        bundle_id = bundles.live_bundle(self._store, tenant)
        if now is not None and now.bundle_id == bundle_id:
            return None
        refused_id, when = self._refused.pop(tenant, ("", 0.0))
        if refused_id == bundle_id and time.monotonic() - when < self._retry_refused_s:
            self._refused[tenant] = (refused_id, when)
            return None
        try:
            return self._load(tenant, bundle_id)
        except AdapterDistillError:
            self._refused[tenant] = (bundle_id, time.monotonic())
            raise

    def _load(self, tenant: str, bundle_id: str) -> LiveTenant:
        bundle = bundles.read_bundle(self._store, tenant, bundle_id)
        manifest = bundle.manifest
        if not manifest.encoder.same_as(self._encoder.ref):
            raise EncoderMismatchError(
                f"bundle of tenant {tenant} needs encoder {manifest.encoder.name} "
                f"({manifest.encoder.weights_sha256[:12]}), this server has "
                f"{self._encoder.ref.name} ({self._encoder.ref.weights_sha256[:12]})"
            )
        if manifest.kind != "bottleneck":
            raise ServingError(f"tenant {tenant}: adapters of kind {manifest.kind} are not served")
        adapter = unpack_adapter(bundle.adapter_payload)
        prove_active(self._encoder, adapter, manifest.golden)
        return LiveTenant(
            bundle_id=bundle_id,
            manifest=manifest,
            slot=self._bank.place(adapter),
            index=FaqIndex.of(bundle.vectors, bundle.faq_of_vector),
            faqs=tuple(bundle.faqs),
            threshold=bundle.threshold,
        )


def _answer(tenant: str, live: LiveTenant, ranking: Ranking) -> SearchAnswer:
    ranked = tuple(
        RankedFaq(live.faqs[n].faq_id, live.faqs[n].question, live.faqs[n].answer, score)
        for n, score in zip(ranking.faqs, ranking.scores, strict=True)
    )
    return SearchAnswer(
        tenant=tenant,
        adapter=live.manifest.adapter,
        version=live.manifest.version,
        ranked=ranked,
        abstained=ranked[0].score < live.threshold,
    )
