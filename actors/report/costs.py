"""What a threshold costs, and what confidence is worth, counted on held-out rows."""

import bisect
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from adapterdistill.actors.report.findings import Query
from adapterdistill.confidence import Calibration
from adapterdistill.evaluation.calibration import upper_bound
from adapterdistill.evaluation.threshold import error_threshold

ACCEPTED = (0.01, 0.02, 0.05, 0.1, 0.2)
"""Shares of wrong answers that a choice is shown for."""
_CURVE_POINTS = 60
_Z = 1.959964  # 97.5% point of the standard normal distribution


class Interval(NamedTuple):
    """A share with its 95% interval."""

    value: float
    low: float
    high: float
    rows: int


class Cost(NamedTuple):
    """What happens to the held-out queries at one threshold."""

    threshold: float
    answered: float
    """Share of the answerable queries that get an answer."""
    answers: int
    """Answers, those to queries that are out of scope among them."""
    wrong: int
    wrong_bound: float
    """Upper bound of the share of wrong answers, with 95% confidence."""
    turned_away: float | None
    """Share of the queries out of scope that get none; None: there are no such queries."""
    accepts: float | None = None
    """`release.max_wrong_answers` that leads here; None: the threshold of the run."""

    @property
    def wrong_share(self) -> float:
        return self.wrong / self.answers if self.answers else 0.0


def wilson(share: float, count: int) -> Interval:
    """The 95% score interval of a share (Wilson, 1927)."""
    if not count:
        return Interval(share, 0.0, 1.0, 0)
    z2 = _Z**2 / count
    centre = (share + z2 / 2) / (1 + z2)
    half = _Z / (1 + z2) * math.sqrt(share * (1 - share) / count + z2 / (4 * count))
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half), count)


def cost_at(queries: Sequence[Query], threshold: float, accepts: float | None = None) -> Cost:
    """What a threshold does to these queries."""
    inside = [query for query in queries if query.right]
    outside = len(queries) - len(inside)
    kept = [query for query in queries if query.score >= threshold]
    answered = sum(bool(query.right) for query in kept)
    wrong = sum(not query.is_right for query in kept)
    return Cost(
        threshold,
        answered / len(inside) if inside else 0.0,
        len(kept),
        wrong,
        upper_bound(wrong, len(kept)) if kept else 1.0,
        1 - (len(kept) - answered) / outside if outside else None,
        accepts,
    )


def choices(queries: Sequence[Query], threshold: float) -> list[Cost]:
    """The run's threshold, and those that accept some shares of wrong answers, the lowest first."""
    if not any(query.right for query in queries):
        return []
    evidence = torch.tensor([query.score for query in queries], dtype=torch.float64)
    right = torch.tensor([query.is_right for query in queries])
    found = {
        share: error_threshold(evidence, right, most_wrong=share, least=float(evidence.min()))
        for share in ACCEPTED
    }
    costs = [cost_at(queries, cut, share) for share, cut in found.items()]
    return sorted([cost_at(queries, threshold), *costs], key=lambda one: one.threshold)


def curve(queries: Sequence[Query]) -> list[Cost]:
    """The cost at up to `_CURVE_POINTS` thresholds, from one that answers all to the highest."""
    cuts = sorted({query.score for query in queries})
    step = max(1, math.ceil(len(cuts) / _CURVE_POINTS))
    return [cost_at(queries, cut) for cut in cuts[::step]]


class Bin(NamedTuple):
    """Queries of about equal confidence."""

    confidence: float
    """Mean of what was stated."""
    right: Interval
    """Share that was right."""


def bins(queries: Sequence[Query], calibration: Calibration) -> list[Bin]:
    """The queries in the calibration's bins; empty where there are less than two."""
    if not calibration.edges:
        return []
    dealt: list[list[Query]] = [[] for _ in range(len(calibration.edges) + 1)]
    for query in queries:
        dealt[bisect.bisect_right(calibration.edges, query.score)].append(query)
    found = [
        Bin(
            sum(calibration.confidence(query.score) for query in held) / len(held),
            wilson(sum(query.is_right for query in held) / len(held), len(held)),
        )
        for held in dealt
        if held
    ]
    return found if len(found) > 1 else []
