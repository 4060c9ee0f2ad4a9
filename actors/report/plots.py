"""Small plots as inline SVG: two colours, every end labelled, legible at 320 pixels.

Colours are classes that the page's style sheet defines, for light and dark.
"""

from collections.abc import Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement, tostring

from markupsafe import Markup

from adapterdistill.actors.report.costs import Bin, Cost, Interval

_WIDTH, _HEIGHT = 360, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 38, 14, 14, 40
_ROW = 38


class Measured(NamedTuple):
    """One row of a dot plot."""

    name: str
    share: Interval
    served: bool = False


def dots(rows: Sequence[Measured], title: str) -> Markup:
    """Shares with their intervals, one a row, on a common axis."""
    low = min(row.share.low for row in rows)
    start = int(10 * low) / 10
    height = len(rows) * _ROW + 26
    svg = _svg(height, title)

    def x(share: float) -> float:
        return 8 + (share - start) / (1 - start) * (_WIDTH - 16)

    base = height - 20
    for mark, anchor in ((start, "start"), ((start + 1) / 2, "middle"), (1.0, "end")):
        _line(svg, (x(mark), 4), (x(mark), base), "grid")
        _text(svg, x(mark), base + 15, f"{100 * mark:.0f}%", "small", anchor)
    for number, row in enumerate(rows):
        y = number * _ROW + 16
        kind = "served" if row.served else "plain"
        share = row.share
        _text(svg, 8, y, row.name + (" (served)" if row.served else ""), kind)
        told = f"{100 * share.value:.1f}% [{100 * share.low:.0f}, {100 * share.high:.0f}]"
        _text(svg, _WIDTH - 8, y, told, kind, "end")
        _line(svg, (x(share.low), y + 11), (x(share.high), y + 11), f"range {kind}")
        SubElement(svg, "circle", cx=f"{x(share.value):.1f}", cy=f"{y + 11}", r="4.5").set(
            "class", f"dot {kind}"
        )
    return _markup(svg)


def thresholds(points: Sequence[Cost], threshold: float, title: str) -> Markup | None:
    """Answered queries and wrong answers against the threshold; None for less than two points."""
    if len(points) < 2 or points[0].threshold == points[-1].threshold:
        return None
    first, last = points[0].threshold, points[-1].threshold
    svg = _svg(_HEIGHT, title)

    def x(cut: float) -> float:
        return _LEFT + (min(max(cut, first), last) - first) / (last - first) * (
            _WIDTH - _LEFT - _RIGHT
        )

    _shares_axis(svg)
    for cut, anchor in ((first, "start"), (last, "end")):
        _text(svg, x(cut), _HEIGHT - 24, f"{cut:.2f}", "small", anchor)
    _text(svg, (_LEFT + _WIDTH) / 2, _HEIGHT - 6, "threshold of the top score", "small", "middle")
    _path(svg, [(x(p.threshold), _y(p.answered)) for p in points], "line served")
    _path(svg, [(x(p.threshold), _y(p.wrong_share)) for p in points], "line other")
    at = x(threshold)
    _line(svg, (at, _TOP), (at, _y(0)), "mark")
    anchor = "end" if at > _WIDTH / 2 else "start"
    shift = -4 if anchor == "end" else 4
    _text(svg, at + shift, _y(0.03), f"this run: {threshold:.2f}", "small", anchor)
    return _markup(svg)


def reliability(found: Sequence[Bin], title: str) -> Markup | None:
    """What was right against what was stated; None for less than two bins."""
    if len(found) < 2:
        return None
    svg = _svg(_HEIGHT, title)
    _shares_axis(svg)

    def x(share: float) -> float:
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    for mark, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        _text(svg, x(mark), _HEIGHT - 24, f"{100 * mark:.0f}%", "small", anchor)
    _text(svg, (_LEFT + _WIDTH) / 2, _HEIGHT - 6, "confidence that was stated", "small", "middle")
    _line(svg, (x(0), _y(0)), (x(1), _y(1)), "mark")
    for one in found:
        at = x(one.confidence)
        _line(svg, (at, _y(one.right.low)), (at, _y(one.right.high)), "range served")
        dot = SubElement(svg, "circle", cx=f"{at:.1f}", cy=f"{_y(one.right.value):.1f}", r="4.5")
        dot.set("class", "dot served")
    return _markup(svg)


def _y(share: float) -> float:
    return _TOP + (1 - share) * (_HEIGHT - _TOP - _BOTTOM)


def _shares_axis(svg: Element) -> None:
    for mark in (0.0, 0.5, 1.0):
        _line(svg, (_LEFT, _y(mark)), (_WIDTH - _RIGHT, _y(mark)), "grid")
        _text(svg, _LEFT - 5, _y(mark) + 4, f"{100 * mark:.0f}%", "small", "end")


def _svg(height: int, title: str) -> Element:
    svg = Element("svg", viewBox=f"0 0 {_WIDTH} {height}", role="img")
    SubElement(svg, "title").text = title
    return svg


def _line(svg: Element, start: tuple[float, float], end: tuple[float, float], kind: str) -> None:
    (x1, y1), (x2, y2) = start, end
    line = SubElement(svg, "line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}")
    line.set("class", kind)


def _path(svg: Element, points: Sequence[tuple[float, float]], kind: str) -> None:
    drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    SubElement(svg, "polyline", points=drawn).set("class", kind)


def _text(svg: Element, x: float, y: float, told: str, kind: str, anchor: str = "start") -> None:
    found = SubElement(svg, "text", {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor})
    found.set("class", kind)
    found.text = told


def _markup(svg: Element) -> Markup:
    return Markup(tostring(svg, encoding="unicode"))  # the tree has escaped all texts
