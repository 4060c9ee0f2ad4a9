"""An arrival on a tiny encoder whose tokens are characters: each FAQ's texts share a word."""

import pytest
import torch

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder
from adapterdistill.bundle import NEVER_ABSTAIN
from adapterdistill.checkpoint import state_digest
from adapterdistill.evaluation.arrival import (
    AVERAGED,
    BARE,
    MOVED,
    Candidate,
    arrive,
    first_arrival,
    floor_prior,
)
from adapterdistill.evaluation.choice import Prior
from adapterdistill.evaluation.tenant_texts import TenantTexts, deal_folds, says_something
from tests.tiny_encoders import random_adapter

WORDS = ("refund", "parking", "password", "opening", "voucher", "invoice")
FOREIGN = ("zzz qqq", "xylo jazz", "vex buzz", "kiwi fizz")


def tenant(k: int, **changes: object) -> TenantTexts:
    queries = [f"{word} {word} {'abcdefghijkl'[n]}" for word in WORDS for n in range(k)]
    faqs = torch.tensor([faq for faq in range(len(WORDS)) for _ in range(k)], dtype=torch.int64)
    fields = {"questions": WORDS, "queries": tuple(queries), "faqs": faqs, **changes}
    return TenantTexts(**fields)  # type: ignore[arg-type]


def teachers_of(encoder: Encoder, count: int = 3) -> list[BottleneckAdapter]:
    return [random_adapter(encoder, seed=seed, scale=0.05) for seed in range(count)]


def ruinous(encoder: Encoder) -> BottleneckAdapter:
    """An adapter under which all texts look alike."""
    adapter = random_adapter(encoder, seed=9, scale=0.01)
    with torch.no_grad():
        adapter.up_bias += 1000 * torch.randn(adapter.hidden_size)
    return adapter


@pytest.mark.parametrize("k", [0, 1, 4])
def test_an_arrival_finds_the_faqs_of_its_own_words(tiny_encoder: Encoder, k: int) -> None:
    found = arrive(tiny_encoder, tenant(k), teachers_of(tiny_encoder), foreign=FOREIGN)
    texts = [f"{word} {word} m" for word in WORDS]
    scores = found.scorer(tiny_encoder.embed_texts(texts, found.embedder), texts)
    assert float((scores.total.argmax(1) == torch.arange(6)).double().mean()) >= 4 / 6
    assert found.chosen in (MOVED, AVERAGED, BARE)
    assert set(found.choice.judgements) == {*([MOVED] if k else []), AVERAGED, BARE}
    assert {"averaging", "scorers", "threshold"} <= set(found.seconds)
    assert len(found.held.gold) == 6 * k


def test_a_first_arrival_trains_nothing(tiny_encoder: Encoder) -> None:
    teachers = teachers_of(tiny_encoder)
    found = first_arrival(tiny_encoder, tenant(3), teachers, foreign=FOREIGN)
    assert set(found.choice.judgements) == {AVERAGED, BARE}
    assert "own steps" not in found.seconds


def test_the_moved_averages_threshold_turns_away_as_many_public_texts(
    tiny_encoder: Encoder,
) -> None:
    teachers, public = teachers_of(tiny_encoder), tuple(f"z{a}{b}" for a in "xyq" for b in "vkj")
    first = first_arrival(tiny_encoder, tenant(4), teachers, foreign=public)
    final = arrive(tiny_encoder, tenant(4), teachers, foreign=public)
    assert (first.chosen, final.chosen) == (AVERAGED, MOVED)
    refused = [int((found.foreign < found.threshold).sum()) for found in (first, final)]
    assert refused[0] == refused[1]


def test_an_arrival_repeats_and_leaves_the_teachers(tiny_encoder: Encoder) -> None:
    teachers = teachers_of(tiny_encoder)
    before = [state_digest(teacher) for teacher in teachers]
    first, again = (arrive(tiny_encoder, tenant(2), teachers, foreign=FOREIGN) for _ in range(2))
    assert [state_digest(teacher) for teacher in teachers] == before
    for name, part in first.scorer.tensors().items():
        assert torch.equal(part, again.scorer.tensors()[name])
    assert (first.chosen, first.threshold) == (again.chosen, again.threshold)


def test_without_teachers_the_bare_encoder_is_served(tiny_encoder: Encoder) -> None:
    found = arrive(tiny_encoder, tenant(2), [], foreign=FOREIGN)
    assert found.chosen == BARE and found.embedder is None


def test_teachers_that_ruin_a_tenant_lose_to_the_floor(tiny_encoder: Encoder) -> None:
    found = arrive(tiny_encoder, tenant(6), [ruinous(tiny_encoder)], foreign=FOREIGN)
    assert found.chosen == BARE
    assert found.choice.judgements[BARE].posterior < 0


def test_a_better_candidate_of_the_caller_is_taken(tiny_encoder: Encoder) -> None:
    further = {"live now": Candidate(None, prior=Prior(0.0, 0.1))}
    found = arrive(
        tiny_encoder, tenant(6), [ruinous(tiny_encoder)], foreign=FOREIGN, further=further
    )
    assert found.chosen == "live now"


def test_a_trained_candidate_is_judged_by_its_folds(tiny_encoder: Encoder) -> None:
    arriving = tenant(4)
    texts, labels = arriving.rows()
    folds = deal_folds(texts, labels, arriving.questions, 2, seed=0)
    bad, good = ruinous(tiny_encoder), random_adapter(tiny_encoder, seed=1, scale=0.01)
    further = {"own": Candidate(good, folds=(bad, bad), prior=Prior(-0.1, 0.1))}
    found = arrive(tiny_encoder, arriving, [], foreign=FOREIGN, further=further, folds=folds)
    difference = found.choice.judgements["own"].difference
    assert found.chosen == BARE and difference is not None and difference > 0


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
    found = arrive(tiny_encoder, arriving, teachers_of(tiny_encoder), foreign=FOREIGN)
    assert found.scorer.answers is not None and len(found.scorer.answers.faqs) == 10
    labelled = arrive(
        tiny_encoder, tenant(2, answers=answers), teachers_of(tiny_encoder), foreign=FOREIGN
    )
    assert labelled.scorer.answers is not None and "answers" in labelled.held.scores.views


def test_unlabelled_queries_move_the_prototypes(tiny_encoder: Encoder) -> None:
    without = arrive(tiny_encoder, tenant(0), [], foreign=FOREIGN)
    log = tuple(f"{word} now" for word in WORDS for _ in range(3))
    refined = arrive(tiny_encoder, tenant(0, unlabelled=log), [], foreign=FOREIGN)
    assert not torch.equal(without.scorer.prototypes, refined.scorer.prototypes)


def test_own_examples_set_the_threshold(tiny_encoder: Encoder) -> None:
    examples = tuple(f"zq {letter}{letter}" for letter in "bcdefghijk")
    plain = arrive(tiny_encoder, tenant(6), [], foreign=FOREIGN)
    taught = arrive(tiny_encoder, tenant(6, out_of_scope=examples), [], foreign=FOREIGN)
    assert len(taught.outside) == len(examples)
    assert taught.threshold != plain.threshold


def test_fewer_wrong_answers_cost_a_higher_threshold(tiny_encoder: Encoder) -> None:
    arriving = tenant(3)
    mixed = TenantTexts(
        arriving.questions, arriving.queries, arriving.faqs[torch.randperm(18)]
    )  # labels that say nothing: most answers are wrong
    free = arrive(tiny_encoder, mixed, [], foreign=FOREIGN)
    strict = arrive(tiny_encoder, mixed, [], foreign=FOREIGN, most_wrong=0.01)
    assert strict.threshold > free.threshold


def test_nothing_is_known_of_a_threshold_without_queries_and_public_texts(
    tiny_encoder: Encoder,
) -> None:
    assert arrive(tiny_encoder, tenant(0), [], foreign=()).threshold == NEVER_ABSTAIN


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
    found = arrive(tiny_encoder, numbered, teachers_of(tiny_encoder), foreign=FOREIGN)
    assert found.scorer.prototypes.shape == (6, tiny_encoder.hidden_size)
    assert len(found.held.gold) == (0 if k == 1 else 12)


def test_the_floors_prior_shrinks_with_rows() -> None:
    means = [floor_prior(tenant(k)).mean for k in (1, 3, 10)]
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


def test_candidates_need_names_of_their_own_and_their_folds(tiny_encoder: Encoder) -> None:
    with pytest.raises(ValueError, match="names of their own"):
        arrive(tiny_encoder, tenant(1), [], foreign=FOREIGN, further={BARE: Candidate(None)})
    trained = {"own": Candidate(None, folds=(random_adapter(tiny_encoder, seed=0),))}
    with pytest.raises(ValueError, match="need the folds"):
        arrive(tiny_encoder, tenant(1), [], foreign=FOREIGN, further=trained)
