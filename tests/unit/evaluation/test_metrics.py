"""Metrics against counting and loops."""

import math

import pytest
import torch
from torch import Tensor

from adapterdistill.evaluation.metrics import (
    Interval,
    auroc,
    faq_scores,
    gold_ranks,
    mean_reciprocal_rank,
    paired_bootstrap,
    recall_at,
    top1,
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_an_faq_scores_its_best_vector_and_minus_one_without_any() -> None:
    queries, vectors = draw(5, 4), torch.nn.functional.normalize(draw(6, 4, seed=1))
    queries = torch.nn.functional.normalize(queries)
    owner = [2, 0, 2, 3, 0, 0]
    found = faq_scores(queries, vectors, torch.tensor(owner), 4)
    for q in range(5):
        for faq in range(4):
            own = [float(queries[q] @ v) for v, o in zip(vectors, owner, strict=True) if o == faq]
            assert float(found[q, faq]) == pytest.approx(max(own, default=-1.0), abs=1e-6)


def test_ranks_equal_a_stable_sort_s_with_and_without_ties() -> None:
    scores = (draw(50, 7) * 2).round()  # many ties
    gold = torch.randint(7, (50,), generator=torch.Generator().manual_seed(1))
    expected = [
        sorted(range(7), key=lambda faq: (-float(row[faq]), faq)).index(int(g)) + 1
        for row, g in zip(scores, gold, strict=True)
    ]
    assert gold_ranks(scores, gold).tolist() == expected
    assert len(set(expected)) > 3


def test_ties_go_to_the_faq_that_comes_first() -> None:
    ranks = gold_ranks(torch.ones(3, 3), torch.tensor([0, 1, 2]))
    assert ranks.tolist() == [1, 2, 3]


def test_ranks_are_found_where_the_scores_lie() -> None:
    scores, gold = torch.zeros(2, 3, device="meta"), torch.tensor([0, 1], device="meta")
    assert gold_ranks(scores, gold).device.type == "meta"


def test_nan_never_ranks_first() -> None:
    scores = torch.tensor([[0.5, float("nan"), 0.1], [float("nan")] * 3])
    assert gold_ranks(scores, torch.tensor([1, 0])).tolist() == [4, 4]
    assert gold_ranks(scores[:1], torch.tensor([0])).tolist() == [2]


def test_rank_metrics_equal_their_definitions() -> None:
    ranks = [1, 3, 2, 1, 10, 4]
    found = torch.tensor(ranks)
    assert mean_reciprocal_rank(found) == pytest.approx(sum(1 / r for r in ranks) / 6)
    assert top1(found) == pytest.approx(2 / 6)
    for k in (1, 3, 10):
        assert recall_at(found, k) == pytest.approx(sum(r <= k for r in ranks) / 6)
    assert math.isnan(top1(torch.tensor([], dtype=torch.int64)))


@pytest.mark.parametrize("ties", [False, True])
def test_auroc_equals_counting_pairs(ties: bool) -> None:
    positive, negative = draw(23) + 0.5, draw(31, seed=1)
    if ties:
        positive, negative = positive.round(), negative.round()
    pairs = [(p > n) + 0.5 * (p == n) for p in positive.tolist() for n in negative.tolist()]
    assert auroc(positive, negative) == pytest.approx(sum(pairs) / len(pairs))
    assert auroc(positive, negative) + auroc(negative, positive) == pytest.approx(1)


def test_auroc_at_its_ends_and_of_nothing() -> None:
    low, high = torch.zeros(3), torch.ones(2)
    assert (auroc(high, low), auroc(low, high), auroc(low, low)) == (1.0, 0.0, 0.5)
    assert math.isnan(auroc(low, high[:0])) and math.isnan(auroc(low[:0], high))


def test_the_bootstrap_is_deterministic_and_holds_the_mean() -> None:
    groups = [draw(40, seed=n) * 0.1 + n for n in range(4)]
    one = paired_bootstrap(groups, seed=3)
    assert one == paired_bootstrap(groups, seed=3) != paired_bootstrap(groups, seed=4)
    assert one.mean == pytest.approx(sum(float(g.double().mean()) for g in groups) / 4)
    assert one.low < one.mean < one.high


def test_groups_weigh_alike_whatever_their_rows() -> None:
    found = paired_bootstrap([torch.zeros(1000), torch.ones(2)])
    assert found.mean == 0.5 and (found.low, found.high) == (0.0, 1.0)


def test_equal_differences_leave_no_doubt() -> None:
    assert paired_bootstrap([torch.full((5,), 0.25)] * 3) == Interval(0.25, 0.25, 0.25)


def test_one_group_s_interval_is_the_usual_one() -> None:
    rows = draw(200, seed=5)
    found = paired_bootstrap([rows])
    half = 1.96 * float(rows.std()) / math.sqrt(200)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)


def test_groups_drawn_twice_draw_their_rows_anew() -> None:
    """Of alike groups, the variance is within / (groups * rows) + between / groups."""
    groups = [draw(50, seed=n) for n in range(20)]
    groups = [(g - g.mean()) / g.std() for g in groups]  # nothing between the groups
    found = paired_bootstrap(groups, resamples=4000)
    assert found.high - found.low == pytest.approx(2 * 1.96 / math.sqrt(1000), rel=0.1)


def test_the_interval_contains_the_truth_about_as_often_as_it_says() -> None:
    held = 0
    for seed in range(60):
        groups = [
            draw(30, seed=1000 * seed + n) + draw(1, seed=9000 + 31 * seed + n) for n in range(12)
        ]
        interval = paired_bootstrap(groups, resamples=300, seed=seed)
        held += interval.low <= 0.0 <= interval.high
    assert 50 <= held <= 60


def test_no_rows_give_no_interval() -> None:
    found = paired_bootstrap([torch.zeros(0)])
    assert math.isnan(found.mean) and math.isnan(found.low) and math.isnan(found.high)
