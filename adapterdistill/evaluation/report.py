"""The verdicts, as pure functions: own adapter or distilled, adapter or a variant of it."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints
from torch import Tensor

from adapterdistill.evaluation.evaluate import Ranking
from adapterdistill.evaluation.metrics import paired_bootstrap
from adapterdistill.manifest import Metric, Record, VariantKind

Choice = Literal["own", "distilled"]
_NO_TEACHER = "no teacher was available"
_UNTRAINED = "no labelled query to train an own adapter on"
_NOTHING_HELD_OUT = "no held-out row to show that the student is better"
_MEASURED = r"(student's )?MRR [+-]\d\.\d{4}|equal MRR, lower cross-entropy|student not better"
Reason = Annotated[
    str,
    StringConstraints(
        pattern=rf"^({_NO_TEACHER}|{_UNTRAINED}|{_NOTHING_HELD_OUT}"
        rf"|({_MEASURED}) on \d+ held-out rows)$"
    ),
]
"""A reason of `decide`, with its numbers: it leaves the owner, so no free text fits in."""
_NO_VARIANT = "the method makes no variant"
_NOT_SHOWN = "no held-out row to show what a variant would lose"
_LOST = r"top-1 lost -?\d\.\d{4}, at most \d\.\d{4} may be, on \d+ held-out rows"
VariantReason = Annotated[
    str, StringConstraints(pattern=rf"^({_NO_VARIANT}|{_NOT_SHOWN}|{_LOST})$")
]
"""A reason of `decide_variant`, with its numbers."""
MetricName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,40}$")]


class Comparison(Record):
    """Own against distilled on the same rows, which trained neither. Numbers only."""

    rows: int
    own: dict[MetricName, Metric]
    distilled: dict[MetricName, Metric]
    gain: float
    """Mean over rows of the reciprocal rank's difference, distilled minus own."""
    gain_low: float
    gain_high: float
    """95% paired bootstrap interval of the gain."""
    own_score: float
    distilled_score: float
    """Minus the cross-entropy of the gold FAQ: breaks a tie of ranks."""


class Decision(Record):
    """The adapter that is published, and the reason."""

    choice: Choice
    reason: Reason


def compare(own: Ranking, distilled: Ranking) -> Comparison | None:
    """Compare two adapters row by row; the rankings are of the same queries in one order.

    None where there is no labelled query.
    """
    if own.score is None or distilled.score is None:
        return None
    gain = paired_bootstrap([_reciprocal(distilled.ranks) - _reciprocal(own.ranks)])
    return Comparison(
        rows=len(own.ranks),
        own=own.metrics(),
        distilled=distilled.metrics(),
        gain=round(gain.mean, 6),
        gain_low=round(gain.low, 6),
        gain_high=round(gain.high, 6),
        own_score=own.score,
        distilled_score=distilled.score,
    )


def _reciprocal(ranks: Tensor) -> Tensor:
    return 1.0 / ranks.double()


def decide(comparison: Comparison | None, *, has_own: bool, has_distilled: bool) -> Decision:
    """Choose the student if it ranks held-out rows better; otherwise the own adapter.

    A tie of ranks goes to the lower cross-entropy, and a full tie to the own adapter. Without
    held-out rows there is nothing to compare: the student is chosen if there is no own training,
    the own adapter otherwise. An own adapter without training is near identity,
    and is compared like any other where there are held-out rows.
    """
    if not has_distilled:
        return Decision(choice="own", reason=_NO_TEACHER)
    if comparison is None:
        if has_own:
            return Decision(choice="own", reason=_NOTHING_HELD_OUT)
        return Decision(choice="distilled", reason=_UNTRAINED)
    gain, rows = comparison.gain, comparison.rows
    if gain > 0:
        return Decision(choice="distilled", reason=f"MRR +{gain:.4f} on {rows} held-out rows")
    if gain < 0:
        return Decision(choice="own", reason=f"student's MRR {gain:.4f} on {rows} held-out rows")
    if comparison.distilled_score > comparison.own_score:
        return Decision(
            choice="distilled", reason=f"equal MRR, lower cross-entropy on {rows} held-out rows"
        )
    return Decision(choice="own", reason=f"student not better on {rows} held-out rows")


class VariantComparison(Record):
    """The adapter against a variant of it, on the same rows, which trained neither."""

    rows: int
    adapter: dict[MetricName, Metric]
    variant: dict[MetricName, Metric] = Field(alias="form")
    lost: float
    """Top-1 of the adapter minus that of the variant."""
    lost_low: float
    lost_high: float
    """95% paired bootstrap interval of what is lost."""


class VariantDecision(Record):
    """The model that the tenant is served by, and the reason."""

    served: VariantKind
    """The kind of the variant, or `adapter`."""
    reason: VariantReason


def compare_variant(adapter: Ranking, variant: Ranking) -> VariantComparison | None:
    """Compare an adapter and a variant of it row by row, as `compare` does with two adapters."""
    if adapter.score is None or variant.score is None:
        return None
    lost = paired_bootstrap([_is_first(adapter.ranks) - _is_first(variant.ranks)])
    return VariantComparison(
        rows=len(adapter.ranks),
        adapter=adapter.metrics(),
        variant=variant.metrics(),
        lost=round(lost.mean, 6),
        lost_low=round(lost.low, 6),
        lost_high=round(lost.high, 6),
    )


def _is_first(ranks: Tensor) -> Tensor:
    return (ranks == 1).double()


def decide_variant(
    comparison: VariantComparison | None, kind: VariantKind | None, *, most_lost: float = 0.0
) -> VariantDecision:
    """Serve the variant if it loses at most `most_lost` of top-1 on held-out rows.

    Otherwise, and where no row is held out, the adapter is served.

    Args:
        kind: None if the method makes no variant.
    """
    if kind is None:
        return VariantDecision(served="adapter", reason=_NO_VARIANT)
    if comparison is None:
        return VariantDecision(served="adapter", reason=_NOT_SHOWN)
    return VariantDecision(
        served=kind if comparison.lost <= most_lost else "adapter",
        reason=f"top-1 lost {comparison.lost:.4f}, at most {most_lost:.4f} may be, "
        f"on {comparison.rows} held-out rows",
    )
