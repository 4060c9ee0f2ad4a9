"""Rankings and the abstention threshold against brute force."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapterdistill.backbone import Encoder
from adapterdistill.data import TenantDataset
from adapterdistill.distill.batches import TrainingRows
from adapterdistill.distill.folds import NUM_FOLDS
from adapterdistill.distill.held_out import cross_entropy
from adapterdistill.distill.rows import join, tokenise
from adapterdistill.evaluation.calibration import calibrate
from adapterdistill.evaluation.evaluate import (
    Ranking,
    abstention_threshold,
    build_index,
    judge,
    pool,
    rank_queries,
)
from adapterdistill.store.bundle import NEVER_ABSTAIN
from tests.owner_runs import write_shop
from tests.tiny_encoders import random_adapter, random_rows

SCORES = st.lists(st.integers(-50, 100).map(lambda n: n / 100 + 1e-7), min_size=1, max_size=40)


def ranking(best: list[float], out_of_scope: list[float]) -> Ranking:
    return Ranking(
        torch.ones(len(best), dtype=torch.int64), torch.tensor(best), torch.tensor(out_of_scope)
    )


def refused(scores: torch.Tensor, cut: float) -> float:
    return float(refused_at(scores, torch.tensor([cut], dtype=torch.float64)))


def refused_at(scores: torch.Tensor, cuts: torch.Tensor) -> torch.Tensor:
    return (scores.double() < cuts[:, None]).double().mean(1)


def test_rankings_equal_a_loop_over_queries_and_faqs(tiny_encoder: Encoder) -> None:
    adapter = random_adapter(tiny_encoder, seed=1)
    index = TrainingRows(random_rows([4, 5, 6, 7, 5, 6], seed=1), torch.tensor([0, 1, 2, 0, 2, 2]))
    labels = torch.tensor([2, -1, 0, 1, -1, 1])
    queries = TrainingRows(random_rows([3, 5, 4, 6, 7, 5], seed=2), labels)
    found = rank_queries(
        tiny_encoder, adapter, build_index(tiny_encoder, adapter, index, 3), queries
    )

    def embed(ids: list[int]) -> torch.Tensor:
        return tiny_encoder.embed_ids([ids], adapter)[0].double()

    centroids = []
    for faq in range(3):
        mine = [
            embed(list(ids)) for ids, n in zip(index.ids, index.labels, strict=True) if n == faq
        ]
        mean = torch.stack(mine).mean(0)
        centroids.append(mean / mean.norm())
    ranks, best, outside = [], [], []
    for ids, gold in zip(queries.ids, labels.tolist(), strict=True):
        scores = [float(embed(list(ids)) @ c) for c in centroids]
        if gold < 0:
            outside.append(max(scores))
            continue
        best.append(max(scores))
        ranks.append(1 + sorted(range(3), key=lambda faq: -scores[faq]).index(gold))
    assert found.ranks.tolist() == ranks
    assert found.best.tolist() == pytest.approx(best, abs=1e-5)
    assert found.best_out_of_scope.tolist() == pytest.approx(outside, abs=1e-5)
    metrics = found.metrics()
    assert metrics["mrr"].value == pytest.approx(sum(1 / r for r in ranks) / 4, abs=1e-6)
    assert metrics["top1"].value == pytest.approx(ranks.count(1) / 4)
    assert {m.count for m in metrics.values()} == {4}


def test_metrics_equal_their_definitions_to_six_places() -> None:
    ranks = torch.tensor([1, 5, 6])
    metrics = Ranking(ranks, torch.zeros(3), torch.zeros(0)).metrics()
    found = {name: metric.value for name, metric in metrics.items()}
    assert found == {"top1": 0.333333, "mrr": 0.455556, "recall_at_5": 0.666667}


def test_rankings_of_no_queries_are_empty(tiny_encoder: Encoder) -> None:
    adapter = random_adapter(tiny_encoder, seed=1)
    index = TrainingRows(random_rows([4, 5], seed=1), torch.tensor([0, 1]))
    none = TrainingRows([], torch.tensor([], dtype=torch.int64))
    vectors, faqs = build_index(tiny_encoder, adapter, index, 2)
    found = rank_queries(tiny_encoder, adapter, (vectors, faqs), none)
    assert found.metrics() == {} and found.score is None
    assert abstention_threshold(found) == NEVER_ABSTAIN
    assert torch.allclose(vectors.norm(dim=1), torch.ones(2)) and faqs.tolist() == [0, 1]


def test_held_out_rows_taken_from_training_are_ranked_against_an_index_without_them(
    tmp_path: Path, tiny_encoder: Encoder
) -> None:
    dataset = TenantDataset.open(write_shop(tmp_path / "t", splits=("train",) * 51 + ("test",)))
    rows = tokenise(dataset, tiny_encoder, seed=3, held_out_fraction=0.2)
    adapter = random_adapter(tiny_encoder, seed=1)
    found = judge(tiny_encoder, adapter, rows)
    without, whole = (
        build_index(tiny_encoder, adapter, join(rows.questions, labelled), rows.num_faqs)
        for labelled in (rows.train, join(rows.train, rows.held))
    )
    assert rows.held.ids and not torch.equal(without[0], whole[0])
    for ranked, index, queries in (
        (found.held, without, rows.held),
        (found.test, whole, rows.test),
    ):
        expected = rank_queries(tiny_encoder, adapter, index, queries)
        assert torch.equal(ranked.best, expected.best) and ranked.score == expected.score


def test_folds_are_judged_on_the_rows_that_each_held_out_as_a_loop_over_rows_judges(
    tmp_path: Path, tiny_encoder: Encoder
) -> None:
    folder = write_shop(tmp_path / "t", splits=("train",) * 4, out_of_scope=("train", "valid"))
    rows = tokenise(TenantDataset.open(folder), tiny_encoder, seed=3, held_out_fraction=0.2)
    whole, *folds = (random_adapter(tiny_encoder, seed=n, scale=0.5) for n in range(1 + NUM_FOLDS))
    found = judge(tiny_encoder, whole, rows, folds).held
    assert rows.folds is not None
    ranks, best, outside, surprise = [], [], [], []
    for fold, adapter in enumerate(folds):
        seen = join(rows.questions, rows.train.select(rows.folds != fold))
        index, _ = build_index(tiny_encoder, adapter, seen, 5)
        labelled = []
        for row in (rows.folds == fold).nonzero().flatten().tolist():
            scores = tiny_encoder.embed_ids([rows.train.ids[row]], adapter)[0] @ index.T
            gold = int(rows.train.labels[row])
            ranks.append(1 + int((scores > scores[gold]).sum()))
            best.append(float(scores.max()))
            labelled.append((scores, gold))
        surprise += [cross_entropy(*scores_and_gold(labelled))] * len(labelled)
        for ids in rows.held.ids:
            outside.append(float((tiny_encoder.embed_ids([ids], adapter)[0] @ index.T).max()))
    assert len(ranks) == 20 and len(set(ranks)) > 2
    assert found.ranks.tolist() == ranks
    assert found.best.tolist() == pytest.approx(best, abs=1e-5)
    assert found.best_out_of_scope.tolist() == pytest.approx(outside, abs=1e-5)
    assert found.score == pytest.approx(-sum(surprise) / 20, abs=1e-5)
    assert found.times_out_of_scope == NUM_FOLDS
    with pytest.raises(ValueError, match="longer"):  # else a fold's rows would go unjudged
        judge(tiny_encoder, whole, rows, folds[:1])


def scores_and_gold(labelled: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.stack([scores for scores, _ in labelled]), torch.tensor([g for _, g in labelled])


def test_pooled_rankings_weigh_every_row_alike() -> None:
    one = Ranking(torch.tensor([1, 3]), torch.tensor([0.5, 0.25]), torch.tensor([0.1]), -2.0)
    other = Ranking(torch.tensor([2]), torch.tensor([0.75]), torch.tensor([]), -0.5)
    found = pool([one, other, ranking([], [0.3])])
    assert found.ranks.tolist() == [1, 3, 2] and found.best.tolist() == [0.5, 0.25, 0.75]
    assert found.best_out_of_scope.tolist() == pytest.approx([0.1, 0.3])
    assert found.score == pytest.approx((-2.0 * 2 - 0.5) / 3)
    assert pool([ranking([], []), ranking([], [])]).score is None


def test_nothing_is_refused_without_answerable_held_out_queries() -> None:
    assert abstention_threshold(ranking([], [])) == NEVER_ABSTAIN
    assert abstention_threshold(ranking([], [0.1, 0.9])) == NEVER_ABSTAIN


def test_a_single_held_out_query_is_not_refused_by_the_cut_set_at_it() -> None:
    for score in (0.12345678, 0.9999999, -0.3333333):
        assert refused(torch.tensor([score]), abstention_threshold(ranking([score], []))) == 0


@settings(max_examples=200, deadline=None)
@given(SCORES)
def test_at_most_a_twentieth_of_answerable_queries_is_refused(best: list[float]) -> None:
    cut = abstention_threshold(ranking(best, []))
    scores = torch.tensor(best)
    assert refused(scores, cut) <= 0.05
    # The largest such cut: any higher score as the cut would refuse too many.
    for higher in scores[scores > cut + 2e-6].tolist():
        assert refused(scores, higher) > 0.05


@pytest.mark.parametrize(
    ("outside", "expected"),
    [
        ([0.25], 0.5),  # nothing answerable need be turned away
        ([0.5], 0.75),  # one in twenty must: the cut turns away what lies below it
        ([0.875], 0.5),  # even the highest cut would turn nothing more away
    ],
)
def test_a_cut_turns_answerable_queries_away_only_where_others_go_with_them(
    outside: list[float], expected: float
) -> None:
    assert abstention_threshold(ranking([0.75] * 19 + [0.5], outside)) == expected


@settings(max_examples=200, deadline=None)
@given(SCORES, SCORES)
def test_no_allowed_cut_separates_out_of_scope_queries_better(
    best: list[float], outside: list[float]
) -> None:
    found = ranking(best, outside)
    cut = abstention_threshold(found)

    def balanced(at: torch.Tensor) -> torch.Tensor:
        return 1 - refused_at(found.best, at) + refused_at(found.best_out_of_scope, at)

    # Scores are 0.01 apart, so these cuts stand for all there are; -1 turns nothing away.
    cuts = torch.arange(-1000, 1011, dtype=torch.float64) / 1000
    cuts = cuts[refused_at(found.best, cuts) <= 0.05]
    chosen = torch.tensor([cut], dtype=torch.float64)
    assert refused(found.best, cut) <= 0.05
    assert balanced(chosen) >= balanced(cuts).max() - 1e-9


def test_any_right_faq_is_right_in_ranks_metrics_and_what_abstention_learns(
    tiny_encoder: Encoder,
) -> None:
    adapter = random_adapter(tiny_encoder, seed=1)
    index = TrainingRows(random_rows([4, 5, 6], seed=1), torch.arange(3))
    built = build_index(tiny_encoder, adapter, index, 3)
    texts = random_rows([3, 5, 4, 6, 7, 5], seed=2)

    def ranked(labels: torch.Tensor) -> Ranking:
        return rank_queries(tiny_encoder, adapter, built, TrainingRows(texts, labels))

    each = [ranked(torch.full((6,), faq)).ranks for faq in range(3)]
    both = ranked(torch.tensor([[0, 2]] * 6))
    assert torch.equal(both.ranks, torch.minimum(each[0], each[2]))
    assert both.metrics()["top1"].count == 6
    everything = ranked(torch.tensor([[0, 1, 2]] * 5 + [[-1, -1, -1]]))
    assert everything.metrics()["top1"].value == 1.0
    assert (len(everything.best), len(everything.best_out_of_scope)) == (5, 1)
    found = calibrate(everything, NEVER_ABSTAIN)
    assert found is not None and (found.answered, found.wrong) == (6, 1)
