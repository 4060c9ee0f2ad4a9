"""Confidence, expected error and reference bins, against brute force in plain Python."""

import math
import random
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from adapterdistill.confidence import LEAST_PER_BIN, MAX_BINS, Calibration
from adapterdistill.evaluation.calibration import (
    calibrate,
    fit_logistic,
    reference_bins,
    upper_bound,
)
from adapterdistill.evaluation.evaluate import Ranking

ROWS = st.lists(st.tuples(st.integers(-100, 100), st.booleans()), min_size=1, max_size=40)


def ranking(
    rows: list[tuple[float, bool]], out_of_scope: list[float] | None = None, times: int = 1
) -> Ranking:
    return Ranking(
        torch.tensor([1 if right else 2 for _, right in rows], dtype=torch.int64),
        torch.tensor([score for score, _ in rows], dtype=torch.float32),
        torch.tensor(out_of_scope or [], dtype=torch.float32),
        times_out_of_scope=times,
    )


def fitted(rows: list[tuple[float, bool]]) -> tuple[float, float]:
    scores = torch.tensor([score for score, _ in rows], dtype=torch.float64)
    return fit_logistic(scores, torch.tensor([right for _, right in rows]))


def loss(rows: list[tuple[float, bool]], slope: float, intercept: float) -> float:
    """Cross-entropy of Platt's targets, row by row."""
    num_right = sum(right for _, right in rows)
    num_wrong = len(rows) - num_right
    total = 0.0
    for score, right in rows:
        target = (num_right + 1) / (num_right + 2) if right else 1 / (num_wrong + 2)
        z = slope * score + intercept
        total += math.log1p(math.exp(-abs(z))) + max(z, 0) - target * z
    return total


def lowest_loss(rows: list[tuple[float, bool]]) -> float:
    """Over a grid of slopes >= 0, the intercept of each found by bisection of its derivative."""
    num_right = sum(right for _, right in rows)
    num_wrong = len(rows) - num_right
    found = math.inf
    for step in range(241):
        slope = step / 4
        low, high = -300.0, 300.0
        for _ in range(60):
            middle = (low + high) / 2
            gradient = sum(
                1 / (1 + math.exp(-max(min(slope * score + middle, 700), -700)))
                - ((num_right + 1) / (num_right + 2) if right else 1 / (num_wrong + 2))
                for score, right in rows
            )
            low, high = (low, middle) if gradient > 0 else (middle, high)
        found = min(found, loss(rows, slope, low))
    return found


def test_the_fit_has_the_lowest_loss_of_all_rising_logistic_functions() -> None:
    draw = random.Random(1)
    rows = []
    for _ in range(30):
        score = draw.uniform(0.2, 0.9)
        rows.append((score, draw.random() < 1 / (1 + math.exp(-12 * (score - 0.5)))))
    slope, intercept = fitted(rows)
    assert slope > 1
    found, best = loss(rows, slope, intercept), lowest_loss(rows)
    assert best - 1e-2 < found < best + 1e-9  # the grid's slopes are 0.25 apart


@settings(max_examples=200, deadline=None)
@given(ROWS)
def test_no_step_from_the_fit_lowers_the_loss_and_none_of_it_is_infinite(
    drawn: list[tuple[int, bool]],
) -> None:
    rows = [(score / 100, right) for score, right in drawn]
    slope, intercept = fitted(rows)
    assert slope >= 0 and math.isfinite(slope) and math.isfinite(intercept)
    found = loss(rows, slope, intercept)
    for by_slope, by_intercept in ((1e-3, 0.0), (-1e-3, 0.0), (0.0, 1e-3), (0.0, -1e-3)):
        if slope + by_slope >= 0:
            assert found <= loss(rows, slope + by_slope, intercept + by_intercept) + 1e-9


@settings(max_examples=50, deadline=None)
@given(ROWS)
def test_confidence_never_falls_and_is_the_same_at_every_fit(
    drawn: list[tuple[int, bool]],
) -> None:
    rows = [(score / 100, right) for score, right in drawn]
    found = calibrate(ranking(rows), -1.0)
    assert found is not None and found == calibrate(ranking(rows), -1.0)
    confidences = [found.confidence(score / 50) for score in range(-60, 60)]
    assert confidences == sorted(confidences)
    assert confidences[0] >= 0 and confidences[-1] <= 1


def test_rows_that_are_all_right_give_what_a_uniform_prior_leaves_of_certainty() -> None:
    found = calibrate(ranking([(score / 10, True) for score in range(8)]), 0.2)
    assert found is not None and found.slope == 0
    assert found.confidence(0.9) == found.confidence(-1) == pytest.approx(9 / 10, abs=1e-6)
    assert (found.answered, found.wrong) == (6, 0)
    assert found.error_bound == pytest.approx(1 - 0.05 ** (1 / 6), abs=1e-6)


def test_rows_that_are_all_wrong_give_little_confidence_and_no_bound() -> None:
    found = calibrate(ranking([(score / 10, False) for score in range(8)]), -1.0)
    assert found is not None
    assert found.confidence(0.9) == pytest.approx(1 / 10, abs=1e-6)
    assert (found.expected_error, found.error_bound) == (1.0, 1.0)


@pytest.mark.parametrize(("right", "confidence"), [(True, 2 / 3), (False, 1 / 3)])
def test_one_row_moves_confidence_by_a_sixth(right: bool, confidence: float) -> None:
    found = calibrate(ranking([(0.5, right)]), -1.0)
    assert found is not None and found.rows == 1 and not found.counts
    assert found.confidence(0.7) == pytest.approx(confidence, abs=1e-6)


def test_without_labelled_rows_nothing_is_calibrated() -> None:
    assert calibrate(ranking([]), -1.0) is None
    assert calibrate(ranking([], [0.3, 0.4]), -1.0) is None


def test_where_a_higher_score_is_more_often_wrong_confidence_is_constant() -> None:
    found = calibrate(ranking([(0.2, True), (0.3, True), (0.8, False), (0.9, False)]), -1.0)
    assert found is not None and found.slope == 0
    assert found.confidence(0.5) == pytest.approx(0.5)


def test_scores_that_part_right_from_wrong_give_no_certainty() -> None:
    rows = [(low + n / 1000, low > 0.5) for low in (0.2, 0.8) for n in range(10)]
    found = calibrate(ranking(rows), 0.5)
    assert found is not None and found.expected_error == 0
    assert found.confidence(0.2) == pytest.approx(1 / 12, abs=0.02)
    assert found.confidence(0.8) == pytest.approx(11 / 12, abs=0.02)


def test_out_of_scope_rows_are_wrong_answers_unless_they_are_turned_away() -> None:
    rows = [(0.6, True), (0.7, True), (0.8, False)]
    found = calibrate(ranking(rows, [0.3, 0.65]), 0.5)
    assert found is not None
    assert (found.rows, found.answered, found.wrong) == (5, 4, 2)
    assert found.expected_error == 0.5 and found.share_answered == pytest.approx(0.8)


def test_out_of_scope_rows_that_each_fold_ranked_count_once() -> None:
    rows = [(0.6, True), (0.7, True)]
    folds = [0.1, 0.9, 0.3, 0.9, 0.2, 0.9]  # rows a, b, c by fold 0, then by fold 1
    once = [0.1, 0.2, 0.3]  # a by fold 0, b by fold 1, c by fold 0
    assert calibrate(ranking(rows, folds, times=2), 0.0) == calibrate(ranking(rows, once), 0.0)


def tail(wrong: int, answered: int, share: float) -> float:
    """P(at most `wrong` of `answered`), in exact integers times powers."""
    return sum(
        math.comb(answered, k) * share**k * (1 - share) ** (answered - k) for k in range(wrong + 1)
    )


@pytest.mark.parametrize(("wrong", "answered"), [(0, 1), (0, 59), (1, 22), (7, 30), (99, 100)])
def test_the_bound_leaves_five_percent_to_the_tail(wrong: int, answered: int) -> None:
    assert tail(wrong, answered, upper_bound(wrong, answered)) == pytest.approx(0.05, rel=1e-6)


def test_the_bound_of_known_cases() -> None:
    assert upper_bound(0, 59) == pytest.approx(1 - 0.05 ** (1 / 59))  # the rule of three
    assert upper_bound(3, 3) == 1.0
    assert upper_bound(5, 100) == pytest.approx(0.102254, abs=1e-6)  # qbeta(0.95, 6, 95)
    assert upper_bound(500, 10_000) < 0.0538


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=150))
def test_reference_bins_hold_all_rows_and_part_no_equal_scores(drawn: list[int]) -> None:
    scores = torch.tensor([n / 60 for n in drawn], dtype=torch.float64)
    edges, counts = reference_bins(scores)
    assert len(edges) < MAX_BINS and list(edges) == sorted(set(edges))
    if not edges:
        assert not counts and (len(drawn) < 2 * LEAST_PER_BIN or len(set(drawn)) < 20)
        return
    bounds = [-2.0, *edges, 2.0]
    expected = [
        sum(low <= score < high for score in scores.tolist()) for low, high in pairwise(bounds)
    ]
    assert list(counts) == expected and min(counts) > 0
    assert not set(edges) & set(scores.tolist())


def test_a_hundred_different_scores_make_ten_bins_of_ten() -> None:
    _, counts = reference_bins(torch.linspace(0, 1, 100, dtype=torch.float64))
    assert counts == (10,) * 10


SOUND = {"slope": 1.0, "intercept": 0.0, "rows": 4, "answered": 3, "wrong": 1, "error_bound": 0.9}


@pytest.mark.parametrize(
    "wrong_values",
    [
        {"slope": -1.0},
        {"slope": math.inf},
        {"answered": 0, "wrong": 0},
        {"answered": 5},
        {"wrong": 4},
        {"error_bound": 1.5},
        {"edges": (0.5,), "counts": (4,)},
        {"edges": (0.5,), "counts": (1, 2)},
        {"edges": (0.5,), "counts": (4, 0)},
        {"edges": (0.5, 0.4), "counts": (1, 1, 2)},
        {"edges": (0.5,)},
        {"edges": (0.1,) * 12, "counts": (1,) * 4},
    ],
)
def test_a_calibration_that_contradicts_itself_is_refused(wrong_values: dict[str, object]) -> None:
    Calibration.model_validate(SOUND)
    with pytest.raises(ValidationError):
        Calibration.model_validate({**SOUND, **wrong_values})


def test_confidence_of_extreme_scores_does_not_overflow() -> None:
    steep = Calibration.model_validate({**SOUND, "slope": 1e9})
    assert (steep.confidence(-1.0), steep.confidence(1.0)) == (0.0, 1.0)
