"""The page of a run: from its records to HTML that is read from disk and asks nobody for anything.

All texts go through Jinja's escaping, because queries are what strangers typed. The page's own
policy forbids scripts and every request, should a text get through all the same.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from pydantic import BaseModel

from adapterdistill.actors.records import (
    Bundled,
    Distilled,
    Evaluated,
    Fetched,
    Validated,
    VariantMade,
)
from adapterdistill.actors.report.costs import bins, choices, curve, wilson
from adapterdistill.actors.report.differences import difference, short
from adapterdistill.actors.report.findings import Findings, Pair, Query
from adapterdistill.actors.report.plots import Measured, dots, reliability, thresholds
from adapterdistill.actors.report.runs import Run
from adapterdistill.actors.report.words import NAMES, QUESTIONS_ALONE, verdict
from adapterdistill.manifest import Metric

MOST_SHOWN = 100
"""Queries of one list on the page; findings.json has all."""
MOST_FAQS = 10
ENOUGH_OUT_OF_SCOPE = 10
"""Examples that are out of scope from which they set the threshold well."""
_KEPT = frozenset("\n\t")
_BIDIRECTIONAL = frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))


def render(
    run: Run, *, before: Run | None = None, runs: Sequence[Run] = (), texts: bool = True
) -> str:
    """The page of a run.

    Args:
        before: an earlier run to compare it with.
        runs: all runs of the tenant, for a list of them.
        texts: False: leaves out all texts and ids of FAQs, so that the page may be shown to others.
    """
    findings = run.findings
    compared = None if before is None else difference(run, before)
    if findings is not None and not texts:
        findings = findings.without_texts()
    return _template().render(
        run=run,
        texts=texts,
        verdict=verdict(run),
        evaluated=run.result(Evaluated),
        counts=counts.counts if (counts := run.result(Validated)) else {},
        fetched=run.result(Fetched),
        teachers=_teachers(run),
        leave_one_out=bool((distilled := run.result(Distilled)) and distilled.leave_one_out),
        plots=[(what, dots(rows, what)) for what, rows in _accuracy(run) if rows],
        variant=run.result(VariantMade),
        findings=findings,
        failures=None if findings is None else _failures(findings, _threshold(run)),
        overlaps=[] if findings is None else _overlaps(findings),
        needy=[] if findings is None else _needy(findings),
        cost=None if findings is None else _costs(findings, run),
        compared=compared,
        runs=[_listed(one) for one in runs],
        audits=list(_audits(run)),
        most_shown=MOST_SHOWN,
        enough_out_of_scope=ENOUGH_OUT_OF_SCOPE,
    )


@cache
def _template() -> Template:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"percent": lambda share: f"{100 * share:.1f}%", "short": short, "shown": shown}
    return made.get_template("page.html")


def shown(text: str) -> str:
    """The text without control characters, and those that turn the direction of what follows."""
    return "".join("\N{REPLACEMENT CHARACTER}" if _is_control(one) else one for one in text)


def _is_control(character: str) -> bool:
    is_control = unicodedata.category(character) in ("Cc", "Cs") and character not in _KEPT
    return is_control or character in _BIDIRECTIONAL


def _threshold(run: Run) -> float:
    """The threshold of the chosen adapter, whose rows the findings are."""
    evaluated = run.result(Evaluated)
    return -1.0 if evaluated is None else evaluated.threshold


def _accuracy(run: Run) -> Iterator[tuple[str, list[Measured]]]:
    """Top-1 of each candidate on held-out rows and on test rows."""
    evaluated, variant = run.result(Evaluated), run.result(VariantMade)
    if evaluated is None:
        return
    is_variant = variant is not None and variant.served != "adapter"

    def rows(split: str) -> list[Measured]:
        found: list[tuple[str, dict[str, Metric], bool]] = []
        if split == "test":
            found.append((QUESTIONS_ALONE, evaluated.questions_alone, False))
        for name in NAMES:
            if name in evaluated.candidates:
                served = name == evaluated.choice and not is_variant
                found.append((NAMES[name], getattr(evaluated.candidates[name], split), served))
        of_variant = None if variant is None else getattr(variant, split)
        if of_variant is not None:
            found.append(("cheaper variant", of_variant.variant, is_variant))
        return [
            Measured(name, wilson(metrics["top1"].value, metrics["top1"].count), served)
            for name, metrics, served in sorted(found, key=lambda one: one[2])
            if "top1" in metrics and metrics["top1"].count
        ]

    for split, what in (("held_out", "held-out rows"), ("test", "test rows")):
        found = rows(split)
        if found:
            yield f"Top-1 on {max(row.share.rows for row in found)} {what}", found


class _Teacher(NamedTuple):
    name: str
    share: float
    change: float | None


def _teachers(run: Run) -> list[_Teacher]:
    distilled = run.result(Distilled)
    if distilled is None:
        return []
    return [
        _Teacher(short(name), share, distilled.leave_one_out.get(name))
        for name, share in sorted(distilled.weights.items(), key=lambda item: -item[1])
    ]


class _Failures(NamedTuple):
    confused: list[Query]
    """Answered, with a wrong FAQ first."""
    turned_away: list[Query]
    """Answerable, and not answered."""
    let_in: list[Query]
    """Out of scope, and answered."""
    labelled: int
    outside: int


def _failures(findings: Findings, threshold: float) -> _Failures:
    inside = [one for one in findings.held_out if one.right]
    outside = [one for one in findings.held_out if not one.right]

    def worst(queries: Sequence[Query]) -> list[Query]:
        return sorted(queries, key=lambda one: -one.score)

    return _Failures(
        worst([one for one in inside if one.score >= threshold and not one.is_right]),
        worst([one for one in inside if one.score < threshold]),
        worst([one for one in outside if one.score >= threshold]),
        len(inside),
        len(outside),
    )


class _Overlap(NamedTuple):
    pair: Pair
    confused: int
    """Held-out queries of one that found the other."""


def _overlaps(findings: Findings) -> list[_Overlap]:
    """Pairs that are nearer than queries are to their own FAQ, or that are confused."""
    confused = Counter(
        (min(query.right[0], query.found), max(query.right[0], query.found))
        for query in findings.held_out
        if query.right and not query.is_right
    )
    usual = findings.usual_cosine
    found = [
        _Overlap(pair, confused.get((pair.first, pair.second), 0))
        for pair in findings.pairs
        if (usual is not None and pair.cosine > usual) or (pair.first, pair.second) in confused
    ]
    return sorted(found, key=lambda one: (-one.confused, -one.pair.cosine))[:MOST_FAQS]


class _Needy(NamedTuple):
    place: int
    queries: int
    wrong: int
    """Figures of its held-out queries."""


def _needy(findings: Findings) -> list[_Needy]:
    """FAQs that a label helps most: those that are missed, then those with the fewest queries."""
    wrong = Counter(
        query.right[0] for query in findings.held_out if query.right and not query.is_right
    )
    found = [_Needy(place, faq.queries, wrong[place]) for place, faq in enumerate(findings.faqs)]
    found.sort(key=lambda one: (-one.wrong, one.queries, one.place))
    return found[:MOST_FAQS]


def _costs(findings: Findings, run: Run) -> dict[str, Any]:
    """The plots of threshold and calibration, and the table beside them."""
    threshold, queries = _threshold(run), findings.held_out
    evaluated = run.result(Evaluated)
    calibration = None if evaluated is None else evaluated.calibration
    found = [] if calibration is None else bins(queries, calibration)
    offered = choices(queries, threshold)
    return {
        "choices": [one for one in offered if one.answers or one.accepts is None],
        "unreachable": max((one.accepts or 0 for one in offered if not one.answers), default=0),
        "plot": thresholds(
            curve(queries), threshold, "Answered queries and wrong answers by threshold"
        ),
        "bins": reliability(found, "Answers that were right, by stated confidence"),
        "calibration": calibration,
    }


class _Listed(NamedTuple):
    name: str
    judged_at: str
    queries: int
    top1: str
    verdict: str


def _listed(run: Run) -> _Listed:
    evaluated, validated = run.result(Evaluated), run.result(Validated)
    top1 = ""
    if evaluated is not None and evaluated.candidates[evaluated.choice].held_out:
        found = evaluated.candidates[evaluated.choice].held_out["top1"]
        top1 = f"{100 * found.value:.1f}% of {found.count}"
    chosen = "" if evaluated is None else NAMES[evaluated.choice]
    return _Listed(
        run.name,
        f"{run.judged_at:%Y-%m-%d %H:%M}" if run.judged_at else "",
        0 if validated is None else validated.counts.get("train", 0),
        top1,
        chosen if run.result(Bundled) is not None else f"{chosen or 'nothing'}, not served",
    )


def _audits(run: Run) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Figures of an audit of membership, where a stage has any."""
    for stage in run.stages.values():
        for name, value in stage:
            if "membership" in name and isinstance(value, BaseModel):
                numbers = [(key, f"{of:.4g}") for key, of in value if isinstance(of, int | float)]
                yield name.replace("_", " "), numbers
