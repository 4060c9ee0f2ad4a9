"""What the benchmark aims at, and by how much a run meets or misses it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from adapterdistill.bench.method_table import CONTROLS, LABELS, OURS, OWN, VERDICT


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
