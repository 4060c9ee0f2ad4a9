"""The membership audit: a guess is a guess, and an overfitted adapter is caught."""

import time

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from adapterdistill.evaluation import membership
from adapterdistill.evaluation.membership import Membership, audit_membership
from adapterdistill.evaluation.metrics import auroc

FAQS, WIDTH = 12, 24


def rows_of(faqs: int, queries: int, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Unit embeddings around each FAQ's centre, labels, and which rows are questions."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.arange(faqs), torch.arange(faqs).repeat_interleave(queries)])
    centres = torch.randn(faqs, WIDTH, generator=generator)
    noise = torch.randn(len(labels), WIDTH, generator=generator)
    embeddings = F.normalize(centres[labels] + 1.5 * noise, dim=-1)
    return embeddings, labels, torch.arange(len(labels)) < faqs


def half_of(labels: Tensor, questions: Tensor, *, seed: int) -> Tensor:
    """Questions and a random half of each FAQ's queries."""
    generator = torch.Generator().manual_seed(seed)
    trained = questions.clone()
    for faq in labels.unique():
        queries = ((labels == faq) & ~questions).nonzero().flatten()
        order = torch.randperm(len(queries), generator=generator)
        trained[queries[order[: len(queries) // 2]]] = True
    return trained


def pulled(embeddings: Tensor, labels: Tensor, rows: Tensor, by: float) -> Tensor:
    """The embeddings, those of `rows` moved towards their FAQ's mean, as overfitting moves them."""
    means = torch.zeros(FAQS, WIDTH).index_add(0, labels, embeddings)
    moved = embeddings.clone()
    moved[rows] += by * F.normalize(means, dim=-1)[labels[rows]]
    return F.normalize(moved, dim=-1)


def found_by(adapted: Tensor, public: Tensor, labels: Tensor, trained: Tensor) -> Membership:
    questions = torch.arange(len(labels)) < FAQS
    found = audit_membership([adapted], public, labels, trained[None], questions)
    assert found is not None
    return found


def test_a_permuted_membership_is_a_guess() -> None:
    embeddings, labels, questions = rows_of(FAQS, 8)
    adapted = F.normalize(embeddings + 0.1, dim=-1)
    found = [
        found_by(adapted, embeddings, labels, half_of(labels, questions, seed=seed))
        for seed in range(40)
    ]
    within = sum(one.low <= 0.5 <= one.high for one in found)
    assert within >= 36  # of 40 intervals of 95%
    # The strongest of three attacks is chosen, hence a little above one half.
    assert 0.49 < sum(one.auc for one in found) / 40 < 0.55


def test_each_kind_of_row_is_compared_with_equally_many_others() -> None:
    """With two queries an FAQ, a member alone would meet its question only: far below one half."""
    embeddings, labels, questions = rows_of(FAQS, 4)
    each = [
        found_by(embeddings, embeddings, labels, half_of(labels, questions, seed=seed)).auc
        for seed in range(40)
    ]
    assert 0.48 < sum(each) / 40 < 0.56


def test_an_overfitted_adapter_is_caught_and_more_is_caught_more() -> None:
    embeddings, labels, questions = rows_of(FAQS, 8)
    trained = half_of(labels, questions, seed=1)
    rows = trained & ~questions
    found = [
        found_by(pulled(embeddings, labels, rows, by), embeddings, labels, trained)
        for by in (0.0, 0.5, 4.0)
    ]
    assert found[0].low < 0.5 < found[1].low < found[1].auc < found[2].auc
    assert found[2].auc > 0.95 and found[2].rows == FAQS * 8


def test_the_similarity_attack_equals_a_loop_over_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings, labels, questions = rows_of(FAQS, 6, seed=3)
    trained = half_of(labels, questions, seed=2)
    similarity = membership._losses(embeddings, labels, trained & ~questions, questions)[1]
    for row in range(FAQS, len(labels)):
        of_faq = [other for other in range(len(labels)) if labels[other] == labels[row]]
        used = [other for other in of_faq if bool(trained[other])]
        mine = [other for other in used if other >= FAQS]
        if row in used:
            used.remove(row)
        else:
            others = [other for other in of_faq if not trained[other]]
            used.remove(mine[others.index(row) % len(mine)])
        expected = F.normalize(embeddings[used].double().sum(0), dim=0) @ embeddings[row].double()
        assert similarity[row] == pytest.approx(float(expected))
    judged = membership._judged(labels, trained, questions)
    won, compared = membership._pairs(similarity[None], trained, judged)
    assert float(won.sum() / compared.sum()) == pytest.approx(
        auroc(similarity[trained & judged], similarity[~trained & judged])
    )


def test_folds_are_audited_together() -> None:
    embeddings, labels, questions = rows_of(FAQS, 6)
    halves = [half_of(labels, questions, seed=0)]
    halves.append(questions | ~halves[0])
    adapted = [pulled(embeddings, labels, trained & ~questions, 2.0) for trained in halves]
    found = audit_membership(adapted, embeddings, labels, torch.stack(halves), questions)
    assert found is not None and found.rows == FAQS * 6 and found.auc > 0.8


def test_too_few_rows_tell_nothing() -> None:
    embeddings, labels, questions = rows_of(FAQS, 2)
    assert audit_membership([embeddings], embeddings, labels, questions[None], questions) is None
    few = half_of(labels, questions, seed=0)
    few[-2 * (FAQS - 4) :] = True
    assert audit_membership([embeddings], embeddings, labels, few[None], questions) is None


def test_many_rows_take_under_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings, labels, questions = rows_of(50, 20)
    trained = half_of(labels, questions, seed=0)
    started = time.process_time()
    found = audit_membership([embeddings], embeddings, labels, trained[None], questions)
    assert found is not None and found.rows == membership.MOST_ROWS
    assert time.process_time() - started < 2
