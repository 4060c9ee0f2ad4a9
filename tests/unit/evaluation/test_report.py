"""The verdict as a table, and the comparison by hand."""

import re

import pytest
import torch
from pydantic import ValidationError

from adapterdistill.evaluation.evaluate import Ranking
from adapterdistill.evaluation.metrics import paired_bootstrap
from adapterdistill.evaluation.report import (
    Choice,
    Comparison,
    Decision,
    Figures,
    VariantComparison,
    VariantDecision,
    compare,
    compare_variant,
    decide,
    decide_variant,
)
from adapterdistill.manifest import Metric


def figures(difference: float | None) -> Figures:
    return Figures(held_out={}, test={}, difference=difference, error=0.1, expected=0.0)


@pytest.mark.parametrize(
    ("differences", "choice", "rows", "reason"),
    [
        ({"bare": 0.0}, "bare", 0, "no other candidate"),
        ({"own": 0.0}, "own", 12, "no other candidate"),
        (
            {"distilled": 0.0, "bare": None},
            "distilled",
            0,
            "no held-out row, so the candidate that is best for most tenants",
        ),
        (
            {"distilled": 0.0, "own": 0.2, "bare": 0.3},
            "distilled",
            12,
            "no other candidate is expected to be better on 12 held-out rows",
        ),
        (
            {"distilled": 0.0, "own": -0.2, "bare": 0.3},
            "own",
            12,
            "cross-entropy -0.2000 nats from the usual candidate on 12 held-out rows",
        ),
        (
            {"own": 0.0, "bare": -1.23456},
            "bare",
            5,
            "cross-entropy -1.2346 nats from the usual candidate on 5 held-out rows",
        ),
        # A prior may choose what the few rows speak against.
        (
            {"own": 0.0, "bare": 0.01},
            "bare",
            5,
            "cross-entropy +0.0100 nats from the usual candidate on 5 held-out rows",
        ),
    ],
)
def test_the_verdict_says_why_the_choice_is_served(
    differences: dict[Choice, float | None], choice: Choice, rows: int, reason: str
) -> None:
    found = {name: figures(value) for name, value in differences.items()}
    assert decide(found, choice, rows=rows) == Decision(choice=choice, reason=reason)


@pytest.mark.parametrize(
    ("lost", "most_lost", "served"),
    [
        (0.02, 0.01, "adapter"),
        (0.010001, 0.01, "adapter"),
        (0.01, 0.01, "conditional"),
        (0.0, 0.0, "conditional"),
        (-0.1, 0.0, "conditional"),
        (0.5, 1.0, "conditional"),
    ],
)
def test_a_variant_is_served_where_it_loses_little(
    lost: float, most_lost: float, served: str
) -> None:
    found = VariantComparison(rows=12, adapter={}, variant={}, lost=lost, lost_low=0, lost_high=0)
    verdict = decide_variant(found, "conditional", most_lost=most_lost)
    assert verdict.served == served
    said = f"top-1 lost {lost:.4f}, at most {most_lost:.4f} may be, on 12 held-out rows"
    assert verdict.reason == said


def test_a_variant_may_lose_nothing_unless_it_is_said_what() -> None:
    found = VariantComparison(rows=12, adapter={}, variant={}, lost=0.01, lost_low=0, lost_high=0)
    assert decide_variant(found, "conditional").served == "adapter"


def test_without_a_variant_or_held_out_rows_the_adapter_is_served() -> None:
    assert (
        decide_variant(None, None).served
        == decide_variant(None, "multitask_kd").served
        == "adapter"
    )
    assert "makes no variant" in decide_variant(None, None).reason
    assert "no held-out row" in decide_variant(None, "multitask_kd").reason


def test_a_variant_is_compared_by_its_first_places() -> None:
    adapter, variant = ranks(1, 1, 2, 1), ranks(1, 2, 1, 3)
    found = compare_variant(adapter, variant)
    assert found is not None and (found.rows, found.lost) == (4, 0.25)
    assert (found.adapter["top1"].value, found.variant["top1"].value) == (0.75, 0.5)
    assert found.lost_low <= found.lost <= found.lost_high
    assert compare_variant(adapter, ranks(score=None)) is None


def test_a_reason_takes_no_free_text() -> None:
    for text in ("my private question", "MRR +0.0500 on 12 held-out rows of my private text", ""):
        with pytest.raises(ValidationError):
            Decision(choice="own", reason=text)
        with pytest.raises(ValidationError):
            VariantDecision(served="adapter", reason=text)


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


def test_a_mean_and_its_interval_are_told_to_six_places() -> None:
    own, other = ranks(1, 2, 3, 1, 2, 1, 1), ranks(2, 1, 1, 3, 1, 1, 1)
    gain = paired_bootstrap([1 / other.ranks.double() - 1 / own.ranks.double()])
    lost = paired_bootstrap([(own.ranks == 1).double() - (other.ranks == 1).double()])
    compared, of_form = compare(own, other), compare_variant(own, other)
    assert compared is not None and of_form is not None
    told = (compared.gain, compared.gain_low, compared.gain_high)
    assert told == tuple(round(value, 6) for value in (gain.mean, gain.low, gain.high))
    told = (of_form.lost, of_form.lost_low, of_form.lost_high)
    assert told == tuple(round(value, 6) for value in (lost.mean, lost.low, lost.high))
    assert all(value != round(value, 5) for value in told)


def test_equal_rankings_gain_nothing_and_none_are_not_compared() -> None:
    same = compare(ranks(1, 3), ranks(1, 3))
    assert same is not None and (same.gain, same.gain_low, same.gain_high) == (0.0, 0.0, 0.0)
    for own, other in ((ranks(score=None), ranks(score=None)), (ranks(1), ranks(score=None))):
        assert compare(own, other) is None


def test_a_metric_is_named_by_a_short_word() -> None:
    same = compare(ranks(1), ranks(1))
    assert same is not None
    bad = same.model_dump() | {"own": {"where is my parcel": {"value": 1, "count": 1}}}
    with pytest.raises(ValidationError, match=re.escape("own.where is my parcel")):
        Comparison.model_validate(bad)
