import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from adapterdistill.evaluation.scorer import (
    AnswerSentences,
    Scorer,
    Texts,
    cross_validate,
    fit_scorer,
    standardised,
)

FAQS, D = 4, 32
WORDS = ("refund", "parking", "password", "opening")
NONE = torch.zeros(0, D)


def vectors(labels: Tensor, *, seed: int, noise: float = 0.1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    means = F.normalize(torch.randn(FAQS, D, generator=torch.Generator().manual_seed(99)), dim=-1)
    drawn = torch.randn(len(labels), D, generator=generator)
    return F.normalize(means[labels] + noise * drawn, dim=-1)


def rows(k: int, *, seed: int = 0) -> Texts:
    labels = torch.arange(FAQS * (k + 1)) % FAQS
    texts = tuple(f"{WORDS[int(label)]} number {i}" for i, label in enumerate(labels))
    return Texts(vectors(labels, seed=seed), labels, texts)


def fitted(k: int) -> Scorer:
    return fit_scorer(rows(k), FAQS, unlabelled=NONE, negatives=NONE)


def z(x: Tensor) -> Tensor:
    return (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True, correction=0)


@pytest.mark.parametrize("k", [0, 3])
def test_ranking_is_the_weighted_sum_of_standardised_views(k: int) -> None:
    fresh = rows(2, seed=7)
    scores = fitted(k)(fresh.vectors, fresh.texts)
    views = scores.views
    linear = (z(views["cosine"]) + z(views["head"])) / 2 if k else z(views["cosine"])
    expected = linear + 0.1 * z(views["characters"])
    assert torch.equal(scores.total.argsort(1), expected.argsort(1))


def answers() -> AnswerSentences:
    faqs = torch.tensor([0, 0, 1, 3, 3])
    return AnswerSentences(vectors(faqs, seed=3), faqs)


@pytest.mark.parametrize("k", [0, 3])
def test_answer_sentences_rank_beside_the_other_views(k: int) -> None:
    fresh = rows(2, seed=7)
    scorer = fit_scorer(rows(k), FAQS, unlabelled=NONE, negatives=NONE, answers=answers())
    scores = scorer(fresh.vectors, fresh.texts)
    views = scores.views
    best = (fresh.vectors @ answers().vectors.T)[:, [0, 1]].amax(1)
    torch.testing.assert_close(views["answers"][:, 0], best)
    linear = (z(views["cosine"]) + z(views["head"])) / 2 if k else z(views["cosine"])
    expected = linear + 0.1 * z(views["characters"])
    expected += 0.4 * z(views["answers"])
    assert torch.equal(scores.total.argsort(1), expected.argsort(1))
    again = Scorer.from_tensors(scorer.tensors(), scorer.characters.grams)
    assert torch.equal(again(fresh.vectors, fresh.texts).total, scores.total)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("answers.vectors", torch.zeros(5, D + 1), "answer sentences are"),
        ("answers.faqs", torch.full((5,), FAQS), "beyond its 4"),
    ],
)
def test_answer_sentences_that_do_not_fit_are_refused(name: str, value: Tensor, words: str) -> None:
    scorer = fit_scorer(rows(0), FAQS, unlabelled=NONE, negatives=NONE, answers=answers())
    with pytest.raises(ValueError, match=words):
        Scorer.from_tensors(scorer.tensors() | {name: value}, scorer.characters.grams)


def test_the_best_score_is_the_evidence() -> None:
    fresh = rows(2, seed=7)
    scores = fitted(3)(fresh.vectors, fresh.texts)
    best = scores.views["cosine"].amax(1) + 0.5 * scores.views["characters"].amax(1)
    torch.testing.assert_close(scores.evidence, best / 1.5)
    answered = fit_scorer(rows(3), FAQS, unlabelled=NONE, negatives=NONE, answers=answers())
    scores = answered(fresh.vectors, fresh.texts)
    best = best + 0.5 * scores.views["answers"].amax(1)
    torch.testing.assert_close(scores.evidence, best / 2)
    assert bool((scores.total <= 1).all())


@pytest.mark.parametrize("k", [0, 3])
def test_a_batch_is_scored_as_its_queries_alone(k: int) -> None:
    fresh, scorer = rows(2, seed=7), fitted(k)
    whole = scorer(fresh.vectors, fresh.texts).total
    alone = [scorer(fresh.vectors[i : i + 1], fresh.texts[i : i + 1]) for i in range(len(whole))]
    torch.testing.assert_close(whole, torch.cat([one.total for one in alone]))


def test_queries_of_a_fitted_tenant_find_their_faq() -> None:
    fresh = rows(5, seed=7)
    found = fitted(3)(fresh.vectors, fresh.texts).total.argmax(1)
    assert float((found == fresh.labels).double().mean()) > 0.9


def test_a_foreign_query_has_less_evidence() -> None:
    foreign = F.normalize(torch.randn(20, D, generator=torch.Generator().manual_seed(5)), dim=-1)
    scorer, fresh = fitted(3), rows(2, seed=7)
    outside = scorer(foreign, ["zebra xylophone"] * 20).evidence
    assert outside.max() < scorer(fresh.vectors, fresh.texts).evidence.min()


def test_a_scorer_survives_its_tensors() -> None:
    fresh = rows(2, seed=7)
    for k in (0, 3):
        scorer = fitted(k)
        again = Scorer.from_tensors(scorer.tensors(), scorer.characters.grams)
        expected = scorer(fresh.vectors, fresh.texts)
        assert torch.equal(again(fresh.vectors, fresh.texts).total, expected.total)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("prototypes", None, "lacks the tensor prototypes"),
        ("characters.idf", torch.zeros(3), "not of its"),
        ("characters.starts", torch.zeros(1, dtype=torch.int64), "not of its"),
        ("characters.weights", torch.zeros(3), "one weight for each"),
        ("characters.faqs", -1, "beyond its 4"),
        ("head.weight", torch.zeros(2, D), "head is"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    name: str, value: Tensor | int | None, words: str
) -> None:
    scorer = fitted(3)
    tensors = scorer.tensors()
    if value is None:
        del tensors[name]
    elif isinstance(value, int):
        tensors[name] = torch.full_like(tensors[name], value)
    else:
        tensors[name] = value
    with pytest.raises(ValueError, match=words):
        Scorer.from_tensors(tensors, scorer.characters.grams)


def test_starts_that_run_backwards_are_refused() -> None:
    scorer = fitted(3)
    tensors = scorer.tensors()
    tensors["characters.starts"] = tensors["characters.starts"].flip(0)
    with pytest.raises(ValueError, match="starts that do not fit"):
        Scorer.from_tensors(tensors, scorer.characters.grams)


def test_an_faq_without_a_row_is_refused() -> None:
    few = rows(0).select(torch.tensor([True, True, True, False]))
    with pytest.raises(ValueError, match="each of the 4 FAQs needs a row"):
        fit_scorer(few, FAQS, unlabelled=NONE, negatives=NONE)


def test_rows_and_queries_need_a_text_each() -> None:
    with pytest.raises(ValueError, match="a vector, a label and a text each"):
        Texts(torch.zeros(2, D), torch.zeros(2, dtype=torch.int64), ("one",))
    with pytest.raises(ValueError, match="1 query vectors but 2 texts"):
        fitted(0)(torch.zeros(1, D), ["a", "b"])


def test_equal_scores_standardise_to_zero() -> None:
    assert torch.equal(standardised(torch.ones(2, 3)), torch.zeros(2, 3))


def test_each_fold_is_scored_by_the_others_alone() -> None:
    tenant = rows(3)
    folds = torch.arange(len(tenant.labels)) % 3
    folds[:FAQS] = -1
    held = cross_validate(tenant, folds, FAQS, unlabelled=NONE, negatives=NONE)
    assert sorted(held.rows.tolist()) == list(range(FAQS, len(tenant.labels)))
    assert torch.equal(held.gold, tenant.labels[held.rows])
    row = int(held.rows[0])
    others = fit_scorer(tenant.select(folds != folds[row]), FAQS, unlabelled=NONE, negatives=NONE)
    alone = others(tenant.vectors[row : row + 1], tenant.texts[row : row + 1]).total
    torch.testing.assert_close(held.scores.total[:1], alone)
    expected = F.cross_entropy(held.scores.total / 0.1, held.gold, reduction="none")
    torch.testing.assert_close(held.losses(0.1), expected)


def test_nothing_is_held_out_without_folds() -> None:
    held = cross_validate(rows(0), torch.full((FAQS,), -1), FAQS, unlabelled=NONE, negatives=NONE)
    assert not len(held.gold) and held.losses(0.1).shape == (0,)
