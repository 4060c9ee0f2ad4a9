"""Reports of benchmarks and drills: figures as JSON, and the same for people as Markdown."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from adapterdistill.files import write_atomically

MOST_FAULTS = 50
"""Faults that a report lists; the JSON file has all of them."""
Figures = Mapping[str, Any]


class Report(NamedTuple):
    """One report in its two forms."""

    figures: dict[str, Any]
    text: str


def write_report(
    folder: Path, figures: dict[str, Any], text: str, *, name: str = "report"
) -> Report:
    """Write NAME.json and NAME.md, each whole or not at all, into a folder that is made."""
    content = json.dumps(figures, indent=1, sort_keys=True) + "\n"
    write_atomically(folder / f"{name}.json", content.encode())
    write_atomically(folder / f"{name}.md", text.encode())
    return Report(figures, text)


@dataclass(frozen=True)
class Part:
    """One part of a report. What it measures stands under its name among the report's figures.

    The other functions read all figures; they are called when the part is measured.
    """

    name: str
    measure: Callable[[], object]
    sections: Callable[[Figures], Iterable[str]] = lambda figures: ()
    """Yields Markdown."""
    faults: Callable[[Figures], Iterable[str]] = lambda figures: ()
    """Yields what must not be."""
    aims: Callable[[Figures], Iterable[dict[str, Any]]] = lambda figures: ()
    """Yields each aim with its measurement; the last field, "met", says whether it holds."""


def measure_parts(
    folder: Path,
    title: str,
    figures: dict[str, Any],
    parts: Sequence[Part],
    *,
    name: str = "report",
) -> Report:
    """Measure one part after the other, and write the report after each.

    Args:
        figures: what is known before, with the facts of the machine under "environment".
    """
    report = Report(figures, "")
    for number, part in enumerate(parts, 1):
        figures[part.name] = part.measure()
        ready = parts[:number]
        figures["faults"] = [fault for one in ready for fault in one.faults(figures)]
        figures["aims"] = [aim for one in ready for aim in one.aims(figures)]
        text = document(
            title,
            verdict(figures["faults"]),
            aims_table(figures["aims"]) if figures["aims"] else "",
            *(section for one in ready for section in one.sections(figures)),
            setting(figures["environment"]),
        )
        report = write_report(folder, figures, text, name=name)
    return report


def document(title: str, *sections: str) -> str:
    """Sections under a title; empty ones are left out."""
    return "\n\n".join([f"# {title}", *filter(None, sections)]) + "\n"


def setting(facts: Figures) -> str:
    """The section that says how a report came about."""
    return f"## How it was run\n\n{listed(facts)}"


def listed(facts: Figures) -> str:
    """One line a fact."""
    return "\n".join(f"- {name.replace('_', ' ')}: {value}" for name, value in facts.items())


def verdict(faults: Sequence[str]) -> str:
    if not faults:
        return "No fault found."
    return "\n".join([f"**{len(faults)} faults**:", *(f"- {one}" for one in faults[:MOST_FAULTS])])


def aims_table(aims: Sequence[Figures]) -> str:
    """One row an aim, whose last field says whether it is met."""
    head = [name.replace("_", " ") for name in aims[0]]
    return table(head, ([*list(aim.values())[:-1], yes_or_no(aim["met"])] for aim in aims))


def yes_or_no(met: bool) -> str:
    return "yes" if met else "no"


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def counts(of: Mapping[str, object]) -> str:
    """Names with their counts, on one line."""
    return ", ".join(f"{name} {count}" for name, count in of.items())


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    body = ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    if not body:
        return "Nothing was run for this table."
    return "\n".join(["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *body])


def megabytes(sizes: Mapping[str, int]) -> str:
    """A table of one row of bytes, in MB."""
    return table(
        [name.replace("_", " ") for name in sizes],
        [[f"{value / 1e6:.1f}" for value in sizes.values()]],
    )


def table_of(rows: Iterable[Figures], columns: Mapping[str, str]) -> str:
    """A table of mappings. Each column has a head and a format string over a row's fields."""
    forms = columns.values()
    return table(list(columns), ([form.format(**row) for form in forms] for row in rows))
