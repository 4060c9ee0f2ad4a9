"""Figures from cells: macro means, paired gains, out of scope, data efficiency."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from adapterdistill.bench.transfer.choices import choose_scoring
from adapterdistill.bench.transfer.method_table import CONTROLS, OURS
from adapterdistill.bench.transfer.sizes import Choices, Planned
from adapterdistill.evaluation.metrics import (
    Interval,
    auroc,
    mean_reciprocal_rank,
    paired_bootstrap,
    recall_at,
    top1,
)


@dataclass(frozen=True)
class Scored:
    """One cell's outcome under the scoring that was chosen for it."""

    planned: Planned
    scoring: str
    result: Mapping[str, Any]

    @property
    def ranks(self) -> Tensor:
        return torch.tensor(self.result["scores"][self.scoring]["test"])

    @property
    def valid_ranks(self) -> Tensor:
        return torch.tensor(self.result["scores"][self.scoring]["valid"])

    @property
    def row(self) -> "Row":
        cell = self.planned.cell
        return Row(cell.method, cell.k, self.planned.teacher_count, self.planned.unrelated)

    @property
    def place(self) -> tuple[str, int]:
        """The key that pairs two methods' cells: the same tenant, seed and rows."""
        return self.planned.cell.tenant, self.planned.cell.seed


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    method: str
    k: int | None
    teacher_count: int
    unrelated: bool = False


def with_scoring(
    planned: Sequence[Planned], results: Sequence[Mapping[str, Any]], choices: Choices
) -> list[Scored]:
    """Give each cell its scoring: the tuned one, or what did best on others' `valid` rows."""
    rows: dict[Row, list[tuple[Planned, Mapping[str, Any]]]] = defaultdict(list)
    for plan, result in zip(planned, results, strict=True):
        cell = plan.cell
        rows[Row(cell.method, cell.k, plan.teacher_count, plan.unrelated)].append((plan, result))
    scored = []
    for members in rows.values():
        cells = [result for _, result in members]
        by_tenant: dict[str, str] = {}
        for plan, result in members:
            cell = plan.cell
            # A control differs from its method only in its teachers.
            method = OURS if cell.method in CONTROLS else cell.method
            tuned = choices.get((method, cell.k, cell.tenant))
            if tuned is not None:
                scoring = tuned.scoring
            else:
                if cell.tenant not in by_tenant:
                    by_tenant[cell.tenant] = choose_scoring(cells, but=cell.tenant)
                scoring = by_tenant[cell.tenant]
            scored.append(Scored(plan, scoring, result))
    return scored


def by_row(scored: Sequence[Scored]) -> dict[Row, list[Scored]]:
    rows: dict[Row, list[Scored]] = defaultdict(list)
    for one in scored:
        rows[one.row].append(one)
    return dict(rows)


def macro(cells: Sequence[Scored], metric: Callable[[Tensor], float]) -> float:
    """Mean over tenants of the mean over seeds."""
    by_tenant: dict[str, list[float]] = defaultdict(list)
    for one in cells:
        if len(one.ranks):
            by_tenant[one.planned.cell.tenant].append(metric(one.ranks))
    means = [sum(values) / len(values) for values in by_tenant.values()]
    return sum(means) / len(means) if means else float("nan")


def metrics(cells: Sequence[Scored]) -> dict[str, float]:
    return {
        "top1": macro(cells, top1),
        "mrr": macro(cells, mean_reciprocal_rank),
        "recall_at_5": macro(cells, lambda ranks: recall_at(ranks, 5)),
    }


@dataclass(frozen=True)
class Gain:
    """Top-1 of one row over another on the same tenants, seeds and queries."""

    interval: Interval
    wins: int
    ties: int
    losses: int
    by_tenant: dict[str, float]


def gain(ours: Sequence[Scored], other: Sequence[Scored]) -> Gain | None:
    """Paired by tenant, seed and query; bootstrap over tenants, then queries.

    A query's difference is its mean over seeds, so that seeds do not pass for more queries. Test
    rows are the same at every seed.
    """
    others = {one.place: one for one in other}
    differences: dict[str, list[Tensor]] = defaultdict(list)
    for one in ours:
        pair = others.get(one.place)
        if pair is not None and len(one.ranks):
            hits, theirs = (one.ranks == 1).double(), (pair.ranks == 1).double()
            differences[one.planned.cell.tenant].append(hits - theirs)
    return gain_of(differences)


def gain_of(differences: Mapping[str, list[Tensor]]) -> Gain | None:
    """The gain from each tenant's differences of hits, [queries] for each seed."""
    if not differences:
        return None
    per_tenant = {name: torch.stack(d).mean(0) for name, d in sorted(differences.items())}
    means = {name: float(d.mean()) for name, d in per_tenant.items()}
    return Gain(
        interval=paired_bootstrap(list(per_tenant.values())),
        wins=sum(m > 1e-12 for m in means.values()),
        ties=sum(abs(m) <= 1e-12 for m in means.values()),
        losses=sum(m < -1e-12 for m in means.values()),
        by_tenant=means,
    )


def with_verdict(ours: Sequence[Scored], own: Sequence[Scored]) -> list[Scored]:
    """The cells that would be published: ours if it ranks the held-out rows better (MRR), the
    own adapter elsewhere; ours where a tenant has no held-out row."""
    owns = {one.place: one for one in own}
    published = []
    for one in ours:
        pair = owns.get(one.place)
        if pair is not None and len(one.valid_ranks):
            mine, theirs = (mean_reciprocal_rank(s.valid_ranks) for s in (one, pair))
            one = one if mine > theirs else pair
        published.append(one)
    return published


def out_of_scope(cells: Sequence[Scored]) -> dict[str, float] | None:
    """Macro AUROC of in-scope over out-of-scope top scores; share of out-of-scope queries turned
    away, and of in-scope ones turned away wrongly, at the threshold from training queries."""
    found: dict[str, list[float]] = defaultdict(list)
    for one in cells:
        scores = one.result["scores"][one.scoring]
        if "best" not in scores:
            continue
        inside, outside = torch.tensor(scores["best"]), torch.tensor(scores["best_out_of_scope"])
        found["auroc"].append(auroc(inside, outside))
        if scores["threshold"] is not None:
            found["recall"].append(float((outside < scores["threshold"]).double().mean()))
            found["false_rejection"].append(float((inside < scores["threshold"]).double().mean()))
    return {name: sum(v) / len(v) for name, v in found.items()} if found else None


def curve_area(points: Mapping[int, float]) -> float | None:
    """Area under accuracy over k (trapezoids, divided by the range of k); None below two points."""
    ks = sorted(points)
    if len(ks) < 2:
        return None
    pairs = pairwise(ks)
    area = sum((points[a] + points[b]) / 2 * (b - a) for a, b in pairs)
    return area / (ks[-1] - ks[0])


def reaches_at(points: Mapping[int, float], level: float) -> float | None:
    """The k, between measured ones by straight lines, at which the curve first reaches `level`."""
    ks = sorted(points)
    if ks and points[ks[0]] >= level:
        return float(ks[0])
    for a, b in pairwise(ks):
        if points[b] >= level:
            return a + (b - a) * (level - points[a]) / (points[b] - points[a])
    return None
