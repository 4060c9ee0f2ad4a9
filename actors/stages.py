"""The stages of an onboarding, one row each: name, record and summary."""

from collections.abc import Callable
from typing import Any, NamedTuple

from adapterdistill.actors.records import (
    Bundled,
    Decided,
    Distilled,
    Evaluated,
    Extracted,
    Fetched,
    Published,
    StageResult,
    Trained,
    Validated,
    VariantMade,
)


class Stage(NamedTuple):
    """A stage: a method of `DataOwner` that returns its record."""

    name: str
    record: type[StageResult]
    summary: Callable[[Any], str]
    """One line about the record, for people."""


def _validated(result: Validated) -> str:
    c = result.counts
    rows = f"{c['faqs']} FAQs, {c['train']} train, {c['valid']} valid, {c['test']} test"
    cut = sum(result.cut.values())
    told = {
        "unread": "FAQs are unknown to the encoder: see --dry-run",
        "alike": "FAQs are not told apart: see --dry-run",
    }
    doubts = [f"{c[key]} {what}" for key, what in told.items() if c.get(key)]
    if cut:
        doubts.append(f"{cut} texts are cut at {result.max_tokens} tokens")
    return "; ".join([rows, *doubts])


def _best_step(result: Trained) -> str:
    return f"best of {result.steps} steps is {result.best_step}"


def _extracted(result: Extracted) -> str:
    return _best_step(result) if result.trained else f"not trained: {result.untrained_because}"


def _fetched(result: Fetched) -> str:
    refused = f", {len(result.refused)} refused" if result.refused else ""
    teachers = f"{len(result.teachers)} of {result.listed} teachers"
    return f"{teachers}, {result.payload_bytes / 2**20:.1f} MiB{refused}"


def _distilled(result: Distilled) -> str:
    return _best_step(result) if result.trained else "no teachers"


def _evaluated(result: Evaluated) -> str:
    found = "nothing held out"
    if result.rows:
        folds = f", {result.folds} folds" if result.folds else ""
        top1 = {name: one.held_out["top1"] for name, one in result.candidates.items()}
        # A live version is judged on the rows alone that it was not trained on.
        rows = max(one.count for one in top1.values())
        right = ", ".join(
            f"{name} {one.value:.3f}" + (f" of {one.count}" if one.count != rows else "")
            for name, one in top1.items()
        )
        found = f"held-out top-1 on {rows} row{'s' * (rows != 1)}{folds}: {right}"
    if result.membership is not None:
        one = result.membership
        found += f"; membership AUC {one.auc:.3f} ({one.low:.3f} to {one.high:.3f})"
    if not result.perhaps_out_of_scope:
        return found
    return f"{found}; {result.perhaps_out_of_scope} unlabelled queries may be out of scope"


def _decided(result: Decided) -> str:
    return f"{result.choice} ({result.reason})"


def _published(result: Published) -> str:
    waits = ", in quarantine until an operator releases it"
    return result.name + (waits if result.quarantined else "")


def _variant_made(result: VariantMade) -> str:
    return f"{result.served} is served ({result.reason})"


def _bundled(result: Bundled) -> str:
    if result.rolled_back_at is not None:
        return f"finished, rolled back at {result.rolled_back_at}: --promote makes it live"
    mode = result.mode if result.share is None else f"{result.mode} of {result.share:g}"
    made = f"{result.bundle[:12]}, {result.index_vectors} vectors, {mode}"
    found = result.calibration
    if found is None:
        return made
    stated, bound = 100 * found.expected_error, 100 * found.error_bound
    return (
        f"{made}, {found.answered} of {found.rows} held-out queries answered, "
        f"{stated:.1f}% of answers wrong (95% bound {bound:.1f}%)"
    )


ONBOARDING = (
    Stage("validate", Validated, _validated),
    Stage("fetch_teachers", Fetched, _fetched),
    Stage("extract", Extracted, _extracted),
    Stage("distil", Distilled, _distilled),
    Stage("evaluate", Evaluated, _evaluated),
    Stage("decide", Decided, _decided),
    Stage("publish", Published, _published),
    Stage("variant", VariantMade, _variant_made),
    Stage("bundle", Bundled, _bundled),
)
"""All stages, in order."""

STAGES = tuple(stage.name for stage in ONBOARDING)


def stage_of(record: type[StageResult]) -> Stage:
    """The stage whose result is a `record`."""
    return next(stage for stage in ONBOARDING if stage.record is record)
