"""Which candidate is served: held-out evidence against what other tenants' choices have shown.

A tenant's few held-out rows say little, and what they say by chance must neither stop a training
nor reject a student. Demonstrated harm must. So every candidate has a prior, and evidence moves it
as far as its standard error allows.

**The rule.** Let d be the mean over held-out rows of a candidate's cross-entropy minus that of the
reference (the candidate that is best for most tenants), in nats, and e the standard error of that
paired mean. Before it is seen, the true difference is N(m, s^2) for a tenant like the others, and
N(m, w^2) with probability q for one that is not, w far above s. After it, each of the two has mean
(m e^2 + d v) / (v + e^2), with v = s^2 or w^2, and weight proportional to its probability times
N(d; m, v + e^2). The candidate with the lowest posterior mean is served; the reference's is zero.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

UNLIKE_OTHERS = 0.02
"""q: share of tenants for which what holds for others does not."""
WIDE = 1.0
"""w, in nats."""
LEAST_ERROR = 0.39
"""Standard deviation of a row's paired difference, in nats, that is assumed at least: a handful of
rows that all agree would otherwise pass for certainty."""


@dataclass(frozen=True)
class Prior:
    """What other tenants have shown of a candidate's cross-entropy minus the reference's."""

    mean: float
    """m, nats; above 0 where the reference is better."""
    spread: float
    """s, nats: standard deviation over tenants."""


@dataclass(frozen=True)
class Judgement:
    """One candidate against the reference."""

    difference: float | None
    """d, nats; None without held-out rows."""
    error: float | None
    """e, nats."""
    posterior: float
    """Expected difference in nats; the lowest is chosen."""


@dataclass(frozen=True)
class Choice:
    """The chosen candidate and how each was judged."""

    chosen: str
    judgements: Mapping[str, Judgement]


def choose(
    losses: Mapping[str, Float[Tensor, " rows"]],
    priors: Mapping[str, Prior],
    *,
    reference: str,
    incumbent: str | None = None,
) -> Choice:
    """The candidate of the lowest expected cross-entropy, by the rule of this module.

    On a tie the incumbent wins, then the reference.

    Args:
        losses: each candidate's held-out cross-entropy by row, on the same rows; may have no row.
            NaN where the row is not held out for the candidate.
        priors: of every candidate but the reference.
        incumbent: the candidate that is served now, if it competes.

    Raises:
        ValueError: the reference or a prior is missing, or candidates differ in rows.
    """
    missing = {reference, *losses} - ({reference, *priors} & set(losses))
    if missing:
        raise ValueError(f"a choice lacks losses or priors of {sorted(missing)}")
    if len({len(rows) for rows in losses.values()}) != 1:
        raise ValueError("candidates are compared on the same rows, got different numbers")
    judgements = {reference: Judgement(0.0, 0.0, 0.0)}
    for name in losses:
        if name != reference:
            judgements[name] = judge(losses[name] - losses[reference], priors[name])
    chosen = min(
        judgements,
        key=lambda name: (judgements[name].posterior, name != incumbent, name != reference),
    )
    return Choice(chosen, judgements)


def judge(differences: Float[Tensor, " rows"], prior: Prior) -> Judgement:
    """A candidate's expected difference after `differences`, its losses minus the reference's.

    Rows of NaN say nothing.
    """
    differences = differences[~differences.isnan()]
    rows = len(differences)
    if not rows:
        return Judgement(None, None, prior.mean)
    d = float(differences.double().mean())
    seen = float(differences.double().std()) if rows > 1 else 0.0
    error = max(seen, LEAST_ERROR) / math.sqrt(rows)
    return Judgement(d, error, posterior_mean(d, error, prior))


def posterior_mean(difference: float, error: float, prior: Prior) -> float:
    """Mean of the true difference given what was seen: two normal priors, weighed by evidence."""
    logs, means = [], []
    for share, spread in ((1 - UNLIKE_OTHERS, prior.spread), (UNLIKE_OTHERS, WIDE)):
        variance = spread**2 + error**2
        away = difference - prior.mean
        logs.append(math.log(share) - 0.5 * (math.log(variance) + away**2 / variance))
        means.append((prior.mean * error**2 + difference * spread**2) / variance)
    highest = max(logs)
    weights = [math.exp(value - highest) for value in logs]
    total = sum(weights)
    return sum(w * m for w, m in zip(weights, means, strict=True)) / total


@dataclass(frozen=True)
class Regret:
    """What a rule loses to an oracle over simulated tenants, in nats."""

    regret: float
    always_reference: float
    by_evidence_alone: float
    right: float
    """How often the best candidate is chosen."""


def simulate(priors: Sequence[Prior], *, rows: int, tenants: int = 2000, seed: int = 0) -> Regret:
    """The rule's regret where tenants are as the priors say and rows differ by `LEAST_ERROR`.

    One in `1 / UNLIKE_OTHERS` tenants is unlike the others. The oracle knows true differences.
    """
    generator = torch.Generator().manual_seed(seed)
    error = LEAST_ERROR / math.sqrt(rows)
    shape = (tenants, len(priors))
    mean = torch.tensor([p.mean for p in priors], dtype=torch.float64)
    spread = torch.tensor([p.spread for p in priors], dtype=torch.float64)
    unlike = torch.rand(tenants, 1, generator=generator) < UNLIKE_OTHERS
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
    true = mean + torch.where(unlike, torch.full_like(spread, WIDE), spread) * drawn
    seen = true + error * torch.randn(shape, generator=generator, dtype=torch.float64)
    posterior = torch.tensor(
        [
            [posterior_mean(float(d), error, p) for d, p in zip(row, priors, strict=True)]
            for row in seen
        ],
        dtype=torch.float64,
    )

    def with_reference(values: Tensor) -> Tensor:
        return torch.cat([torch.zeros(tenants, 1, dtype=torch.float64), values], 1)

    truth = with_reference(true)
    best = truth.amin(1)

    def loses(choice: Tensor) -> float:
        return float((truth.gather(1, choice[:, None])[:, 0] - best).mean())

    ruled = with_reference(posterior).argmin(1)
    return Regret(
        regret=loses(ruled),
        always_reference=loses(torch.zeros(tenants, dtype=torch.int64)),
        by_evidence_alone=loses(with_reference(seen).argmin(1)),
        right=float((ruled == truth.argmin(1)).double().mean()),
    )
