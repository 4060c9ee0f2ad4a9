"""Whether a tenant's live queries are still like those that its scores were calibrated on.

Counts of live top scores, in the bins of the bundle's held-out ones, and of abstentions; in memory,
of this replica alone, since it first served the bundle.
"""

import functools
import math
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from adapterdistill.confidence import LEAST_PER_BIN, Calibration

RECENT = 1000
"""When twice as many are counted, all counts are halved: they speak of the last 1,000 to 2,000
queries or so, and older ones count for half as much every 1,000."""
MAX_KEPT = 16_384
"""Bundles whose counts outlast their tenant's absence from memory; about 2 KiB each."""
LARGE_SHIFT = 0.25
"""PSI that is by custom a shift to act upon (Siddiqi, 2006, "Credit risk scorecards")."""
_PER_MILLE = 3.09
"""Standard normal deviate that 1 in 1,000 exceeds."""


@dataclass(frozen=True)
class Shift:
    """What the live queries look like beside the held-out ones."""

    queries: int
    """Recent ones, which this rests on."""
    abstained: int
    """Of these."""
    psi: float | None
    """Population stability index of the top scores; None without a reference, or so far."""
    expected_psi: float | None
    """Of as many queries whose scores are distributed as the reference's are."""
    drifted: bool
    """The index is large, and larger than 1 in 1,000 such samples would have it."""


class Drift:
    """The counts of one bundle. Thread-safe; a request costs about a microsecond."""

    def __init__(self, calibration: Calibration | None) -> None:
        self._edges = calibration.edges if calibration else ()
        self._reference = calibration.counts if calibration else ()
        self._counts = [0.0] * (len(self._edges) + 1)
        self._total = self._abstained = 0.0
        self._lock = threading.Lock()

    def count(self, answers: Iterable[tuple[float, bool]]) -> None:
        """Count (top score, whether abstained) of each query that was answered."""
        with self._lock:
            for score, abstained in answers:
                self._counts[bisect_right(self._edges, score)] += 1
                self._abstained += abstained
                self._total += 1
            if self._total >= 2 * RECENT:
                self._counts = [count / 2 for count in self._counts]
                self._abstained /= 2
                self._total /= 2

    def read(self) -> Shift:
        """How it stands now."""
        with self._lock:
            counts, total, abstained = tuple(self._counts), self._total, self._abstained
        psi = expected = None
        drifted = False
        if self._reference and total >= LEAST_PER_BIN * len(counts):
            psi = stability_index(self._reference, counts)
            expected = chance(self._reference, total)
            drifted = psi > max(LARGE_SHIFT, chance(self._reference, total, deviate=_PER_MILLE))
        return Shift(int(total), int(abstained), psi, expected, drifted)


def stability_index(reference: Iterable[float], live: Iterable[float]) -> float:
    """PSI, the sum over bins of (live - reference) * ln(live / reference), of shares.

    Half a query is added to each bin, or an empty one would make it infinite.
    """
    before, now = ([count + 0.5 for count in counts] for counts in (reference, live))
    num_before, num_now = sum(before), sum(now)
    shares = ((b / num_before, n / num_now) for b, n in zip(before, now, strict=True))
    return sum((now - before) * math.log(now / before) for before, now in shares)


def chance(reference: tuple[int, ...], live: float, *, deviate: float | None = None) -> float:
    """What the index is of two samples of one distribution: (1/rows + 1/live) * chi-squared of
    bins - 1 degrees of freedom (Yurdakul and Naranjo, 2020, "Statistical properties of the
    population stability index"); its mean, or its quantile at a standard normal deviate.

    For independent queries: where users repeat each other, fewer count than are counted.
    """
    degrees = len(reference) - 1
    scale = 1 / sum(reference) + 1 / live
    if deviate is None:
        return scale * degrees
    part = 2 / (9 * degrees)  # Wilson and Hilferty (1931): the cube root is nearly normal
    return scale * degrees * (1 - part + deviate * math.sqrt(part)) ** 3


def kept_drifts() -> Callable[[str, Calibration | None], Drift]:
    """(bundle id, its calibration) to the bundle's counts: the same ones when it comes back into
    memory, unless `MAX_KEPT` others came in since."""

    @functools.lru_cache(MAX_KEPT)
    def drift_of(bundle_id: str, calibration: Calibration | None) -> Drift:
        return Drift(calibration)

    return drift_of


@dataclass(eq=False)
class DriftOfTenants(Collector):
    """The drift of a bounded set of tenants, for Prometheus."""

    named: Callable[[], Iterable[str]]
    drift_of: Callable[[str], Drift | None] = lambda tenant: None
    """None: the tenant is not in memory."""

    def collect(self) -> Iterator[Metric]:
        abstained = _gauge("abstained_ratio", "Share of recent queries without an answer.")
        psi = _gauge("drift_psi", "Population stability index of recent top scores.")
        expected = _gauge("drift_expected_psi", "The same by chance, nothing having changed.")
        drifted = _gauge("drifted", "1: the index is large, and too large for chance.")
        for tenant in list(self.named()):
            drift = self.drift_of(tenant)
            shift = drift.read() if drift else None
            if shift is None or not shift.queries:
                continue
            abstained.add_metric([tenant], shift.abstained / shift.queries)
            if shift.psi is not None and shift.expected_psi is not None:
                psi.add_metric([tenant], shift.psi)
                expected.add_metric([tenant], shift.expected_psi)
                drifted.add_metric([tenant], shift.drifted)
        yield from (abstained, psi, expected, drifted)


def _gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(
        f"adapterdistill_tenant_{name}", f"{text} Of the busiest tenants.", labels=["tenant"]
    )
