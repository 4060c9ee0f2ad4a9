"""The report as data: every figure of the transfer benchmark, from a run's cells."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from adapterdistill.bench.tenants import BenchTenant, related
from adapterdistill.bench.transfer.choices import Choice
from adapterdistill.bench.transfer.method_table import CONTROLS, LABELS, OURS, OWN, VERDICT
from adapterdistill.bench.transfer.statistics import (
    Gain,
    Row,
    Scored,
    by_row,
    curve_area,
    gain,
    metrics,
    out_of_scope,
    reaches_at,
    with_scoring,
    with_verdict,
)
from adapterdistill.bench.transfer.study import TransferRun

Rows = dict[Row, list[Scored]]


def findings(
    run: TransferRun, tenants: Mapping[str, BenchTenant], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that report.json holds; no text of any tenant, no path."""
    scored = with_scoring(run.planned, run.results, run.choices)
    rows = by_row(scored)
    for row, cells in list(rows.items()):
        own = rows.get(Row(OWN, row.k, 0))
        if row.method == OURS and own and not row.unrelated:
            rows[Row(VERDICT, row.k, row.teacher_count)] = with_verdict(cells, own)
    gains = _gains(rows)
    return {
        "benchmark": "transfer",
        "environment": dict(facts),
        "size": asdict(run.size),
        "seeds": list(run.seeds),
        "complete": run.complete,
        "estimate_s": round(run.estimate_s, 1),
        "seconds": round(run.seconds, 1),
        "cells": len(run.planned),
        "computed_now": run.computed,
        "tenants": [
            {
                "name": name,
                "faqs": tenant.num_faqs,
                "train": len(tenant.train),
                "valid": len(tenant.valid),
                "test": len(tenant.test),
                "out_of_scope": len(tenant.out_of_scope),
            }
            for name, tenant in sorted(tenants.items())
        ],
        "rows": [_row(row, cells) for row, cells in sorted(rows.items(), key=_order)],
        "aims": aims(gains),
        "gains": gains,
        "strata": _strata(rows),
        "curves": _curves(rows),
        "choices": _choices(run.choices),
        "no_harm": all(result["no_harm"] for result in run.results),
    }


def baseline(k: int | None) -> Row:
    """The baseline of a gain: the tuned own adapter, or the frozen encoder without a query."""
    return Row("frozen" if k == 0 else OWN, k, 0)


def _order(item: tuple[Row, Any]) -> tuple[float, int, int, bool]:
    row = item[0]
    k = float("inf") if row.k is None else row.k
    return k, list(LABELS).index(row.method), row.teacher_count, row.unrelated


def _row(row: Row, cells: Sequence[Scored]) -> dict[str, Any]:
    found: dict[str, Any] = {
        **asdict(row),
        "label": LABELS[row.method],
        "cells": len(cells),
        **metrics(cells),
        "scorings": dict(Counter(one.scoring for one in cells)),
        "train_s_median": median(one.result["train_s"] for one in cells),
    }
    oos = out_of_scope(cells)
    return found | ({"out_of_scope": oos} if oos else {})


def _gains(rows: Rows) -> list[dict[str, Any]]:
    """Each row over the baseline of its k, and ours over every other of its k and N."""
    found = []
    for row, cells in sorted(rows.items(), key=_order):
        if row.unrelated:
            continue
        base = rows.get(baseline(row.k))
        if base and row != baseline(row.k):
            found.append(_gain(row, baseline(row.k), gain(cells, base)))
        if row.method != OURS:
            continue
        for other, theirs in sorted(rows.items(), key=_order):
            same = other.k == row.k and other.teacher_count in (0, row.teacher_count)
            if same and not other.unrelated and other not in (row, baseline(row.k)):
                found.append(_gain(row, other, gain(cells, theirs)))
    return [one for one in found if one]


def _gain(row: Row, over: Row, found: Gain | None) -> dict[str, Any]:
    if found is None:
        return {}
    return {
        "method": row.method,
        "over": over.method,
        "k": row.k,
        "teacher_count": row.teacher_count,
        "top1": found.interval.mean,
        "low": found.interval.low,
        "high": found.interval.high,
        "wins": found.wins,
        "ties": found.ties,
        "losses": found.losses,
        "by_tenant": found.by_tenant,
    }


def _strata(rows: Rows) -> list[dict[str, Any]]:
    """Ours over the baseline where a related tenant is among the teachers, where none is, and
    where related ones were kept out, against the same tenants with them."""
    found = []
    for row, cells in sorted(rows.items(), key=_order):
        base = rows.get(baseline(row.k))
        if row.method != OURS or not base:
            continue
        if row.unrelated:
            stratum = {
                "stratum": "related kept out",
                **_gain(row, baseline(row.k), gain(cells, base)),
            }
            found.append(stratum)
            full = rows.get(Row(row.method, row.k, row.teacher_count))
            if full:
                loss = _gain(row, row, gain(cells, full))
                found.append(loss | {"stratum": "related kept out, over related allowed"})
            continue
        for name, wanted in (("related teacher", True), ("no related teacher", False)):
            part = [one for one in cells if _has_related(one) == wanted]
            one_gain = _gain(row, baseline(row.k), gain(part, base))
            if one_gain:
                found.append({"stratum": name, **one_gain})
    return found


def _has_related(one: Scored) -> bool:
    cell = one.planned.cell
    return any(related(cell.tenant, teacher) for teacher in cell.teachers)


def _curves(rows: Rows) -> dict[str, Any]:
    """Area under accuracy over k, and at which k the own adapter reaches ours at k = 3."""
    curves: dict[tuple[str, int], dict[int, float]] = {}
    for row, cells in rows.items():
        if row.k is not None and not row.unrelated:
            curves.setdefault((row.method, row.teacher_count), {})[row.k] = metrics(cells)["top1"]
    # Every curve over the same k: the own adapter starts at 1 (at 0 it is the frozen encoder).
    areas = []
    for (method, count), points in sorted(curves.items()):
        area = curve_area({k: value for k, value in points.items() if k > 0})
        if area is not None:
            areas.append({"method": method, "teacher_count": count, "area_top1": area})
    own = curves.get((OWN, 0), {})
    reach = [
        {"teacher_count": count, "k": 3, "own_reaches_at_k": reaches_at(own, points[3])}
        for (method, count), points in sorted(curves.items())
        if method == OURS and 3 in points
    ]
    return {"areas": areas, "data_efficiency": reach}


def _choices(choices: Mapping[tuple[str, int | None, str], Choice]) -> list[dict[str, Any]]:
    """Counts of the chosen settings, by method and k."""
    counts: dict[tuple[str, int | None], Counter[tuple[float, int, str]]] = {}
    for (method, k, _), choice in choices.items():
        one = (choice.setting.learning_rate, choice.setting.steps, choice.scoring)
        counts.setdefault((method, k), Counter())[one] += 1
    return [
        {"method": m, "k": k, "learning_rate": rate, "steps": steps, "scoring": s, "tenants": n}
        for (m, k), counter in sorted(counts.items(), key=str)
        for (rate, steps, s), n in counter.most_common()
    ]


@dataclass(frozen=True)
class Aim:
    """One aim. `measured` and its interval are top-1 points (0.01 is one)."""

    text: str
    k: int | None
    measured: float
    low: float
    high: float
    met: bool


def aims(gains: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every aim that the run has figures for, at its largest N."""
    largest = max((g["teacher_count"] for g in gains if g["method"] == OURS), default=0)
    found = []
    for g in gains:
        if g["teacher_count"] not in (0, largest):
            continue
        aim = _aim(g["method"], g["over"], g["k"])
        if aim is None:
            continue
        text, least, apart_from_zero = aim
        if g["method"] in CONTROLS:
            met = g["low"] <= 0
        else:
            met = g["top1"] >= least and (g["low"] > 0 or not apart_from_zero)
        found.append(asdict(Aim(text, g["k"], g["top1"], g["low"], g["high"], met)))
    return found


def _aim(method: str, over: str, k: int | None) -> tuple[str, float, bool] | None:
    """(words, least mean, whether the interval must exclude zero)."""
    if method in CONTROLS and over == OWN:
        return f"{LABELS[method]}: no gain over the own adapter", 0.0, False
    if method == VERDICT and over == OWN and k is not None:
        return "With the verdict: no worse than the own adapter", 0.0, False
    if method != OURS:
        return None
    if over == "frozen" and k == 0:
        return "+2 over the frozen encoder, interval above zero", 0.02, True
    if over == OWN and k is not None and k <= 5:
        least = 2 if k <= 3 else 1
        return f"+{least} over the own adapter, interval above zero", least / 100, True
    if over == "fusion":
        return "At least AdapterFusion, with a single adapter", 0.0, False
    if over == "pooled":
        return "Within 1 of the pooled-data reference", -0.01, False
    return None
