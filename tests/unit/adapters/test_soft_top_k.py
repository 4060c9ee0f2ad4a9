"""The formula of soft top-k: its laws, and its distance to the optimum found by bisection."""

import pytest
import torch
from torch import Tensor

from adapterdistill.adapters.soft_top_k import descending_ranks, exact_soft_top_k, soft_top_k
from tests.float64_reference import bisected_top_k

SCORES = torch.randn(20, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
SIXTEEN = torch.full((20,), 16)
EPSILONS = (1.0, 0.3, 0.1, 0.02)


def optimum(scores: Tensor, k: Tensor, epsilon: float) -> Tensor:
    rows = zip(scores, k.tolist(), strict=True)
    return torch.stack([bisected_top_k(row, count, epsilon) for row, count in rows])


def every_solution(scores: Tensor, k: Tensor, epsilon: float) -> list[Tensor]:
    return [
        soft_top_k(scores, k, epsilon=epsilon),
        soft_top_k(scores, k, epsilon=epsilon, annealed=False),
        exact_soft_top_k(scores, k, epsilon=epsilon),
    ]


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_weights_lie_between_0_and_1_rise_with_the_score_and_sum_to_at_most_k(
    epsilon: float,
) -> None:
    for weights in every_solution(SCORES, SIXTEEN, epsilon):
        assert float(weights.min()) >= 0 and float(weights.max()) <= 1 + 1e-12
        assert float(weights.sum(-1).max()) <= 16 + 1e-9
        in_order = weights.gather(1, SCORES.argsort(dim=-1))
        assert bool((in_order.diff(dim=-1) >= -1e-12).all())


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_a_shift_of_the_scores_changes_nothing(epsilon: float) -> None:
    shifted = every_solution(SCORES + 7.5, SIXTEEN, epsilon)
    for found, expected in zip(shifted, every_solution(SCORES, SIXTEEN, epsilon), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_equal_scores_give_k_by_n_each() -> None:
    for weights in every_solution(torch.full((2, 8), 3.0), torch.tensor([2, 5]), 0.3):
        torch.testing.assert_close(weights[0], torch.full((8,), 2 / 8))
        torch.testing.assert_close(weights[1], torch.full((8,), 5 / 8))


@pytest.mark.parametrize("epsilon", [*EPSILONS, 1e-3])
def test_the_exact_solution_is_the_one_by_bisection(epsilon: float) -> None:
    k = torch.arange(1, 21) * 3
    found = exact_soft_top_k(SCORES, k, epsilon=epsilon)
    torch.testing.assert_close(found, optimum(SCORES, k, epsilon), rtol=0, atol=1e-9)
    in_float32 = exact_soft_top_k(SCORES.float(), k, epsilon=epsilon)
    torch.testing.assert_close(in_float32.double(), found, rtol=0, atol=2e-6 / min(epsilon, 1))


def test_the_exact_solution_has_the_gradient_of_the_implicit_function() -> None:
    scores = SCORES[:3, :7].clone().requires_grad_()
    k = torch.tensor([2, 4, 7])

    def solved(scores: Tensor) -> Tensor:
        return exact_soft_top_k(scores, k, epsilon=0.5)

    assert torch.autograd.gradcheck(solved, scores)


def test_20_steps_are_the_optimum_at_a_large_epsilon_and_far_from_it_at_a_small_one() -> None:
    """methods.md, section 5: measured gaps, of averages over rows."""

    def gap(epsilon: float, steps: int, annealed: bool) -> tuple[float, float]:
        found = soft_top_k(SCORES, SIXTEEN, epsilon=epsilon, iterations=steps, annealed=annealed)
        error = (found - exact_soft_top_k(SCORES, SIXTEEN, epsilon=epsilon)).abs().amax(-1)
        return float(found.sum(-1).mean()), float(error.median())

    assert gap(1.0, 20, False) == (pytest.approx(16, abs=1e-3), pytest.approx(0, abs=1e-3))
    assert gap(0.3, 20, False)[1] < 0.002
    assert gap(0.1, 20, False)[0] == pytest.approx(14.6, abs=0.3)
    assert gap(0.1, 20, False)[1] > 0.1
    assert gap(0.1, 1000, False)[1] < 1e-4
    plain, annealed = gap(0.02, 20, False)[0], gap(0.02, 20, True)[0]
    assert plain < 6 < 11 < annealed < 13


def test_a_vanishing_epsilon_converged_gives_the_hard_top_k() -> None:
    hard = (descending_ranks(SCORES) < 16).double()
    exact = exact_soft_top_k(SCORES, SIXTEEN, epsilon=1e-5)
    torch.testing.assert_close(exact, hard, rtol=0, atol=1e-6)
    [row] = steps = soft_top_k(SCORES[:1], SIXTEEN[:1], epsilon=2e-3, iterations=20_000)
    assert len(steps) == 1 and float((row - hard[0]).abs().max()) < 1e-3


def test_k_of_all_tokens_converges_to_1_slowly_so_that_it_must_be_bypassed() -> None:
    all_of_them = torch.full((20,), 64)
    assert float(soft_top_k(SCORES, all_of_them, epsilon=0.3, annealed=False).min()) < 0.2
    exact = exact_soft_top_k(SCORES, all_of_them, epsilon=0.3)
    torch.testing.assert_close(exact, torch.ones_like(exact))


def test_padding_gets_no_weight_and_changes_none() -> None:
    k = torch.arange(1, 21)
    padded = torch.cat([SCORES, torch.full((20, 9), -torch.inf)], dim=1)
    both = zip(every_solution(padded, k, 0.3), every_solution(SCORES, k, 0.3), strict=True)
    for found, expected in both:
        assert not found[:, 64:].any()
        torch.testing.assert_close(found[:, :64], expected, rtol=0, atol=1e-9)


def test_padding_leaves_gradients_finite() -> None:
    for solve in (soft_top_k, exact_soft_top_k):
        scores = SCORES.clone().requires_grad_()
        padded = torch.cat([scores, torch.full((20, 9), -torch.inf)], dim=1)
        (solve(padded, SIXTEEN, epsilon=0.3)[:, :64] * SCORES).sum().backward()
        assert scores.grad is not None and bool(scores.grad.isfinite().all())
        assert bool(scores.grad.any())


def test_k_is_bounded_by_the_tokens_that_there_are() -> None:
    padded = torch.cat([SCORES[:1, :5], torch.full((1, 9), -torch.inf)], dim=1)
    exact = exact_soft_top_k(padded, torch.tensor([12]), epsilon=0.3)
    torch.testing.assert_close(exact[0, :5], torch.ones(5, dtype=torch.float64))
    assert float(soft_top_k(padded, torch.tensor([12]), epsilon=0.3).sum()) <= 5 + 1e-9


@pytest.mark.parametrize("solve", [soft_top_k, exact_soft_top_k])
def test_a_k_below_1_and_an_epsilon_that_is_not_positive_are_refused(solve: object) -> None:
    assert callable(solve)
    with pytest.raises(ValueError, match="k must be 1 or more, got 0"):
        solve(SCORES[:2], torch.tensor([3, 0]), epsilon=0.1)
    for epsilon in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="epsilon must be above 0"):
            solve(SCORES[:1], SIXTEEN[:1], epsilon=epsilon)


def test_ranks_count_from_the_highest_score_and_ties_go_to_the_earlier() -> None:
    scores = torch.tensor([[0.5, 2.0, 0.5, -torch.inf]])
    assert descending_ranks(scores).tolist() == [[1, 0, 2, 3]]
