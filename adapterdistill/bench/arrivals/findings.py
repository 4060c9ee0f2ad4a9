"""The table of arrivals: what is served, beside what a user would pick instead."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any, NamedTuple

import torch

from adapterdistill.bench.arrivals.arriving import Arriving
from adapterdistill.bench.transfer.statistics import Gain, gain_of
from adapterdistill.evaluation.metrics import auroc, mean_reciprocal_rank, top1

LABELS = {
    "question": "bare encoder, question only",
    "centroid": "bare encoder, centroid",
    "logistic": "logistic regression",
    "hybrid": "logistic regression with TF-IDF",
    "setfit": "SetFit",
    "own": "own adapter",
    "alone": "served by a run without other tenants",
    "student": "student of the run",
    "served": "**served**",
}
TEN_LINES = ("logistic", "hybrid")
FLOOR = ("centroid", "logistic")
AIMS = {
    (0, False): ("question", 6), (0, True): ("question", 10),
    (1, False): ("ten lines", 4), (1, True): ("ten lines", 6),
    (3, False): ("ten lines", 3), (3, True): ("ten lines", 4),
    (5, False): ("ten lines", 2), (5, True): ("ten lines", 3),
    (10, False): ("ten lines", 1), (10, True): ("ten lines", 1.5),
}  # fmt: skip
"""(k, whether unlabelled queries are there) to what `served` is compared with, and the least points
of top-1 over it, with an interval above zero."""


class Place(NamedTuple):
    """One block of the table. `k` is None for all training rows."""

    k: int | None
    unlabelled: bool


Result = Mapping[str, Any]
Results = Sequence[tuple[Arriving, Result]]


def findings(results: Results, planned: int, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that report.json holds; no text of any tenant, no path."""
    blocks: dict[Place, list[tuple[Arriving, Mapping[str, Any]]]] = defaultdict(list)
    served = [(job, result) for job, result in results if "rows" in result]
    for job, result in served:
        blocks[Place(job.k, job.unlabelled > 0)].append((job, result))
    found = [_block(place, blocks[place]) for place in sorted(blocks, key=_order)]
    return {
        "benchmark": "arrivals",
        "environment": dict(facts),
        "planned": planned,
        "arrivals": len(results),
        "not_served": [
            {"tenant": job.tenant, "k": job.k, "unlabelled": job.unlabelled > 0, "seed": job.seed}
            for job, result in results
            if "rows" not in result
        ],
        "blocks": found,
        "aims": [block["aim"] for block in found if block["aim"]],
    }


def _order(place: Place) -> tuple[float, bool]:
    return float("inf") if place.k is None else place.k, place.unlabelled


def _block(place: Place, results: Results) -> dict[str, Any]:
    rows = {}
    for name in LABELS:
        ranked = _ranked(results, name)
        if ranked:
            rows[name] = {
                "top1": _macro(ranked, top1),
                "mrr": _macro(ranked, mean_reciprocal_rank),
                "arrivals": sum(map(len, ranked.values())),
                "seconds": _seconds(results, name),
                "served_over_it": None if name == "served" else _gain(results, name),
                "out_of_scope": _out_of_scope(results, name),
            }
    return {
        "k": place.k,
        "unlabelled": place.unlabelled,
        "tenants": len({job.tenant for job, _ in results}),
        "seeds": sorted({job.seed for job, _ in results}),
        "rows": rows,
        "aim": _aim(place, rows),
        "floor": _floor(results),
        "stage_seconds": {
            stage: median(result["stage_seconds"][stage] for _, result in results)
            for stage in results[0][1]["stage_seconds"]
        },
        "peak_rss_mb": max(result["peak_rss_mb"] for _, result in results),
        "quarantined": sum(result["quarantined"] for _, result in results),
    }


def _ranked(results: Results, name: str) -> dict[str, list[torch.Tensor]]:
    """Ranks [queries] by tenant, one tensor a seed; tenants without test rows are left out."""
    ranked = defaultdict(list)
    for job, result in results:
        if name in result["rows"] and result["rows"][name]["ranks"]:
            ranked[job.tenant].append(torch.tensor(result["rows"][name]["ranks"]))
    return dict(ranked)


def _macro(
    ranked: Mapping[str, Sequence[torch.Tensor]], metric: Callable[[torch.Tensor], float]
) -> float:
    """Mean over tenants of the mean over seeds."""
    means = [sum(map(metric, seeds)) / len(seeds) for seeds in ranked.values()]
    return sum(means) / len(means)


def _gain(results: Results, other: str) -> dict[str, Any] | None:
    """Top-1 of what is served over another row, on the arrivals that have both."""
    differences = defaultdict(list)
    for job, result in results:
        rows = result["rows"]
        if other in rows and rows["served"]["ranks"]:
            served, theirs = (
                (torch.tensor(rows[name]["ranks"]) == 1).double() for name in ("served", other)
            )
            differences[job.tenant].append(served - theirs)
    found: Gain | None = gain_of(differences)
    if found is None:
        return None
    return {
        **asdict(found.interval),
        "wins": found.wins,
        "ties": found.ties,
        "losses": found.losses,
        "by_tenant": found.by_tenant,
    }


def _seconds(results: Results, name: str) -> float | None:
    """Median seconds: of a baseline from vectors to answers, of `served` of the whole run."""
    if name == "served":
        return float(median(result["seconds"] for _, result in results))
    values = [
        result["rows"][name].get("seconds") for _, result in results if name in result["rows"]
    ]
    known = [value for value in values if value is not None]
    return float(median(known)) if known else None


def _out_of_scope(results: Results, name: str) -> dict[str, float] | None:
    """Means over tenants with out-of-scope queries.

    `recall` is the share of them below the score that 5% of the answerable test queries are below;
    `turned_away` and `wrongly_turned_away` are shares at the served threshold, which no test query
    decided.
    """
    by_tenant: dict[str, list[dict[str, float]]] = defaultdict(list)
    for job, result in results:
        row = result["rows"].get(name)
        if row is None or not row["best_out_of_scope"] or not row["best"]:
            continue
        inside, outside = torch.tensor(row["best"]), torch.tensor(row["best_out_of_scope"])
        one = {
            "auroc": auroc(inside, outside),
            "recall": float((outside < torch.quantile(inside, 0.05)).double().mean()),
        }
        if "abstained" in row:
            one["turned_away"] = _share(row["abstained_out_of_scope"])
            one["wrongly_turned_away"] = _share(row["abstained"])
        by_tenant[job.tenant].append(one)
    if not by_tenant:
        return None
    names = next(iter(by_tenant.values()))[0]
    means = {
        key: [sum(one[key] for one in seeds) / len(seeds) for seeds in by_tenant.values()]
        for key in names
    }
    return {key: sum(values) / len(values) for key, values in means.items()}


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)


def _floor(results: Results) -> dict[str, Any]:
    """How far tenants are served under the better of bare centroid and logistic regression."""
    under = defaultdict(list)
    for job, result in results:
        hits = {
            name: _share([rank == 1 for rank in result["rows"][name]["ranks"]])
            for name in (*FLOOR, "served")
            if result["rows"][name]["ranks"]
        }
        if hits:
            under[job.tenant].append(hits["served"] - max(hits[name] for name in FLOOR))
    means = {name: sum(values) / len(values) for name, values in under.items()}
    return {
        "by_tenant": means,
        "under_by_more_than_1": sum(value < -0.01 for value in means.values()),
        "worst": min(means.values(), default=None),
    }


def _aim(place: Place, rows: Mapping[str, Any]) -> dict[str, Any] | None:
    k, unlabelled = place
    if k is None or (k, unlabelled) not in AIMS or "served" not in rows:
        return None
    over, least = AIMS[k, unlabelled]
    if over == "ten lines":
        over = max(TEN_LINES, key=lambda name: float(rows[name]["top1"]))
    found = rows[over]["served_over_it"]
    if found is None:
        return None
    return {
        "k": k,
        "unlabelled": unlabelled,
        "over": over,
        "aim": least / 100,
        **{key: found[key] for key in ("mean", "low", "high")},
        "met": found["mean"] >= least / 100 and found["low"] > 0,
    }
