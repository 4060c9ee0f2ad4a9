"""An arrival on a tiny encoder whose tokens are characters: each FAQ's texts share a word."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import state_digest
from adapterdistill.evaluation.arrival import (
    AVERAGED_PRIOR,
    TEMPERATURE,
    Candidate,
    Competition,
    compete,
    floor_prior,
)
from adapterdistill.evaluation.choice import Prior
from adapterdistill.evaluation.tenant_texts import TenantTexts, deal_folds, says_something
from adapterdistill.evaluation.threshold import scope_losses
from adapterdistill.store.bundle import NEVER_ABSTAIN
from tests.tiny_encoders import random_adapter

WORDS = ("refund", "parking", "password", "opening", "voucher", "invoice")
FOREIGN = ("zzz qqq", "xylo jazz", "vex buzz", "kiwi fizz")


def tenant(k: int, **changes: object) -> TenantTexts:
    queries = [f"{word} {word} {'abcdefghijkl'[n]}" for word in WORDS for n in range(k)]
    faqs = torch.tensor([faq for faq in range(len(WORDS)) for _ in range(k)], dtype=torch.int64)
    fields = {"questions": WORDS, "queries": tuple(queries), "faqs": faqs, **changes}
    return TenantTexts(**fields)  # type: ignore[arg-type]  # fields are mixed


def competing(
    encoder: Encoder,
    arriving: TenantTexts,
    candidates: Mapping[str, Candidate],
    *,
    foreign: Sequence[str] = FOREIGN,
    **options: Any,
) -> Competition:
    """The competition with every query held out by one of two folds."""
    texts, labels = arriving.rows()
    folds = deal_folds(texts, labels, arriving.questions, 2, seed=0)
    return compete(encoder, arriving, candidates, foreign=foreign, folds=folds, **options)


def floor(k: int) -> Candidate:
    return Candidate(None, prior=floor_prior(k * len(WORDS), len(WORDS), 16))


def alone(encoder: Encoder, arriving: TenantTexts, **options: Any) -> Competition:
    return competing(encoder, arriving, {"bare": Candidate(None)}, **options)


def ruinous(encoder: Encoder) -> BottleneckAdapter:
    """An adapter under which all texts look alike."""
    adapter = random_adapter(encoder, seed=9, scale=0.01)
    with torch.no_grad():
        adapter.up_bias += 1000 * torch.randn(adapter.hidden_size)
    return adapter


@pytest.mark.parametrize("k", [0, 1, 4])
def test_the_chosen_scorer_finds_the_faqs_of_their_own_words(tiny_encoder: Encoder, k: int) -> None:
    gentle = random_adapter(tiny_encoder, seed=1, scale=0.01)
    found = competing(tiny_encoder, tenant(k), {"average": Candidate(gentle), "bare": floor(k)})
    chosen = found.choice.chosen
    texts = [f"{word} {word} m" for word in WORDS]
    vectors = tiny_encoder.embed_texts(texts, gentle if chosen == "average" else None)
    total = found.judged[chosen].scorer(vectors, texts).total
    assert float((total.argmax(1) == torch.arange(6)).double().mean()) >= 4 / 6
    assert set(found.choice.judgements) == set(found.thresholds) == {"average", "bare"}
    # The only query of an FAQ whose question says something is held out too.
    assert len(found.judged[chosen].held.gold) == 6 * k


def test_without_held_out_rows_the_reference_is_chosen(tiny_encoder: Encoder) -> None:
    gentle = random_adapter(tiny_encoder, seed=1, scale=0.01)
    found = competing(tiny_encoder, tenant(0), {"bare": floor(0), "average": Candidate(gentle)})
    assert found.choice.chosen == "average"
    assert found.choice.judgements["bare"].difference is None


def test_every_candidates_threshold_turns_away_as_many_public_texts(tiny_encoder: Encoder) -> None:
    public = tuple(f"z{a}{b}" for a in "xyq" for b in "vkj")
    candidates = {
        "own": Candidate(
            random_adapter(tiny_encoder, seed=1, scale=0.05),
            folds=(random_adapter(tiny_encoder, seed=2, scale=0.05),) * 2,
        ),
        "average": Candidate(
            random_adapter(tiny_encoder, seed=3, scale=0.05), prior=AVERAGED_PRIOR
        ),
        "bare": floor(4),
    }
    found = competing(tiny_encoder, tenant(4), candidates, foreign=public)
    refused = {
        name: int((one.foreign < found.thresholds[name]).sum())
        for name, one in found.judged.items()
    }
    assert len(set(found.thresholds.values())) == 3
    assert len(set(refused.values())) == 1


def test_a_competition_repeats_and_leaves_the_adapters(tiny_encoder: Encoder) -> None:
    adapter = random_adapter(tiny_encoder, seed=1, scale=0.05)
    before = state_digest(adapter)
    candidates = {"average": Candidate(adapter), "bare": floor(2)}
    first, again = (competing(tiny_encoder, tenant(2), candidates) for _ in range(2))
    assert state_digest(adapter) == before
    assert (first.choice, first.thresholds) == (again.choice, again.thresholds)
    scorer, other = (found.judged["average"].scorer.tensors() for found in (first, again))
    assert scorer.keys() == other.keys()
    assert all(torch.equal(part, other[name]) for name, part in scorer.items())


def test_a_ruinous_reference_loses_to_the_floor(tiny_encoder: Encoder) -> None:
    candidates = {"average": Candidate(ruinous(tiny_encoder)), "bare": floor(6)}
    found = competing(tiny_encoder, tenant(6), candidates)
    assert found.choice.chosen == "bare"
    assert found.choice.judgements["bare"].posterior < 0


def test_a_trained_candidate_is_judged_by_its_folds(tiny_encoder: Encoder) -> None:
    bad, good = ruinous(tiny_encoder), random_adapter(tiny_encoder, seed=1, scale=0.01)
    candidates = {
        "bare": Candidate(None),
        "own": Candidate(good, folds=(bad, bad), prior=Prior(-0.1, 0.1)),
    }
    found = competing(tiny_encoder, tenant(4), candidates)
    difference = found.choice.judgements["own"].difference
    assert found.choice.chosen == "bare" and difference is not None and difference > 0


def test_a_question_that_says_nothing_is_left_out_where_there_is_a_query() -> None:
    numbers = tuple(map(str, range(6)))
    texts, labels = tenant(1, questions=numbers).rows()
    assert len(texts) == 6 and not set(texts) & set(numbers)
    texts, _ = tenant(0, questions=numbers).rows()
    assert texts == numbers
    assert labels.tolist() == list(range(6))
    assert says_something("No?") and not says_something("1 a") and not says_something("--")


def test_the_sentences_of_answers_rank_too(tiny_encoder: Encoder) -> None:
    answers = (*(f"Ask about {word}. Then wait!" for word in WORDS[:5]), None)
    arriving = tenant(0, answers=answers)
    sentences, faqs = arriving.sentences()
    assert sentences[:2] == ("Ask about refund.", "Then wait!") and faqs.tolist()[:2] == [0, 0]
    scorer = alone(tiny_encoder, arriving).judged["bare"].scorer
    assert scorer.answers is not None and len(scorer.answers.faqs) == 10
    labelled = alone(tiny_encoder, tenant(2, answers=answers)).judged["bare"]
    assert labelled.scorer.answers is not None and "answers" in labelled.held.scores.views


def test_unlabelled_queries_move_the_prototypes(tiny_encoder: Encoder) -> None:
    log = tuple(f"{word} now" for word in WORDS for _ in range(3))
    without, refined = (
        alone(tiny_encoder, tenant(0, unlabelled=texts)).judged["bare"].scorer.prototypes
        for texts in ((), log)
    )
    assert not torch.equal(without, refined)


def test_own_examples_set_the_threshold(tiny_encoder: Encoder) -> None:
    examples = tuple(f"zq {letter}{letter}" for letter in "bcdefghijk")
    plain = alone(tiny_encoder, tenant(6))
    taught = alone(tiny_encoder, tenant(6, out_of_scope=examples))
    assert len(taught.judged["bare"].outside) == len(examples)
    assert taught.thresholds != plain.thresholds


def test_own_examples_have_a_say_in_the_choice(tiny_encoder: Encoder) -> None:
    candidates = {"average": Candidate(random_adapter(tiny_encoder, seed=1)), "bare": floor(4)}
    arriving = tenant(4, out_of_scope=("lost luggage", "tax advice", "dog food"))
    found = competing(tiny_encoder, arriving, candidates)
    total = {}
    for name, one in found.judged.items():
        inside, outside = scope_losses(one.held.scores.evidence, one.outside)
        total[name] = torch.cat([one.held.losses(TEMPERATURE) + inside, outside])
    difference = float((total["bare"] - total["average"]).double().mean())
    assert found.choice.judgements["bare"].difference == pytest.approx(difference, abs=1e-6)
    silent = competing(tiny_encoder, tenant(4), candidates)
    assert silent.choice.judgements["bare"].difference != pytest.approx(difference, abs=1e-3)


def test_two_examples_alone_do_not_set_the_threshold(tiny_encoder: Encoder) -> None:
    plain = alone(tiny_encoder, tenant(6))
    taught = alone(tiny_encoder, tenant(6, out_of_scope=("zq bb", "zq cc")))
    assert taught.thresholds == plain.thresholds


def test_fewer_wrong_answers_cost_a_higher_threshold(tiny_encoder: Encoder) -> None:
    arriving = tenant(3)
    shuffled = arriving.faqs[torch.randperm(18, generator=torch.Generator().manual_seed(0))]
    # Labels that say nothing: most answers are wrong.
    mixed = TenantTexts(arriving.questions, arriving.queries, shuffled)
    free = alone(tiny_encoder, mixed)
    strict = alone(tiny_encoder, mixed, most_wrong=0.01)
    assert strict.thresholds["bare"] > free.thresholds["bare"]


def test_nothing_is_known_of_a_threshold_without_queries_and_public_texts(
    tiny_encoder: Encoder,
) -> None:
    assert alone(tiny_encoder, tenant(0), foreign=()).thresholds["bare"] == NEVER_ABSTAIN


def test_folds_part_an_faqs_queries_and_keep_equal_texts_together() -> None:
    texts = (*WORDS, "Refund", "a b", "A B", *(f"q {n}" for n in range(20)))
    labels = torch.tensor([*range(6), 0, 1, 1, *[2] * 20])
    folds = deal_folds(texts, labels, WORDS, 10, seed=0)
    assert folds[:7].tolist() == [-1] * 7  # questions, and a query that is one
    assert folds[7] == folds[8] >= 0
    counts = torch.bincount(folds[9:], minlength=10)
    assert counts.tolist() == [2] * 10


def test_the_only_rows_of_an_faq_are_never_held_out() -> None:
    texts, labels = ("only", "Only", "a", "b", "c"), torch.tensor([0, 0, 1, 1, 2])
    folds = deal_folds(texts, labels, ("1", "2", "3"), 2, seed=0)
    assert folds[:2].tolist() == [-1, -1] and folds[4] == -1
    assert sorted(folds[2:4].tolist()) == [0, 1]


@pytest.mark.parametrize("k", [1, 2])
def test_a_tenant_whose_questions_are_numbers_arrives(tiny_encoder: Encoder, k: int) -> None:
    numbered = tenant(k, questions=tuple(map(str, range(6))))
    judged = alone(tiny_encoder, numbered).judged["bare"]
    assert judged.scorer.prototypes.shape == (6, tiny_encoder.hidden_size)
    assert len(judged.held.gold) == (0 if k == 1 else 12)


def test_the_floors_prior_shrinks_with_rows() -> None:
    means = [floor_prior(6 * k, 6, 16).mean for k in (1, 3, 10)]
    assert means == sorted(means, reverse=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"faqs": torch.zeros(1, dtype=torch.int64)}, "FAQs of them"),
        ({"faqs": torch.full((6,), 6)}, "from 0 to 5"),
        ({"answers": ("one",)}, "1 answers of 6"),
    ],
)
def test_texts_that_do_not_fit_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tenant(1, **changes)


def test_candidates_need_one_reference_and_one_that_no_row_trained(tiny_encoder: Encoder) -> None:
    adapter = random_adapter(tiny_encoder, seed=0)
    for candidates in (
        {"a": Candidate(None), "b": Candidate(None)},
        {"a": Candidate(None, prior=AVERAGED_PRIOR)},
        {"a": Candidate(adapter, folds=(adapter, adapter))},
    ):
        with pytest.raises(ValueError, match="need one reference"):
            competing(tiny_encoder, tenant(1), candidates)
