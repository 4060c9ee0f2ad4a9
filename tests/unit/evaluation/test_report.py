"""The verdict as a table, and the comparison by hand."""

import re

import pytest
import torch
from pydantic import ValidationError

from adapterdistill.evaluation.evaluate import Ranking
from adapterdistill.evaluation.report import Comparison, Decision, compare, decide
from adapterdistill.manifest import Metric


def comparison(gain: float, own: float = -1.0, distilled: float = -1.0) -> Comparison:
    return Comparison(
        rows=12,
        own={},
        distilled={},
        gain=gain,
        gain_low=gain,
        gain_high=gain,
        own_score=own,
        distilled_score=distilled,
    )


@pytest.mark.parametrize(
    ("found", "has_own", "has_distilled", "choice", "reason"),
    [
        (None, True, False, "own", "no teacher"),
        (None, False, False, "own", "no teacher"),
        (comparison(0.0), True, False, "own", "no teacher"),
        (None, False, True, "distilled", "no labelled query"),
        (None, True, True, "own", "no held-out row"),
        (comparison(0.05), True, True, "distilled", "MRR +0.0500 on 12 held-out rows"),
        (comparison(-0.05), True, True, "own", "student's MRR -0.0500 on 12 held-out rows"),
        # An adapter without training is near identity: compared where rows are held out.
        (comparison(0.05), False, True, "distilled", "MRR +0.0500"),
        (comparison(-0.05), False, True, "own", "student's MRR -0.0500"),
        (comparison(0.0, -1.0, -0.9), True, True, "distilled", "equal MRR, lower cross-entropy"),
        (comparison(0.0, -0.9, -1.0), True, True, "own", "student not better"),
        (comparison(0.0, -1.0, -1.0), True, True, "own", "student not better"),
        (comparison(0.0), True, True, "own", "student not better"),
        (comparison(1.0), True, True, "distilled", "MRR +1.0000"),
    ],
)
def test_the_verdict(
    found: Comparison | None, has_own: bool, has_distilled: bool, choice: str, reason: str
) -> None:
    verdict = decide(found, has_own=has_own, has_distilled=has_distilled)
    assert verdict.choice == choice
    assert reason in verdict.reason


def test_a_reason_takes_no_free_text() -> None:
    for text in ("my private question", "MRR +0.0500 on 12 held-out rows of my private text", ""):
        with pytest.raises(ValidationError):
            Decision(choice="own", reason=text)


def ranks(*values: int, score: float | None = -1.0) -> Ranking:
    best, none = torch.rand(len(values)), torch.empty(0)
    return Ranking(torch.tensor(values, dtype=torch.int64), best, none, score)


def test_a_comparison_equals_the_hand_computation() -> None:
    found = compare(ranks(1, 2, 4, 10, score=-1.5), ranks(1, 1, 2, 5, score=-1.25))
    assert found is not None and found.rows == 4
    assert found.own == {
        "top1": Metric(value=0.25, count=4),
        "mrr": Metric(value=round((1 + 0.5 + 0.25 + 0.1) / 4, 6), count=4),
        "recall_at_5": Metric(value=0.75, count=4),
    }
    assert found.distilled["recall_at_5"] == Metric(value=1.0, count=4)
    assert found.gain == pytest.approx((0 + 0.5 + 0.25 + 0.1) / 4)
    assert 0 <= found.gain_low <= found.gain <= found.gain_high <= 0.5
    assert (found.own_score, found.distilled_score) == (-1.5, -1.25)


def test_equal_rankings_gain_nothing_and_none_are_not_compared() -> None:
    same = compare(ranks(1, 3), ranks(1, 3))
    assert same is not None and (same.gain, same.gain_low, same.gain_high) == (0.0, 0.0, 0.0)
    assert compare(ranks(score=None), ranks(score=None)) is None


def test_a_metric_is_named_by_a_short_word() -> None:
    bad = comparison(0.0).model_dump() | {"own": {"where is my parcel": {"value": 1, "count": 1}}}
    with pytest.raises(ValidationError, match=re.escape("own.where is my parcel")):
        Comparison.model_validate(bad)
