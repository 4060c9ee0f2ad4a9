"""Losses and held-out scores of a run's trainings, as plots.

    RUN/tracking.jsonl    {"stage": "distil", "step": 10, "loss": 0.41, "held_out_score": 0.87}

A run of an earlier release has no such file, and then there are no plots.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement, tostring

from markupsafe import Markup

FILE = "tracking.jsonl"
NAMES = {"loss": "loss", "held_out_score": "held-out score"}
MOST_BYTES = 8 << 20
"""Most of the file that is read: the end of a long training."""
_MOST_POINTS = 300
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 360, 170, 62, 12, 12, 30
Point = tuple[int, float]


class Plot(NamedTuple):
    """A number of a stage's training, by gradient step."""

    title: str
    drawn: Markup


def plots_of(run: Path) -> list[Plot]:
    """Draw what the run's trainings left: one plot a stage and number, of two points or more."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for row in _rows(run / FILE):
        for name in NAMES:
            step, value = row.get("step"), row.get(name)
            if isinstance(step, int) and isinstance(value, int | float):
                found.setdefault((str(row.get("stage")), name), {})[step] = value
    return [
        Plot(title, _drawn(sorted(points.items()), title))
        for (stage, name), points in found.items()
        if (title := f"{stage}: {NAMES[name]} by gradient step") and len(points) > 1
    ]


def at_step(run: Path) -> str:
    """The gradient step that a training has just done; empty where none is at work."""
    rows = _rows(run / FILE)
    last = rows[-1] if rows else {}
    step, loss = last.get("step"), last.get("loss")
    if not isinstance(step, int) or not isinstance(loss, int | float):
        return ""
    return f"gradient step {step}, loss {loss:.4f}"


def size_of(run: Path) -> int:
    """Bytes of the run's file, which grows; 0 without one."""
    try:
        return (run / FILE).stat().st_size
    except OSError:
        return 0


def _rows(file: Path) -> list[dict[str, object]]:
    """The rows of the end of the file; a line that is none is left out."""
    try:
        with file.open("rb") as opened:
            opened.seek(max(0, size_of(file.parent) - MOST_BYTES))
            lines = opened.read(MOST_BYTES).splitlines()
    except OSError:
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _drawn(points: Sequence[Point], title: str) -> Markup:
    thinned = [*points[:: -(-len(points) // _MOST_POINTS)]]
    thinned += [points[-1]] if thinned[-1] != points[-1] else []
    steps, values = [step for step, _ in points], [value for _, value in points]
    low, high = min(values), max(values)
    first, last = min(steps), max(steps)

    def x(step: int) -> float:
        return _LEFT + (step - first) / ((last - first) or 1) * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _TOP + (high - value) / ((high - low) or 1) * (_HEIGHT - _TOP - _BOTTOM)

    svg = Element("svg", viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img")
    svg.set("class", "plot")
    SubElement(
        svg, "title"
    ).text = f"{title}: {values[0]:.4g} at step {steps[0]}, {values[-1]:.4g} at step {steps[-1]}"
    for value in {low, high}:
        line = {"x1": str(_LEFT), "x2": str(_WIDTH - _RIGHT), "class": "grid"}
        SubElement(svg, "line", line | {"y1": f"{y(value):.1f}", "y2": f"{y(value):.1f}"})
        _text(svg, _LEFT - 6, y(value) + 4, f"{value:.4g}", "end")
    for step, anchor in ((first, "start"), (last, "end")):
        _text(svg, x(step), _HEIGHT - 10, f"step {step}", anchor)
    drawn = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in thinned)
    SubElement(svg, "polyline", {"points": drawn, "class": "line"})
    return Markup(tostring(svg, encoding="unicode"))  # the tree has escaped all texts


def _text(svg: Element, x: float, y: float, told: str, anchor: str) -> None:
    said = SubElement(svg, "text", {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor})
    said.set("class", "quiet")
    said.text = told
