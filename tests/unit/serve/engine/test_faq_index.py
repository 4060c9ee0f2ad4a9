from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from adapterdistill.serve.engine import faq_index
from adapterdistill.serve.engine.faq_index import FaqIndex, Ranking


def rank(queries: Tensor, indexes: Sequence[FaqIndex], top_k: Sequence[int]) -> list[Ranking]:
    rows = len(indexes)
    return faq_index.rank(queries, [""] * rows, indexes, top_k, [False] * rows)


def unit(rows: int, hidden: int = 24, *, seed: int = 0) -> Tensor:
    return normalize(
        torch.randn(rows, hidden, generator=torch.Generator().manual_seed(seed)), dim=1
    )


@pytest.mark.parametrize(("num_faqs", "spread"), [(1, 1), (7, 1), (20, 3), (50, 9)])
def test_ranking_equals_brute_force_in_double_precision(num_faqs: int, spread: int) -> None:
    owner = torch.cat([torch.arange(num_faqs)] * spread)
    owner = owner[torch.randperm(len(owner), generator=torch.Generator().manual_seed(3))]
    vectors, queries = unit(len(owner), seed=1), unit(6, seed=2)
    index = FaqIndex.of(vectors, owner)
    for query, ranking in zip(queries, rank(queries, [index] * 6, [num_faqs] * 6), strict=True):
        best = [
            max(float(query.double() @ v.double()) for v in vectors[owner == faq])
            for faq in range(num_faqs)
        ]
        assert ranking.faqs == sorted(range(num_faqs), key=lambda faq: -best[faq])
        np.testing.assert_allclose(ranking.scores, sorted(best, reverse=True), atol=1e-6)


def test_each_row_is_ranked_against_its_own_index_only() -> None:
    indexes = [FaqIndex.of(unit(n + 2, seed=n), torch.arange(n + 2)) for n in range(4)]
    rows = [indexes[n % 4] for n in range(12)]
    queries = unit(12, seed=9)
    for row, ranking in enumerate(rank(queries, rows, [1 + row % 3 for row in range(12)])):
        [alone] = rank(queries[row : row + 1], [rows[row]], [1 + row % 3])
        assert ranking.faqs == alone.faqs
        assert ranking.scores == pytest.approx(alone.scores, abs=1e-6)


@pytest.mark.parametrize("num_faqs", [2, 3, 17, 64, 101])
def test_equal_faqs_tie_exactly_and_keep_their_order(num_faqs: int) -> None:
    """Equal FAQs tie in batches of any size: the blocks of a matrix product must not break ties."""
    vectors = unit(1, 384).expand(num_faqs, -1)
    index = FaqIndex.of(vectors, torch.arange(num_faqs))
    for rows in (1, 2, 5, 32):
        for ranking in rank(unit(rows, 384, seed=5), [index] * rows, [num_faqs] * rows):
            assert ranking.faqs == list(range(num_faqs))
            assert len(set(ranking.scores)) == 1


def test_ties_among_other_scores_keep_the_faqs_order() -> None:
    """Equal scores keep their order; an unstable sort changes it from a few entries on."""
    distinct, kinds = unit(5, seed=1), torch.arange(300) % 5
    index = FaqIndex.of(distinct[kinds], torch.arange(300))
    query = unit(1, seed=2)
    place = (-(query @ distinct.T)[0]).argsort().argsort()
    [ranking] = rank(query, [index], [300])
    assert ranking.faqs == sorted(range(300), key=lambda faq: int(place[kinds[faq]]))
