"""Names and sentences of the report."""

import re

from adapterdistill.actors.records import Bundled, Decided, Published, VariantMade
from adapterdistill.actors.report.runs import Run
from adapterdistill.actors.stages import ONBOARDING
from adapterdistill.evaluation.report import Choice

NAMES: dict[Choice, str] = {
    "distilled": "student",
    "averaged": "teachers' average",
    "own": "own adapter",
    "bare": "bare encoder with head",
    "live": "version that was live",
}
"""What is served, in the words of the report. Each candidate has a head of its own."""
QUESTIONS_ALONE = "bare encoder, questions alone"
"""The state before a run."""
_BETTER = re.compile(r"cross-entropy ([+-][0-9.]+) nats from the usual candidate on (\d+)")


def verdict(run: Run) -> str:
    """One sentence: what was decided, and why."""
    decided, bundled = run.result(Decided), run.result(Bundled)
    if decided is None:
        return f"The run has not finished: {len(run.stages)} of {len(ONBOARDING)} stages are done."
    chosen = f"The {NAMES[decided.choice]}"
    because = f"because {_because(decided.reason)}"
    if bundled is not None:
        variant = run.result(VariantMade)
        served = "stays live" if decided.choice == "live" else bundled_as(bundled)
        if variant is not None and variant.served != "adapter":
            return f"A cheaper variant of the {NAMES[decided.choice]} {served}, {because}."
        return f"{chosen} {served}, {because}."
    published = run.result(Published)
    if published is not None and published.quarantined:
        return (
            f"{chosen} was chosen, {because}; it is not served, because the registry put it in "
            "quarantine."
        )
    if run.result(VariantMade) is not None:
        return (
            f"{chosen} was chosen, {because}; it is not served, because the held-out queries are "
            "ranked no better than by chance, or because the run ended before it was."
        )
    return f"{chosen} was chosen, {because}; the run has not finished."


def bundled_as(bundled: Bundled) -> str:
    """How the run's bundle went into service."""
    if bundled.mode == "live":
        return "went live"
    return f"is tried as a {bundled.mode} on {100 * (bundled.share or 0):.3g}% of the requests"


def _because(reason: str) -> str:
    better = _BETTER.fullmatch(reason.removesuffix(" held-out rows"))
    if better is not None:
        change, rows = float(better[1]), better[2]
        side = "lower" if change < 0 else "higher"
        return (
            f"its cross-entropy on {rows} held-out rows is {abs(change):.4f} nats {side} than the "
            "usual candidate's, which weighs more than what other tenants have shown"
        )
    if reason.startswith("no held-out row"):
        return "no row is held out, and it is best for most tenants"
    if reason == "no other candidate":
        return "there was no other candidate"
    return reason
