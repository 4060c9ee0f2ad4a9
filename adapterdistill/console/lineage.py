"""A version's lineage as a picture: teachers on the left, what learnt from it on the right."""

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement, tostring

from markupsafe import Markup

from adapterdistill.errors import NotFoundError
from adapterdistill.manifest import VersionRef
from adapterdistill.registry.client.client import RegistryClient

MOST = 20
"""Relatives of each side in the picture; the nearest ones."""
_WIDTH, _HEIGHT, _GAP, _ROW = 190, 46, 70, 62
_MOST_CHARACTERS = 22


class Lineage(NamedTuple):
    """A version among its relatives."""

    levels: Mapping[VersionRef, int]
    """0: the version; below 0: its ancestors, by their depth; above: what learnt from it."""
    edges: tuple[tuple[VersionRef, VersionRef], ...]
    """Teacher and student."""
    left_out: int
    """Relatives that are not in the picture."""


def read_lineage(client: RegistryClient, ref: VersionRef) -> Lineage:
    """Ask the registry for the relatives of a version, and who of them taught whom."""
    found = client.lineage(ref)
    levels = {ref: 0}
    levels |= {one.ref: -one.depth for one in found.ancestors[:MOST]}
    levels |= {one.ref: one.depth for one in found.descendants[:MOST]}
    edges = []
    for student in levels:
        try:
            ancestors = (found if student == ref else client.lineage(student)).ancestors
        except NotFoundError:  # withdrawn, or not for this caller
            continue
        edges += [(one.ref, student) for one in ancestors if one.depth == 1 and one.ref in levels]
    left_out = len(found.ancestors) + len(found.descendants) + 1 - len(levels)
    return Lineage(levels, tuple(edges), left_out)


def picture(lineage: Lineage) -> Markup:
    """Draw a lineage as inline SVG; each version is a link to its page."""
    columns: defaultdict[int, list[VersionRef]] = defaultdict(list)
    for ref, level in lineage.levels.items():
        columns[level].append(ref)
    tallest = max(map(len, columns.values()))
    places: dict[VersionRef, tuple[float, float]] = {}
    for number, level in enumerate(sorted(columns)):
        top = (tallest - len(columns[level])) * _ROW / 2
        for row, ref in enumerate(columns[level]):
            places[ref] = (4 + number * (_WIDTH + _GAP), 4 + top + row * _ROW)
    width, height = len(columns) * (_WIDTH + _GAP) - _GAP + 8, tallest * _ROW - _ROW + _HEIGHT + 8
    svg = Element("svg", viewBox=f"0 0 {width} {height}", width=str(width), height=str(height))
    svg.set("role", "group")
    svg.set("aria-label", "Lineage: teachers on the left, students on the right")
    for teacher, student in lineage.edges:
        (x1, y1), (x2, y2) = places[teacher], places[student]
        x1, y1, y2 = x1 + _WIDTH, y1 + _HEIGHT / 2, y2 + _HEIGHT / 2
        bend = f"M{x1:.0f} {y1:.0f}C{x1 + _GAP / 2:.0f} {y1:.0f} {x2 - _GAP / 2:.0f} {y2:.0f}"
        SubElement(svg, "path", {"class": "edge", "d": f"{bend} {x2:.0f} {y2:.0f}"})
    for ref, (x, y) in places.items():
        link = SubElement(svg, "a", href=f"/versions/{ref.tenant}/{ref.adapter}/{ref.version}")
        link.set("aria-label", f"{ref.tenant} {ref.adapter}, version {ref.version[:12]}")
        box = SubElement(link, "rect", x=f"{x:.0f}", y=f"{y:.0f}", rx="6")
        box.set("width", str(_WIDTH))
        box.set("height", str(_HEIGHT))
        box.set("class", "node this" if lineage.levels[ref] == 0 else "node")
        name = f"{ref.tenant}/{ref.adapter}"
        shown = name if len(name) <= _MOST_CHARACTERS else f"{name[: _MOST_CHARACTERS - 1]}…"
        for text, kind, down in ((shown, "name", 19), (ref.version[:12], "quiet", 36)):
            said = SubElement(link, "text", x=f"{x + 9:.0f}", y=f"{y + down:.0f}")
            said.set("class", kind)
            said.text = text
    return Markup(tostring(svg, encoding="unicode"))  # the tree has escaped all texts
