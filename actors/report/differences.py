"""What changed from one run of a tenant to another."""

from collections.abc import Callable
from typing import NamedTuple

from adapterdistill.actors.records import Bundled, Decided, Evaluated, Fetched, Published, Validated
from adapterdistill.actors.report.runs import Run
from adapterdistill.actors.report.words import NAMES
from adapterdistill.evaluation.report import Figures
from adapterdistill.manifest import VersionRef


class Change(NamedTuple):
    """A figure of two runs; an empty text where a run lacks it."""

    what: str
    before: str
    now: str


class Difference(NamedTuple):
    """One run against an earlier one."""

    before: str
    """Name of the earlier run."""
    changes: tuple[Change, ...]
    joined: tuple[str, ...]
    """Teachers that the earlier run did not have."""
    left: tuple[str, ...]
    mended: tuple[str, ...]
    """Held-out queries of both runs that were ranked wrong and are right now."""
    broken: tuple[str, ...]
    compared: int
    """Held-out queries of both runs."""

    def changed(self) -> dict[str, dict[str, str]]:
        """The figures that changed, by what they say; no text."""
        return {one.what: {"before": one.before, "now": one.now} for one in self.changes}


def difference(now: Run, before: Run) -> Difference:
    """Compare two runs; figures that are equal are left out."""
    rows = [Change(what, value(before), value(now)) for what, value in _FIGURES]
    taught, teaches = _teachers(before), _teachers(now)
    was, is_ = _judged(before), _judged(now)
    both = sorted(was.keys() & is_.keys())
    return Difference(
        before.name,
        tuple(row for row in rows if row.before != row.now),
        joined=tuple(sorted(teaches - taught)),
        left=tuple(sorted(taught - teaches)),
        mended=tuple(text for text in both if is_[text] and not was[text]),
        broken=tuple(text for text in both if was[text] and not is_[text]),
        compared=len(both),
    )


def _judged(run: Run) -> dict[str, bool]:
    """Whether each labelled held-out query is ranked right, by its text."""
    found = () if run.findings is None else run.findings.held_out
    return {query.text: query.is_right for query in found if query.right}


def _teachers(run: Run) -> set[str]:
    fetched = run.result(Fetched)
    return set() if fetched is None else {short(name) for name in fetched.teachers}


def short(version_name: str) -> str:
    """A version's tenant and adapter, and the beginning of its digest."""
    ref = VersionRef.parse(version_name)
    return f"{ref.tenant}/{ref.adapter} {ref.version[:12]}"


def _count(key: str) -> Callable[[Run], str]:
    def value(run: Run) -> str:
        found = run.result(Validated)
        return "" if found is None else str(found.counts.get(key, 0))

    return value


def _top1(of: Callable[[Figures], str]) -> Callable[[Run], str]:
    def value(run: Run) -> str:
        found = run.result(Evaluated)
        return "" if found is None else of(found.candidates[found.choice])

    return value


def _share(figures: Figures, split: str) -> str:
    found = figures.held_out if split == "held_out" else figures.test
    return f"{100 * found['top1'].value:.1f}% of {found['top1'].count}" if found else "no row"


def _served(run: Run) -> str:
    decided = run.result(Decided)
    return "" if decided is None else NAMES[decided.choice]


def _version(run: Run) -> str:
    found = run.result(Published)
    return "" if found is None else short(found.name)


def _bundle(run: Run) -> str:
    found = run.result(Bundled)
    return "not served" if found is None else f"{found.bundle[:12]}{found.bundle[64:]}"


def _threshold(run: Run) -> str:
    found = run.result(Bundled)
    return "" if found is None else f"{found.threshold:.4f}"


def _wrong(run: Run) -> str:
    found = run.result(Bundled)
    if found is None or found.calibration is None:
        return ""
    of = found.calibration
    return f"{100 * of.expected_error:.1f}% (95% bound {100 * of.error_bound:.1f}%)"


def _seconds(run: Run) -> str:
    return f"{sum(stage.seconds for stage in run.stages.values()):.0f}"


_FIGURES: tuple[tuple[str, Callable[[Run], str]], ...] = (
    ("chosen", _served),
    ("version", _version),
    ("bundle", _bundle),
    ("FAQs", _count("faqs")),
    ("training queries", _count("train")),
    ("queries out of scope", _count("out_of_scope")),
    ("unlabelled queries", _count("unlabelled")),
    ("top-1 on held-out rows", _top1(lambda figures: _share(figures, "held_out"))),
    ("top-1 on test rows", _top1(lambda figures: _share(figures, "test"))),
    ("threshold", _threshold),
    ("wrong answers", _wrong),
    ("seconds", _seconds),
)
