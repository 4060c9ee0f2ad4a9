import math

import numpy as np
import pytest
import torch
from torch import Tensor

from adapterdistill.evaluation.choice import (
    LEAST_ERROR,
    UNLIKE_OTHERS,
    WIDE,
    Prior,
    choose,
    posterior_mean,
    simulate,
)

PRIOR = Prior(mean=0.05, spread=0.05)


def losses(rows: int, mean: float, *, seed: int = 0) -> Tensor:
    noise = torch.randn(rows, generator=torch.Generator().manual_seed(seed)) * 0.1
    return mean + noise - noise.mean()


@pytest.mark.parametrize("difference", [-2.0, -0.3, 0.0, 0.05, 1.0])
@pytest.mark.parametrize("error", [0.03, 0.2])
def test_posterior_mean_equals_numerical_integration(difference: float, error: float) -> None:
    true = np.linspace(-6, 6, 400_001)

    def normal(x: np.ndarray, mean: float, spread: float) -> np.ndarray:
        return np.exp(-0.5 * ((x - mean) / spread) ** 2) / spread

    prior = (1 - UNLIKE_OTHERS) * normal(true, PRIOR.mean, PRIOR.spread)
    prior = prior + UNLIKE_OTHERS * normal(true, PRIOR.mean, WIDE)
    weight = prior * np.exp(-0.5 * ((difference - true) / error) ** 2)
    expected = float((weight * true).sum() / weight.sum())
    assert posterior_mean(difference, error, PRIOR) == pytest.approx(expected, abs=1e-4)


def test_without_held_out_rows_the_prior_decides() -> None:
    none = torch.zeros(0)
    found = choose({"a": none, "b": none, "c": none},
                   {"b": Prior(0.1, 0.05), "c": Prior(-0.1, 0.05)}, reference="a")  # fmt: skip
    assert found.chosen == "c"
    assert found.judgements["c"].difference is None


def test_noise_on_a_few_rows_does_not_reject_the_reference() -> None:
    rows = {"student": losses(20, 1.0), "own": losses(20, 0.97)}
    assert choose(rows, {"own": PRIOR}, reference="student").chosen == "student"


def test_many_rows_that_agree_do() -> None:
    rows = {"student": losses(2000, 1.0), "own": losses(2000, 0.97)}
    assert choose(rows, {"own": PRIOR}, reference="student").chosen == "own"


def test_demonstrated_harm_rejects_the_reference_on_few_rows() -> None:
    rows = {"student": losses(15, 3.2), "bare": losses(15, 1.7)}
    found = choose(rows, {"bare": Prior(0.15, 0.1)}, reference="student")
    assert found.chosen == "bare"
    assert found.judgements["bare"].difference == pytest.approx(-1.5, abs=1e-6)


def test_rows_that_all_agree_are_not_certainty() -> None:
    rows = {"a": torch.ones(4), "b": torch.ones(4) - 0.1}
    assert choose(rows, {"b": PRIOR}, reference="a").judgements["b"].error == pytest.approx(
        LEAST_ERROR / 2
    )


def test_equal_candidates_leave_the_reference() -> None:
    rows = {"b": torch.zeros(0), "a": torch.zeros(0)}
    assert choose(rows, {"b": Prior(0.0, 0.1)}, reference="a").chosen == "a"


def test_choice_needs_a_prior_of_each_candidate() -> None:
    with pytest.raises(ValueError, match=r"lacks losses or priors of \['b'\]"):
        choose({"a": torch.zeros(1), "b": torch.zeros(1)}, {}, reference="a")


def test_choice_needs_the_same_rows() -> None:
    with pytest.raises(ValueError, match="on the same rows"):
        choose({"a": torch.zeros(1), "b": torch.zeros(2)}, {"b": PRIOR}, reference="a")


@pytest.mark.parametrize("rows", [15, 45, 150])
def test_the_rule_loses_less_than_the_prior_or_the_evidence_alone(rows: int) -> None:
    found = simulate([PRIOR, Prior(0.15, 0.1)], rows=rows)
    assert found.regret <= min(found.always_reference, found.by_evidence_alone) + 1e-4
    assert 0.5 < found.right <= 1


def test_simulated_regret_vanishes_with_endless_rows() -> None:
    assert simulate([PRIOR], rows=10**8).regret == pytest.approx(0, abs=1e-6)
    assert math.isclose(simulate([PRIOR], rows=10**8).right, 1.0, abs_tol=0.01)
