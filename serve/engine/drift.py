"""Drift: whether a tenant's live queries are still like those that its scores were calibrated on.

Counts live top scores in the bins of the bundle's held-out ones, and abstentions. The counts are in
memory, for this replica alone, since it first served the bundle.
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
"""When twice as many queries are counted, all counts are halved: so they cover about the last 1,000
to 2,000 queries, and the weight of older ones halves every 1,000."""
MAX_KEPT = 16_384
"""Bundles whose counts are kept while the tenant is not in memory; about 2 KiB each."""
LARGE_SHIFT = 0.25
"""PSI that by custom calls for action (Siddiqi, 2006, "Credit risk scorecards")."""
_PER_MILLE = 3.09
"""Standard normal deviate that 1 in 1,000 exceeds."""


@dataclass(frozen=True)
class Shift:
    """The live queries compared with the held-out ones."""

    queries: int
    """Number of recent queries behind these figures."""
    abstained: int
    """Number of those that were abstained from."""
    psi: float | None
    """Population stability index of the top scores; None: no reference, or too few queries yet."""
    expected_psi: float | None
    """Expected index of as many queries with the reference's distribution of scores."""
    drifted: bool
    """The index is large, and larger than in 999 of 1,000 unchanged samples."""


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
        """The shift at this moment."""
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
    """PSI: the sum over bins of (live - reference) * ln(live / reference), in shares.

    Half a query is added to each bin; otherwise an empty bin would make the index infinite.
    """
    before, now = ([count + 0.5 for count in counts] for counts in (reference, live))
    num_before, num_now = sum(before), sum(now)
    shares = ((b / num_before, n / num_now) for b, n in zip(before, now, strict=True))
    return sum((now - before) * math.log(now / before) for before, now in shares)


def chance(reference: tuple[int, ...], live: float, *, deviate: float | None = None) -> float:
    """The index of two samples of one distribution, which differ by chance alone.

    It is (1/rows + 1/live) * chi-squared with bins - 1 degrees of freedom (Yurdakul and Naranjo,
    2020, "Statistical properties of the population stability index"): its mean, or its quantile at
    a standard normal deviate. It holds for independent queries; users who repeat each other make
    the effective number smaller than the count.
    """
    degrees = len(reference) - 1
    scale = 1 / sum(reference) + 1 / live
    if deviate is None:
        return scale * degrees
    part = 2 / (9 * degrees)  # Wilson and Hilferty (1931): the cube root is nearly normal
    return scale * degrees * (1 - part + deviate * math.sqrt(part)) ** 3


def kept_drifts() -> Callable[[str, Calibration | None], Drift]:
    """A function from (bundle id, calibration) to the bundle's counts.

    A bundle that comes back into memory gets its old counts, unless `MAX_KEPT` others came in
    since.
    """

    @functools.lru_cache(MAX_KEPT)
    def drift_of(bundle_id: str, calibration: Calibration | None) -> Drift:
        return Drift(calibration)

    return drift_of


@dataclass(eq=False)
class DriftOfTenants(Collector):
    """The drift of a bounded set of tenants, for Prometheus."""

    named: Callable[[], Iterable[str]]
    drift_of: Callable[[str], Drift | None] = lambda tenant: None
    """Drift of a tenant; None: the tenant is not in memory."""

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
