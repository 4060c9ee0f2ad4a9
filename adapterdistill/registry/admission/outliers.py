"""Whether an adapter's weights are like those of the adapters that are here already.

One that is not like them need not be malicious: it goes into quarantine, where an operator looks at
it. The population is the newest active adapters of other tenants for the same encoder. Each tenant
has one vote in it, however many adapters it publishes, and none about its own. What is compared are
logarithms, by median and median absolute deviation, which tenants that are fewer than half cannot
move at will. One direction only is suspect: a weak adapter harms nobody.

The thresholds were chosen on 390 adapters for MiniLM from six tenants' rows: own and distilled ones
with bottlenecks of 8 to 64, learning rates of 3e-4 to 3e-3 and 10 to 200 steps. Against populations
of the other five tenants, as mixed as that or all of the default settings, no clean one was
quarantined. Found were all whose weights were scaled by 20, and of those of the default settings
that were scaled by 5, 84 % (mixed) to 100 %; all with a direction twice as strong in one layer as
all that the layer does, and 92 to 100 % with one three times as strong in every layer; 98 to 100 %
of random weights with a standard deviation of 0.1. Not found: scaled ones that end no stronger than
others are, a direction as strong as its layer, and random weights of 0.02: an untrained adapter.
"""

import math
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adapterdistill.manifest import Manifest
from adapterdistill.registry.admission.weight_statistics import Statistics

MIN_ADAPTERS, MIN_TENANTS = 8, 3
"""Of a population that anything can be judged by; before that, only `_LIMITS` count."""
_ADAPTERS_A_TENANT = 4
_MAX_TENANTS = 250
DEVIATIONS = 3.5
"""How many standard deviations from the median are usual, at least; 1.4826 median absolute
deviations make one, as for normally distributed values."""

Population = Sequence[tuple[str, Statistics]]
"""Each adapter's tenant and statistics."""


@dataclass(frozen=True)
class Trait:
    """A logarithm that is high in adapters that do harm."""

    name: str
    of: Callable[[Statistics], float]
    margin: float
    """What is usual beyond the median, however alike the population is."""
    limit: float
    """What is not usual in any population."""


def loudness(found: Statistics) -> float:
    """Of the layer with the greatest norm; at the same loudness, norms grow as these roots do."""
    size = math.sqrt(found.hidden_size * found.bottleneck_size)
    return math.log(max(max(found.norms) / size, 1e-3))


def unevenness(found: Statistics) -> float:
    """How far the layer with the greatest norm is from the middle of those that do anything."""
    norms = sorted(norm for norm in found.norms if norm > 1e-3 * max(found.norms))
    return math.log(norms[-1] / norms[len(norms) // 2]) if norms else 0.0


def concentration(found: Statistics) -> float:
    """How few directions serve the layer that has fewest, of those that it might use."""
    most = min(found.hidden_size, found.bottleneck_size)
    ranks = [rank for rank in found.effective_ranks if rank > 0]
    return math.log(most / min(ranks)) if ranks else 0.0


def constancy(found: Statistics) -> float:
    """Of the layer that adds most to every hidden state alike."""
    return math.log(max(max(found.offsets) / math.sqrt(found.hidden_size), 1e-2))


TRAITS = (
    Trait("norm of its strongest layer", loudness, math.log(4), math.log(5)),
    Trait("norm of its strongest layer over its others'", unevenness, math.log(1.6), math.log(10)),
    Trait("narrowness of a layer", concentration, math.log(1.5), math.inf),
    Trait("constant that a layer adds", constancy, math.log(4), math.log(10)),
)


def judge(found: Statistics, population: Population) -> tuple[str, ...]:
    """Why the adapter is unlike the population, or what no adapter should be; empty: it is like it.

    Args:
        population: of other tenants, for the same encoder.
    """
    tenants = [tenant for tenant, _ in population]
    judged = len(tenants) >= MIN_ADAPTERS and len(set(tenants)) >= MIN_TENANTS
    of_each = Counter(tenants)
    weights = [1 / of_each[tenant] for tenant in tenants]
    reasons = []
    for trait in TRAITS:
        value = trait.of(found)
        if value > trait.limit:
            reasons.append(
                f"{trait.name}: {math.exp(value):.3g}, at most {math.exp(trait.limit):.3g}"
            )
        elif judged:
            values = [trait.of(one) for _, one in population]
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
    """The least value that values of half the weight do not exceed."""
    half, reached = sum(weights) / 2, 0.0
    for value, weight in sorted(zip(values, weights, strict=True)):
        reached += weight
        if reached >= half - 1e-9:
            return value
    raise ValueError("the median of nothing")


def others(db: sqlite3.Connection, manifest: Manifest) -> list[tuple[str, Statistics]]:
    """The population that a version of this manifest is judged by."""
    encoder = (manifest.encoder.weights_sha256, manifest.encoder.tokenizer_sha256)
    # From one tenant to the next by the index: not every version is looked at.
    rows = db.execute(
        "WITH RECURSIVE tenants (tenant) AS ("
        " SELECT min(tenant) FROM versions WHERE weights_sha256 = ?1 AND tokenizer_sha256 = ?2"
        " UNION ALL SELECT (SELECT min(tenant) FROM versions"
        " WHERE weights_sha256 = ?1 AND tokenizer_sha256 = ?2 AND tenant > tenants.tenant)"
        " FROM tenants WHERE tenant IS NOT NULL)"
        " SELECT tenant, statistics_json FROM versions WHERE revision IN ("
        " SELECT n.revision FROM tenants t JOIN versions n ON n.revision IN ("
        " SELECT revision FROM versions WHERE weights_sha256 = ?1 AND tokenizer_sha256 = ?2"
        " AND tenant = t.tenant AND state = 'active' AND statistics_json IS NOT NULL"
        " ORDER BY revision DESC LIMIT ?4)"
        " WHERE t.tenant <> ?3 LIMIT ?5)",
        (*encoder, manifest.tenant, _ADAPTERS_A_TENANT, _ADAPTERS_A_TENANT * _MAX_TENANTS),
    )
    return [(tenant, Statistics.model_validate_json(text)) for tenant, text in rows]
