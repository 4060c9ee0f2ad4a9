"""The Prometheus metrics of a replica. No metric holds a user's text.

A scrape reads `GET /metrics` of the replica, not Ray's own export (`ray.util.metrics`), which needs
Ray's agent on another port that asks for no token. Behind a proxy a scrape reaches one of the
replicas, so each series names it (label `replica`): ask Prometheus for rates and last values over
minutes, as `cluster/grafana/serving.json` does.
"""

import time
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from adapterdistill.serve.engine.drift import Drift, DriftOfTenants
from adapterdistill.serve.engine.engine import Engine, Refresh, SearchItem
from adapterdistill.serve.engine.load_queue import PagingCounts
from adapterdistill.serve.queue.request_context import RequestContext
from adapterdistill.serve.queue.shadow import ShadowTotals

Answers = TypeVar("Answers")

MAX_NAMED_TENANTS = 20
"""Most tenants with a series of their own: as many as a person reads in one chart. Each costs the
Prometheus server a series for every replica that ever ran."""
ELECT_EVERY_S = 300.0
"""Time between elections: long enough that a tenant's series covers the windows of rates."""
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_QUERIES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_TOKENS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


@dataclass(eq=False)
class BusiestTenants(Collector):
    """Answered queries of the busiest tenants, and of all others together.

    A tenant is named from its election on. Its earlier queries stay in `other`, and a tenant that
    is not elected again leaves. So a series never falls while it exists.
    """

    seats: int = MAX_NAMED_TENANTS
    clock: Callable[[], float] = time.monotonic
    named: dict[str, int] = field(default_factory=dict)
    other: int = 0
    _recent: Tally[str] = field(default_factory=Tally)
    _elected_at: float | None = None

    def count(self, tenant: str, num_queries: int) -> None:
        """Count answered queries. `tenant` is live: invented names could be any number."""
        self._recent[tenant] += num_queries
        if tenant not in self.named and len(self.named) < self.seats:
            self.named[tenant] = 0
        if tenant in self.named:
            self.named[tenant] += num_queries
        else:
            self.other += num_queries

    def collect(self) -> Iterator[Metric]:
        now = self.clock()
        if self._elected_at is None:
            self._elected_at = now
        elif now - self._elected_at >= ELECT_EVERY_S:
            self._elect()
            self._elected_at = now
        family = CounterMetricFamily(
            "adapterdistill_tenant_queries",
            "Queries answered, of the busiest tenants; tenant (other): of all the rest.",
            labels=["tenant"],
        )
        for tenant, num_queries in self.named.items():
            family.add_metric([tenant], num_queries)
        family.add_metric(["(other)"], self.other)  # no valid tenant name
        yield family

    def _elect(self) -> None:
        elected = [tenant for tenant, _ in self._recent.most_common(self.seats)]
        self.named = {tenant: self.named.get(tenant, 0) for tenant in elected}
        # Old queries count for less with each election, and in the end for nothing.
        self._recent = Tally({t: n // 2 for t, n in self._recent.items() if n >= 2})


class Metrics:
    """The metrics of one replica; the event loop counts requests, the engine's thread batches."""

    def __init__(self, replica: str = "") -> None:
        self._replica = replica
        self.registry = CollectorRegistry()
        self.tenants = BusiestTenants()
        self.registry.register(self.tenants)
        self._drift = DriftOfTenants(lambda: self.tenants.named)
        self.registry.register(self._drift)
        self._outcomes = self._counter("requests", "Requests by outcome.", "outcome")
        self._latency = self._histogram("request_seconds", "Of answered searches.", _SECONDS)
        self._batch = self._histogram("batch_seconds", "Of the engine's batches.", _SECONDS)
        self._queries = self._histogram("batch_queries", "Queries in a batch.", _QUERIES)
        self._tokens = self._histogram("batch_tokens", "Tokens in a batch.", _TOKENS)
        self._loaded = self._counter("bundles_loaded", "Bundles that went live here.")
        self._refused = self._counter("bundles_refused", "Bundles not taken, by reason.", "reason")
        self._queued = self._gauge("queued_queries", "Queries that wait for a batch.")
        self._known = self._gauge("tenants", "Tenants: live, or withdrawn and refused.", "state")
        self._slots = self._gauge("bank_slots", "Places for adapters: used or free.", "state")
        self._paging = _Paging(PagingCounts())
        self.registry.register(self._paging)
        self.candidates = _Candidates(ShadowTotals())
        """Shares its totals with the searcher's shadow."""
        self.registry.register(self.candidates)
        self._most_slots = self._gauge("bank_max_slots", "Most tenants in memory.")
        self._memory = _Memory()
        self.registry.register(self._memory)
        self._unproven = self._gauge(
            "unproven_bundles", "In memory, and not proven on all eight probe sentences yet."
        )
        self._working_set = self._gauge(
            "working_set_tenants", "Asked for in the last 5 minutes; alarm: more than max slots."
        )
        self._store_age = self._gauge("store_age_seconds", "Since the store was read to its end.")
        self._lost = self._gauge(
            "registry_lost_seconds", "Since the registry was last within reach; 0: it is."
        )
        self._store_lost = self._gauge(
            "store_lost_seconds", "Since the bundle store was last within reach; 0: it is."
        )

    def follow(
        self,
        engine: Engine,
        *,
        num_queued: Callable[[], int],
        refreshed_at: Callable[[], float],
        registry_lost_at: Callable[[], float | None] = lambda: None,
        store_lost_at: Callable[[], float | None] = lambda: None,
    ) -> None:
        """Read these whenever the metrics are scraped. Times are monotonic."""

        def lost_s(lost_at: float | None) -> float:
            return 0.0 if lost_at is None else time.monotonic() - lost_at

        def drift_of(tenant: str) -> Drift | None:
            live = engine.snapshot.tenants.get(tenant)
            return live.drift if live else None

        self._drift.drift_of = drift_of
        self._queued.set_function(num_queued)
        self._known.labels("live").set_function(lambda: engine.snapshot.num_tenants)
        self._known.labels("withdrawn").set_function(lambda: engine.snapshot.num_withdrawn)
        self._slots.labels("used").set_function(lambda: engine.num_slots - engine.num_free_slots)
        self._slots.labels("free").set_function(lambda: engine.num_free_slots)
        self._most_slots.set_function(lambda: engine.max_slots)
        self._unproven.set_function(lambda: engine.num_unproven)
        self._working_set.set_function(lambda: engine.working_set)
        self._paging.counts = engine.paging
        self._memory.engine = engine
        self._store_age.set_function(lambda: time.monotonic() - refreshed_at())
        self._lost.set_function(lambda: lost_s(registry_lost_at()))
        self._store_lost.set_function(lambda: lost_s(store_lost_at()))

    def timed(
        self, engine: Engine, search: Callable[[Sequence[SearchItem]], Answers]
    ) -> Callable[[Sequence[SearchItem]], Answers]:
        """Wrap `search` so that each call is counted as a batch. For one thread."""

        def timed_search(items: Sequence[SearchItem]) -> Answers:
            started_at, tokens = time.perf_counter(), engine.num_tokens
            answers = search(items)
            self._batch.observe(time.perf_counter() - started_at)
            self._queries.observe(len(items))
            self._tokens.observe(engine.num_tokens - tokens)
            return answers

        return timed_search

    def answered(self, context: RequestContext, seconds: float) -> None:
        """Count a request that has ended."""
        self._outcomes.labels(context.outcome).inc()
        if context.version is not None and context.tenant is not None:
            self.tenants.count(context.tenant, context.num_queries)
            self._latency.observe(seconds)
            if context.alias == "canary":
                self.candidates.answered += context.num_queries

    def refreshed(self, changed: Refresh) -> None:
        """Count the loaded and refused bundles of one refresh."""
        self._loaded.inc(len(changed.loaded))
        for error in changed.refused.values():
            self._refused.labels(error.reason).inc()

    def exposition(self) -> bytes:
        """The metrics in Prometheus's text format."""
        return generate_latest(_WithReplicaLabel(self.registry, self._replica))

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"adapterdistill_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"adapterdistill_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(f"adapterdistill_{name}", text, buckets=buckets, registry=self.registry)


@dataclass(eq=False)
class _Paging(Collector):
    counts: PagingCounts

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(
            "adapterdistill_paging", "Tenants into memory and out of it.", labels=["event"]
        )
        for event, count in asdict(self.counts).items():
            family.add_metric([event], count)
        yield family


@dataclass(eq=False)
class _Memory(Collector):
    engine: Engine | None = None

    def collect(self) -> Iterator[Metric]:
        if self.engine is None:
            return
        labels = ["part", "encoder", "sha256"]
        used = GaugeMetricFamily(
            "adapterdistill_memory_bytes",
            "Memory of each loaded encoder: its weights (encoders), its bank (adapters).",
            labels=labels,
        )
        tenants = GaugeMetricFamily(
            "adapterdistill_tenants_in_memory", "Of each loaded encoder.", labels=labels[1:]
        )
        for one in self.engine.encoders:
            which = [one.name, one.weights_sha256[:12]]
            used.add_metric(["encoders", *which], one.encoder_bytes)
            used.add_metric(["adapters", *which], one.adapter_bytes)
            tenants.add_metric(which, one.tenants_in_memory)
        limits = GaugeMetricFamily(
            "adapterdistill_memory_limit_bytes",
            "Most memory of all encoders' weights, and of all banks.",
            labels=["part"],
        )
        limits.add_metric(["encoders"], self.engine.banks.encoder_mib * 2**20)
        limits.add_metric(["adapters"], self.engine.banks.bank_mib * 2**20)
        yield from (used, limits, tenants)


@dataclass(eq=False)
class _Candidates(Collector):
    totals: ShadowTotals
    answered: int = 0

    def collect(self) -> Iterator[Metric]:
        queries = CounterMetricFamily(
            "adapterdistill_candidate_queries",
            "Queries answered by candidates, or compared with the live answer.",
            labels=["event"],
        )
        counts = {"answered": self.answered, **asdict(self.totals)}
        difference = counts.pop("difference")
        for event, count in counts.items():
            queries.add_metric([event], count)
        yield queries
        yield CounterMetricFamily(
            "adapterdistill_candidate_score_difference",
            "Sum over the compared queries of how far the best scores lie apart.",
            value=difference,
        )


class _WithReplicaLabel(Collector):
    """Every sample with the replica's label, without `_created`, which doubles the series."""

    def __init__(self, registry: CollectorRegistry, replica: str) -> None:
        self._registry, self._replica = registry, replica

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            family.samples = [
                sample._replace(labels={**sample.labels, "replica": self._replica})
                for sample in family.samples
                if not sample.name.endswith("_created")
            ]
            yield family
