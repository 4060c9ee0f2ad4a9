"""PNG plots of a transfer report: accuracy over k, gain over N, gain by tenant."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapterdistill.bench.transfer.method_table import (
    CONTROLS,
    LABELS,
    OURS,
    OWN,
    REFERENCES,
    VERDICT,
)
from adapterdistill.extras import require


def write_plots(folder: Path, found: Mapping[str, Any]) -> list[str]:
    """Write the plots into `folder`; returns their names.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figures = require("bench", "matplotlib.figure")
    canvases = require("bench", "matplotlib.backends.backend_agg")
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for name, draw in (
        ("accuracy_over_k.png", _accuracy_over_k),
        ("gain_over_n.png", _gain_over_n),
        ("gain_by_tenant.png", _gain_by_tenant),
    ):
        figure = figures.Figure(figsize=(9, 5.5), layout="constrained")
        canvases.FigureCanvasAgg(figure)
        draw(figure.subplots(), found)
        figure.savefig(folder / name, dpi=130)
        names.append(name)
    return names


def _accuracy_over_k(axes: Any, found: Mapping[str, Any]) -> None:
    rows = [r for r in found["rows"] if r["k"] is not None and not r["unrelated"]]
    largest = max(r["teacher_count"] for r in rows)
    for method, label in LABELS.items():
        of_method = [
            r for r in rows if r["method"] == method and r["teacher_count"] in (0, largest)
        ]
        if not of_method or method in CONTROLS:
            continue
        points = sorted((r["k"], 100 * r["top1"]) for r in of_method)
        dashed = method in REFERENCES or method == VERDICT
        axes.plot(*zip(*points, strict=True), marker="o", ls="--" if dashed else "-", label=label)
    axes.set(xlabel="training queries an FAQ (k)", ylabel="top-1, macro over tenants (%)")
    axes.set_title(f"Accuracy over k, N = {largest} teachers")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


def _gain_over_n(axes: Any, found: Mapping[str, Any]) -> None:
    gains = _ours(found)
    for i, k in enumerate(sorted({g["k"] for g in gains})):
        points = sorted((g["teacher_count"], g) for g in gains if g["k"] == k)
        middle = [100 * g["top1"] for _, g in points]
        below = [100 * (g["top1"] - g["low"]) for _, g in points]
        above = [100 * (g["high"] - g["top1"]) for _, g in points]
        # Side by side, so that intervals of several k do not cover each other.
        places = [n * (1 + 0.02 * i) for n, _ in points]
        axes.errorbar(places, middle, [below, above], marker="o", capsize=3, label=f"k = {k}")
    axes.axhline(0, color="black", lw=0.8)
    axes.set(xlabel="teachers (N)", ylabel="top-1 points over the own adapter (k = 0: frozen)")
    axes.set_title("Gain of AdapterDistillation over N, 95% intervals")
    if gains:
        axes.legend()
    axes.grid(alpha=0.3)


def _gain_by_tenant(axes: Any, found: Mapping[str, Any]) -> None:
    gains = _ours(found)
    largest = max((g["teacher_count"] for g in gains), default=0)
    gains = sorted((g for g in gains if g["teacher_count"] == largest), key=lambda g: g["k"])
    names = sorted({name for g in gains for name in g["by_tenant"]})
    height = 0.8 / max(1, len(gains))
    for i, g in enumerate(gains):
        places = [row + i * height for row in range(len(names))]
        values = [100 * g["by_tenant"].get(name, 0.0) for name in names]
        axes.barh(places, values, height, label=f"k = {g['k']}")
    axes.set_yticks([row + 0.4 for row in range(len(names))], names, fontsize=7)
    axes.axvline(0, color="black", lw=0.8)
    axes.set(xlabel="top-1 points over the own adapter (k = 0: frozen)")
    axes.set_title(f"Gain of AdapterDistillation by tenant, N = {largest}")
    if gains:
        axes.legend()


def _ours(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [
        g
        for g in found["gains"]
        if g["method"] == OURS
        and g["k"] is not None
        and g["over"] == ("frozen" if g["k"] == 0 else OWN)
    ]
