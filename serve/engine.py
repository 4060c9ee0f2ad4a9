"""Answers batches of mixed tenants, all adapters in one encoder forward. torch only, no Ray.

A batch works on one `Snapshot`, taken once: tenants, adapters, indexes and thresholds of one
moment. Tenants that are served by a form of their adapter have a forward each. `refresh` builds
the next snapshot beside it and swaps one reference, so searches need no lock, and an answer cannot
mix two versions or two tenants.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from adapterdistill import bundle as bundles
from adapterdistill.adapters import AdapterStack
from adapterdistill.backbone import Embedder, Encoder, pack
from adapterdistill.checkpoint import prove_active, unpack_adapter
from adapterdistill.data.schema import Faq
from adapterdistill.distill.forms import ServedForm, unpack_form
from adapterdistill.errors import (
    AdapterDistillError,
    EncoderMismatchError,
    ServingError,
    UnknownTenantError,
    WithdrawnError,
)
from adapterdistill.manifest import FormKind, Manifest
from serve.adapter_bank import AdapterBank, Slot
from serve.faq_index import FaqIndex, Ranking, rank

NotLive = UnknownTenantError | WithdrawnError
ServedAs = FormKind | Literal["adapter"]
"""What a tenant is served by: its adapter, or a cheaper form of it."""


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
    form: ServedAs = "adapter"


@dataclass(frozen=True, eq=False)
class LiveTenant:
    """What one bundle is in memory. Immutable."""

    bundle_id: str
    manifest: Manifest
    served: Slot | ServedForm
    """The adapter's place in the bank, or what is served in its stead."""
    index: FaqIndex
    faqs: tuple[Faq, ...]
    threshold: float

    @property
    def form(self) -> ServedAs:
        return "adapter" if isinstance(self.served, Slot) else self.served.settings.kind


@dataclass(frozen=True)
class Recalled:
    """A live bundle whose version was withdrawn: it is not served."""

    bundle_id: str
    name: str
    """Of the version."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Everything that a batch needs, of one moment. Holding it keeps its slots from reuse."""

    stack: AdapterStack
    tenants: Mapping[str, LiveTenant]
    recalled: Mapping[str, Recalled]

    def live(self, tenant: str) -> LiveTenant | NotLive:
        """The tenant, or the error that says why it is not served."""
        if tenant in self.recalled:
            return WithdrawnError(f"{self.recalled[tenant].name} is withdrawn")
        return self.tenants.get(tenant) or UnknownTenantError(
            f"tenant {tenant} has no live adapter"
        )


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
        self._snapshot = Snapshot(self._bank.stack, MappingProxyType({}), MappingProxyType({}))
        self._refreshing = threading.Lock()
        self._retry_refused_s = retry_refused_s
        self._refused: dict[str, tuple[str, float]] = {}  # tenant -> (bundle id, when)
        self._recalled: set[str] = set()  # names of versions
        self.num_tokens = 0
        """Tokens of queries embedded so far; exact while one thread searches."""

    @property
    def snapshot(self) -> Snapshot:
        return self._snapshot

    @property
    def num_slots(self) -> int:
        """Places for adapters, used and free."""
        return self._bank.num_slots

    @property
    def num_free_slots(self) -> int:
        return self._bank.num_free

    def search(self, items: Sequence[SearchItem]) -> list[SearchAnswer | NotLive]:
        """Answer a batch in the order of `items`.

        An item of a tenant that is not live yields an error in its place and costs the others
        nothing. Nobody is answered from the bare encoder.
        """
        snapshot = self._snapshot
        found = [(item, snapshot.live(item.tenant)) for item in items]
        known = [(item, live) for item, live in found if isinstance(live, LiveTenant)]
        rankings = iter(self._rank(snapshot, known))
        return [
            _answer(item.tenant, live, next(rankings)) if isinstance(live, LiveTenant) else live
            for item, live in found
        ]

    @torch.inference_mode()
    def _rank(
        self, snapshot: Snapshot, known: Sequence[tuple[SearchItem, LiveTenant]]
    ) -> list[Ranking]:
        if not known:
            return []
        ids = self._encoder.tokenize([item.text for item, _ in known])
        self.num_tokens += sum(map(len, ids))
        queries = self._embed(snapshot.stack, ids, [live.served for _, live in known])
        return rank(queries, [live.index for _, live in known], [item.top_k for item, _ in known])

    def _embed(
        self,
        stack: AdapterStack,
        ids: Sequence[Sequence[int]],
        served: Sequence[Slot | ServedForm],
    ) -> Tensor:
        """Each row as its tenant is served, [rows, hidden]: adapters together, each form alone."""
        device = self._encoder.device
        rows_of: dict[ServedForm | None, list[int]] = {}
        for row, one in enumerate(served):
            rows_of.setdefault(None if isinstance(one, Slot) else one, []).append(row)
        queries = torch.empty(len(ids), self._encoder.hidden_size, device=device)
        for form, rows in rows_of.items():
            tokens = pack([ids[row] for row in rows], device)
            embedder: Embedder
            if form is None:
                slots = [one.number for one in served if isinstance(one, Slot)]
                embedder = stack.mixed(torch.tensor(slots), tokens)
            else:
                embedder = form.embedder
            queries[rows] = self._encoder.embed(tokens, embedder)
        return queries

    def refresh(self) -> Refresh:
        """Load new and changed live bundles, drop those whose pointer is gone, swap the snapshot.

        Raises:
            ServingError: the store cannot be read; everything stays as it was.
        """
        with self._refreshing:
            before = self._entries()
            after: dict[str, LiveTenant | Recalled] = {}
            loaded: list[str] = []
            refused: dict[str, AdapterDistillError] = {}
            for tenant in bundles.tenants_in(self._store):
                if tenant in before:
                    after[tenant] = before[tenant]
                try:
                    found = self._load_if_changed(tenant, before.get(tenant))
                except AdapterDistillError as error:
                    refused[tenant] = error
                    continue
                if found is not None:
                    after[tenant] = found
                    loaded.append(tenant)
            dropped = tuple(sorted(before.keys() - after.keys()))
            if loaded or dropped:
                self._swap(after)
            return Refresh(tuple(loaded), dropped, refused)

    def recall(self, name: str) -> tuple[str, ...]:
        """Serve the version of this name no more, from the next batch on and whatever the store
        says; returns the tenants that were served it."""
        with self._refreshing:
            self._recalled.add(name)
            entries = self._entries()
            tenants = self._served(name)
            for tenant in tenants:
                entries[tenant] = Recalled(entries[tenant].bundle_id, name)
            if tenants:
                self._swap(entries)
            return tenants

    def serves(self, name: str) -> bool:
        """Whether a tenant is served the version of this name."""
        return bool(self._served(name))

    def _served(self, name: str) -> tuple[str, ...]:
        tenants = self._snapshot.tenants
        return tuple(t for t, live in tenants.items() if live.manifest.ref.name == name)

    def _entries(self) -> dict[str, LiveTenant | Recalled]:
        return {**self._snapshot.tenants, **self._snapshot.recalled}

    def _swap(self, entries: Mapping[str, LiveTenant | Recalled]) -> None:
        self._snapshot = Snapshot(
            self._bank.stack,
            MappingProxyType({t: e for t, e in entries.items() if isinstance(e, LiveTenant)}),
            MappingProxyType({t: e for t, e in entries.items() if isinstance(e, Recalled)}),
        )

    def _load_if_changed(
        self, tenant: str, now: LiveTenant | Recalled | None
    ) -> LiveTenant | Recalled | None:
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

    def _load(self, tenant: str, bundle_id: str) -> LiveTenant | Recalled:
        bundle = bundles.read_bundle(self._store, tenant, bundle_id)
        manifest = bundle.manifest
        if manifest.ref.name in self._recalled:
            return Recalled(bundle_id, manifest.ref.name)
        if not manifest.encoder.same_as(self._encoder.ref):
            raise EncoderMismatchError(
                f"bundle of tenant {tenant} needs encoder {manifest.encoder.name} "
                f"({manifest.encoder.weights_sha256[:12]}), this server has "
                f"{self._encoder.ref.name} ({self._encoder.ref.weights_sha256[:12]})"
            )
        if manifest.kind != "bottleneck":
            raise ServingError(f"tenant {tenant}: adapters of kind {manifest.kind} are not served")
        return LiveTenant(
            bundle_id=bundle_id,
            manifest=manifest,
            served=self._placed(bundle) if bundle.form is None else self._form(bundle.form),
            index=FaqIndex.of(bundle.vectors, bundle.faq_of_vector),
            faqs=tuple(bundle.faqs),
            threshold=bundle.threshold,
        )

    def _placed(self, bundle: bundles.Bundle) -> Slot:
        adapter = unpack_adapter(bundle.adapter_payload)
        prove_active(self._encoder, adapter, bundle.manifest.golden)
        return self._bank.place(adapter)

    def _form(self, bundled: bundles.BundledForm) -> ServedForm:
        form = unpack_form(bundled.payload, self._encoder)
        if form.settings.kind != bundled.proven.kind:
            raise ServingError(
                f"the bundle's form is of kind {form.settings.kind}, its head says "
                f"{bundled.proven.kind}"
            )
        prove_active(self._encoder, form.embedder, bundled.proven.golden)
        return form


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
        form=live.form,
    )
