"""The outlier check: compares an adapter's weights with those of other tenants' adapters.

An outlier need not be malicious: it goes into quarantine, where an operator looks at it. It is
compared with its peers: the newest active adapters of other tenants for the same encoder. Each
other tenant has one vote, however many adapters it publishes. The check compares logarithms by
their median and median absolute deviation, which a minority of the tenants cannot move at will.
Only high values are suspect: a weak adapter harms nobody.

The thresholds were chosen on 390 adapters for MiniLM from six tenants' rows: own and distilled ones
with bottlenecks of 8 to 64, learning rates of 3e-4 to 3e-3 and 10 to 200 steps. Peers were the
adapters of the other five tenants, either all of them or those with default settings.

- No unchanged adapter was quarantined.
- Weights scaled by 20: all were found. Default settings scaled by 5: 84 % (mixed peers) to 100 %.
- A direction added to one layer, twice as strong as the layer: all were found. One three times as
  strong as the layer, added to every layer: 92 to 100 %.
- Random weights with a standard deviation of 0.1: 98 to 100 %.
- Not found: scaled adapters that end no stronger than others, an added direction as strong as its
  layer, and random weights of 0.02, which is an untrained adapter.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adapterdistill.registry.admission.weight_statistics import WeightStatistics

MIN_ADAPTERS, MIN_TENANTS = 8, 3
"""Least number of peers for a comparison; with fewer, only each trait's `limit` counts."""
DEVIATIONS = 3.5
"""Distance from the median, in standard deviations, that is usual. One standard deviation is taken
as 1.4826 median absolute deviations, as for normally distributed values."""

Peers = Sequence[tuple[str, WeightStatistics]]
"""Tenant and weight statistics of each adapter of other tenants for the same encoder."""


@dataclass(frozen=True)
class Trait:
    """A logarithm of the weights that is high in harmful adapters."""

    name: str
    of: Callable[[WeightStatistics], float]
    margin: float
    """Distance from the median that is usual, however alike the peers are."""
    limit: float
    """Greatest value that is usual, whatever the peers."""


def loudness(found: WeightStatistics) -> float:
    """Return the logarithm of the greatest layer norm, relative to the size of the matrices."""
    size = math.sqrt(found.hidden_size * found.bottleneck_size)
    return math.log(max(max(found.norms) / size, 1e-3))


def unevenness(found: WeightStatistics) -> float:
    """Return the logarithm of the greatest layer norm over the median of the nonzero ones."""
    norms = sorted(norm for norm in found.norms if norm > 1e-3 * max(found.norms))
    return math.log(norms[-1] / norms[len(norms) // 2]) if norms else 0.0


def concentration(found: WeightStatistics) -> float:
    """Return the logarithm of the greatest possible rank over the least effective rank."""
    most = min(found.hidden_size, found.bottleneck_size)
    ranks = [rank for rank in found.effective_ranks if rank > 0]
    return math.log(most / min(ranks)) if ranks else 0.0


def constancy(found: WeightStatistics) -> float:
    """Return the logarithm of the greatest constant that a layer adds, relative to its size."""
    return math.log(max(max(found.offsets) / math.sqrt(found.hidden_size), 1e-2))


TRAITS = (
    Trait("norm of its strongest layer", loudness, math.log(4), math.log(5)),
    Trait("norm of its strongest layer over its others'", unevenness, math.log(1.6), math.log(10)),
    Trait("narrowness of a layer", concentration, math.log(1.5), math.inf),
    Trait("constant that a layer adds", constancy, math.log(4), math.log(10)),
)


def outlier_reasons(found: WeightStatistics, peers: Peers) -> tuple[str, ...]:
    """List why the adapter is an outlier; empty if it is not one."""
    tenants = [tenant for tenant, _ in peers]
    comparable = len(tenants) >= MIN_ADAPTERS and len(set(tenants)) >= MIN_TENANTS
    of_each = Counter(tenants)
    weights = [1 / of_each[tenant] for tenant in tenants]
    reasons = []
    for trait in TRAITS:
        value = trait.of(found)
        if value > trait.limit:
            reasons.append(
                f"{trait.name}: {math.exp(value):.3g}, at most {math.exp(trait.limit):.3g}"
            )
        elif comparable:
            values = [trait.of(one) for _, one in peers]
            middle = weighted_median(values, weights)
            deviation = weighted_median([abs(one - middle) for one in values], weights)
            usual = max(trait.margin, DEVIATIONS * 1.4826 * deviation)
            if value - middle > usual:
                reasons.append(
                    f"{trait.name}: {math.exp(value - middle):.3g} times the median of"
                    f" {len(set(tenants))} tenants, up to {math.exp(usual):.3g} is usual"
                )
    return tuple(reasons)


def weighted_median(values: Sequence[float], weights: Sequence[float]) -> float:
    """Return the least value such that values up to it have half of the weight."""
    half, reached = sum(weights) / 2, 0.0
    for value, weight in sorted(zip(values, weights, strict=True)):
        reached += weight
        if reached >= half - 1e-9:
            return value
    raise ValueError("no median of an empty sequence")
