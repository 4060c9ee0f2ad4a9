"""Steps, rates and scoring: chosen for all tenants at once, on other tenants' `valid` rows.

A tenant that arrives has no rows to spare for tuning. What is chosen for it is what did best, on
average, for the others: a tenant never takes part in its own choice, and no test row in any.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapterdistill.bench.transfer.methods import CHECK_EVERY, Setting
from adapterdistill.bench.transfer.scoring import SCORINGS


@dataclass(frozen=True)
class Choice:
    """A choice for one method, k and tenant."""

    setting: Setting
    scoring: str
    valid_top1: float
    """Mean top-1 on the tuning tenants' `valid` rows that led to it."""


Watched = Mapping[tuple[str, float], Sequence[Mapping[str, float]]]
"""(tenant, learning rate) to top-1 by scoring at steps 0, 10, 20, ..."""


def choose(watched: Watched, *, but: str) -> Choice:
    """The (rate, steps, scoring) with the highest mean over the tuning tenants except `but`.

    Ties go to fewer steps, then to the lower rate. With no other tenant left, all of them count.
    """
    tenants = sorted({tenant for tenant, _ in watched} - {but}) or sorted(
        {tenant for tenant, _ in watched}
    )
    rates = sorted({rate for _, rate in watched})
    best: Choice | None = None
    checkpoints = min(len(scores) for scores in watched.values())
    for check in range(checkpoints):
        for rate in rates:
            for scoring in SCORINGS:
                values = [watched[tenant, rate][check][scoring] for tenant in tenants]
                mean = sum(values) / len(values)
                if best is None or mean > best.valid_top1 + 1e-12:
                    best = Choice(Setting(rate, check * CHECK_EVERY), scoring, mean)
    if best is None:
        raise ValueError("no tuning run has a checkpoint")
    return best


def choose_scoring(cells: Sequence[Mapping[str, Any]], *, but: str) -> str:
    """The scoring with the highest mean valid top-1 over the tenants except `but`."""
    sums = dict.fromkeys(SCORINGS, 0.0)
    for cell in cells:
        if cell["cell"]["tenant"] == but or not cell["scores"]["best"]["valid"]:
            continue
        for scoring in SCORINGS:
            ranks = cell["scores"][scoring]["valid"]
            sums[scoring] += sum(rank == 1 for rank in ranks) / len(ranks)
    # The centroid is used on a tie and without any valid row.
    order = ("centroid", "best", "question")
    return max(order, key=lambda scoring: sums[scoring])
