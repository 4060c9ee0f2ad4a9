"""Ranking by a tenant's scorer, held to `Scorer.__call__` in torch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from adapterdistill.evaluation.head import Linear
from adapterdistill.evaluation.scorer import Scorer, Texts, fit_scorer
from adapterdistill.serve.engine.faq_index import FaqIndex, Index, rank
from adapterdistill.serve.engine.scorer_index import ScorerIndex
from tests.random_scorers import random_scorer, random_texts

HIDDEN = 24


def unit(rows: int, *, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(rows, HIDDEN, generator=generator), dim=1)


@pytest.mark.parametrize("num_faqs", [1, 2, 7, 40])
@pytest.mark.parametrize("queries", [0, 3])
@pytest.mark.parametrize("sentences", [0, 1, 4])
def test_scores_and_views_equal_those_of_the_fitted_scorer(
    num_faqs: int, queries: int, sentences: int
) -> None:
    scorer = random_scorer(num_faqs, HIDDEN, seed=1, queries=queries, sentences=sentences)
    vectors, texts = unit(9, seed=5), [*random_texts(7, seed=9), "zzz", ""]
    expected = scorer(vectors, texts)
    index = ScorerIndex.of(scorer)
    found = rank(vectors, texts, [index] * 9, [num_faqs] * 9, [True] * 9)
    for row, ranking in enumerate(found):
        in_order = [ranking.faqs.index(faq) for faq in range(num_faqs)]
        scores = np.array(ranking.scores)[in_order]
        np.testing.assert_allclose(scores, expected.total[row].numpy(), atol=1e-5)
        assert ranking.views is not None
        assert all(views.keys() == expected.views.keys() for views in ranking.views)
        for name, view in expected.views.items():
            by_view = [ranking.views[place][name] for place in in_order]
            np.testing.assert_allclose(by_view, view[row].numpy(), atol=1e-5)


def test_a_mixed_batch_with_and_without_scorers_equals_each_row_alone() -> None:
    scorers = [random_scorer(3 + n, HIDDEN, seed=n, queries=n % 3) for n in range(4)]
    indexes: list[Index] = [ScorerIndex.of(scorer) for scorer in scorers]
    indexes += [FaqIndex.of(unit(n + 2, seed=n), torch.arange(n + 2)) for n in range(2)]
    rows = [indexes[n % 6] for n in range(32)]
    queries, texts = unit(32, seed=9), random_texts(32, seed=3)
    top_k, explain = [1 + n % 4 for n in range(32)], [n % 5 == 0 for n in range(32)]
    for n, ranking in enumerate(rank(queries, texts, rows, top_k, explain)):
        [alone] = rank(queries[n : n + 1], [texts[n]], [rows[n]], [top_k[n]], [explain[n]])
        assert ranking.faqs == alone.faqs
        assert ranking.scores == pytest.approx(alone.scores, abs=1e-6)
        assert (ranking.views is None) == (alone.views is None) == (not explain[n])
        for one, other in zip(ranking.views or [], alone.views or [], strict=True):
            assert one == pytest.approx(other, abs=1e-5)
        if n % 6 < 4:
            own = scorers[n % 6](queries[n : n + 1], [texts[n]]).total[0]
            expected = own.argsort(descending=True, stable=True)[: top_k[n]]
            assert ranking.faqs == expected.tolist()
            assert ranking.scores == pytest.approx(own[expected].tolist(), abs=1e-5)
        elif ranking.views is not None:
            assert ranking.views == [{"cosine": score} for score in ranking.scores]


def test_an_explanation_names_the_view_that_puts_the_best_furthest_ahead() -> None:
    scorer = random_scorer(6, HIDDEN, seed=1)
    queries, texts = unit(20, seed=2), random_texts(20, seed=3)
    views = scorer(queries, texts).views
    z = {
        name: (view - view.mean(1, keepdim=True)) / view.std(1, keepdim=True, correction=0)
        for name, view in views.items()
    }
    weights = {"cosine": 0.5, "head": 0.5, "characters": 0.1, "answers": 0.4}
    found = rank(queries, texts, [ScorerIndex.of(scorer)] * 20, [2] * 20, [True] * 20)
    for row, ranking in enumerate(found):
        best, second = ranking.faqs
        ahead = {n: float(w * (z[n][row, best] - z[n][row, second])) for n, w in weights.items()}
        assert ranking.decided_by == max(ahead, key=lambda name: ahead[name])
    assert len({ranking.decided_by for ranking in found}) > 1
    # The best one alone is explained in the same way.
    alone = rank(queries, texts, [ScorerIndex.of(scorer)] * 20, [1] * 20, [True] * 20)
    assert [r.decided_by for r in alone] == [r.decided_by for r in found]
    single = ScorerIndex.of(random_scorer(1, HIDDEN, seed=1))
    [ranking] = rank(queries[:1], texts[:1], [single], [5], [True])
    assert ranking.decided_by is None and ranking.views is not None


@pytest.mark.parametrize("num_faqs", [2, 3, 17, 64])
def test_equal_faqs_tie_exactly_and_keep_their_order(num_faqs: int) -> None:
    vectors, labels = unit(1, seed=1).expand(num_faqs, -1), torch.arange(num_faqs)
    none = torch.zeros(0, HIDDEN)
    texts = Texts(vectors, labels, ("the same question",) * num_faqs)
    equal = fit_scorer(texts, num_faqs, unlabelled=none, negatives=none)
    with_head = replace(equal, head=Linear(5 * vectors, torch.full((num_faqs,), 0.25)))
    for scorer in (equal, with_head):
        assert isinstance(scorer, Scorer)
        index = ScorerIndex.of(scorer)
        for rows in (1, 2, 5, 32):
            for ranking in rank(
                unit(rows, seed=5),
                random_texts(rows, seed=4),
                [index] * rows,
                [num_faqs] * rows,
                [False] * rows,
            ):
                assert ranking.faqs == list(range(num_faqs))
                assert len(set(ranking.scores)) == 1
