"""The verdicts, as records and pure functions: which candidate, adapter or a variant of it."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, StringConstraints
from torch import Tensor

from adapterdistill.evaluation.evaluate import Ranking
from adapterdistill.evaluation.metrics import paired_bootstrap
from adapterdistill.manifest import Metric, Record, VariantKind

Choice = Literal["own", "distilled", "averaged", "bare", "live"]
"""What may be served: the own adapter, the student, the teachers' average, a near-identity adapter,
which leaves the bare encoder as it is, or the adapter that is live now."""
_ALONE = "no other candidate"
_UNSEEN = "no held-out row, so the candidate that is best for most tenants"
_STANDARD = r"no other candidate is expected to be better on \d+ held-out rows"
_BETTER = r"cross-entropy [+-]\d+\.\d{4} nats from the usual candidate on \d+ held-out rows"
Reason = Annotated[str, StringConstraints(pattern=rf"^({_ALONE}|{_UNSEEN}|{_STANDARD}|{_BETTER})$")]
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


class Figures(Record):
    """One candidate: its ranking, and how it was judged against the reference."""

    held_out: dict[MetricName, Metric]
    test: dict[MetricName, Metric]
    """On test rows: reported, never used for a choice."""
    difference: float | None
    """Mean over held-out rows of its cross-entropy less the reference's, nats."""
    error: float | None
    """Standard error of the difference, nats."""
    expected: float
    """The difference that is expected after prior and evidence, nats."""


def decide(candidates: Mapping[Choice, Figures], choice: Choice, *, rows: int) -> Decision:
    """Say why `choice` is served: it has the lowest expected cross-entropy (`evaluation.choice`).

    Args:
        rows: number of held-out rows.
    """
    if len(candidates) == 1:
        return Decision(choice=choice, reason=_ALONE)
    if not rows:
        return Decision(choice=choice, reason=_UNSEEN)
    difference = candidates[choice].difference
    if not difference:
        reason = f"no other candidate is expected to be better on {rows} held-out rows"
    else:
        reason = (
            f"cross-entropy {difference:+.4f} nats from the usual candidate on {rows} held-out rows"
        )
    return Decision(choice=choice, reason=reason)


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
