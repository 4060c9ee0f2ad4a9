import math

import pytest
import torch
from torch import Tensor

from adapterdistill.evaluation.calibration import fit_logistic
from adapterdistill.evaluation.threshold import (
    carried_over,
    error_threshold,
    rejection_threshold,
    scope_losses,
    threshold_of_examples,
    wrong_answers,
)
from adapterdistill.store.bundle import NEVER_ABSTAIN

NONE = torch.zeros(0)


def normal(count: int, mean: float, *, seed: int = 0) -> Tensor:
    return mean + 0.1 * torch.randn(count, generator=torch.Generator().manual_seed(seed))


def test_threshold_without_foreign_texts_turns_away_five_percent() -> None:
    held = torch.arange(100) / 100
    assert rejection_threshold(held, NONE) == pytest.approx(0.05)
    assert rejection_threshold(held[:10], NONE) == pytest.approx(0.0)  # none of ten


def test_threshold_without_queries_turns_away_half_of_the_foreign_texts() -> None:
    assert rejection_threshold(NONE, torch.arange(101) / 100) == pytest.approx(0.5)


def test_threshold_of_unlabelled_queries_turns_away_most_foreign_texts() -> None:
    foreign, near, far = torch.arange(101) / 100, torch.full((9,), 2.0), torch.full((9,), 0.3)
    assert rejection_threshold(NONE, foreign, unlabelled=near) == pytest.approx(0.9)
    assert rejection_threshold(NONE, foreign, unlabelled=far) == pytest.approx(0.3)


def test_threshold_weighs_both_by_the_held_out_rows() -> None:
    held, foreign = (
        torch.cat([torch.full((1,), 0.6), torch.full((14,), 0.9)]),
        torch.full((9,), 0.7),
    )
    assert rejection_threshold(held, foreign) == pytest.approx((15 * 0.6 + 45 * 0.7) / 60)


def test_foreign_texts_never_turn_away_more_than_a_tenth_of_held_out_rows() -> None:
    held, foreign = torch.arange(100) / 100, torch.full((10,), 5.0)
    assert float((held < rejection_threshold(held, foreign)).double().mean()) <= 0.1


def test_nothing_is_turned_away_where_nothing_is_known() -> None:
    assert rejection_threshold(NONE, NONE) == NEVER_ABSTAIN


@pytest.mark.parametrize("threshold", [0.12, 0.5, 0.77])
def test_a_threshold_carried_over_turns_away_the_same_texts(threshold: float) -> None:
    before = torch.rand(200, generator=torch.Generator().manual_seed(0))
    after = 3 * before.square() - 1  # any rising function
    found = carried_over(threshold, before, after)
    assert torch.equal(after < found, before < threshold)
    assert carried_over(threshold, before, before) == pytest.approx(threshold)


def test_a_threshold_beyond_the_texts_keeps_its_distance() -> None:
    before, after = torch.tensor([0.2, 0.4]), torch.tensor([0.3, 0.9])
    assert carried_over(0.1, before, after) == pytest.approx(0.2)
    assert carried_over(0.6, before, after) == pytest.approx(1.1)
    assert carried_over(0.6, NONE, NONE) == 0.6


def test_many_examples_set_the_cut_between_both_sides() -> None:
    held, outside = normal(200, 0.8), normal(200, 0.2, seed=1)
    cut = threshold_of_examples(held, outside, 0.9)
    assert float((held < cut).double().mean()) <= 0.05
    assert float((outside < cut).double().mean()) > 0.95


def test_two_examples_move_the_threshold_little() -> None:
    held = normal(60, 0.8)
    cut = threshold_of_examples(held, torch.tensor([0.1, 0.12]), 0.6)
    assert cut == pytest.approx(0.6, abs=0.05)


def test_examples_never_make_it_turn_away_more_answerable_queries() -> None:
    held, outside = normal(100, 0.5), normal(100, 0.5, seed=1)
    cut = threshold_of_examples(held, outside, NEVER_ABSTAIN)
    assert float((held < cut).double().mean()) <= 0.05


@pytest.mark.parametrize(("held", "outside"), [(0, 3), (3, 0)])
def test_threshold_of_examples_needs_both_sides(held: int, outside: int) -> None:
    with pytest.raises(ValueError, match="needs held-out rows and examples"):
        threshold_of_examples(torch.zeros(held), torch.zeros(outside), 0.0)


def test_wrong_answers_fall_as_the_threshold_rises_and_are_near_the_count() -> None:
    evidence = torch.linspace(0, 1, 400)
    right = torch.rand(400, generator=torch.Generator().manual_seed(0)) < evidence
    estimates = [wrong_answers(evidence, right, cut) for cut in (0.0, 0.3, 0.6, 0.9)]
    assert estimates == sorted(estimates, reverse=True)
    counted = float((~right[evidence >= 0.6]).double().mean())
    assert estimates[2] == pytest.approx(counted, abs=0.05)
    assert wrong_answers(evidence, right, 2.0) == 0.0


def test_error_threshold_is_the_lowest_cut_that_keeps_the_promise() -> None:
    evidence = torch.linspace(0, 1, 200)
    right = evidence > 0.3
    cut = error_threshold(evidence, right, most_wrong=0.05, least=-1.0)
    assert wrong_answers(evidence, right, cut) <= 0.05
    lower = float(evidence[evidence < cut].max())
    assert wrong_answers(evidence, right, lower) > 0.05


def test_error_threshold_stays_at_the_least_where_that_is_enough() -> None:
    right = torch.ones(100, dtype=torch.bool)
    assert error_threshold(torch.linspace(0, 1, 100), right, most_wrong=0.1, least=0.2) == 0.2


def test_a_promise_that_cannot_be_kept_answers_nothing() -> None:
    evidence = torch.linspace(0, 1, 50)
    right = torch.zeros(50, dtype=torch.bool)
    assert error_threshold(evidence, right, most_wrong=0.01, least=-1.0) > 1.0


@pytest.mark.parametrize(("rows", "most_wrong"), [(0, 0.1), (5, 1.5), (5, -0.1)])
def test_error_threshold_refuses_no_rows_and_no_share(rows: int, most_wrong: float) -> None:
    with pytest.raises(ValueError, match=r"held-out rows|from 0 to 1"):
        error_threshold(
            torch.zeros(rows), torch.zeros(rows).bool(), most_wrong=most_wrong, least=0.0
        )


def test_examples_cost_less_the_better_their_evidence_tells_them_apart() -> None:
    held = torch.tensor([0.8, 0.9, 0.85, 0.7])
    inside, outside = scope_losses(held, torch.tensor([0.1, 0.2, 0.15]))
    mixed = scope_losses(held, torch.tensor([0.8, 0.75, 0.85]))
    assert float(torch.cat([inside, outside]).mean()) < 0.5 < float(torch.cat(mixed).mean())
    slope, intercept = fit_logistic(
        torch.cat([held, torch.tensor([0.1, 0.2, 0.15])]).double(), torch.arange(7) < 4
    )
    answerable = 1 / (1 + math.exp(-(slope * float(held[0]) + intercept)))
    assert float(inside[0]) == pytest.approx(-math.log(answerable), abs=1e-5)
