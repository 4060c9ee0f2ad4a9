"""Losses against loops in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import TypeCheckError
from torch import Tensor

from adapterdistill.distill.losses import (
    embedding_distance,
    feature_distance,
    relation_distance,
    supervised_contrastive,
)

TEMPERATURE = 0.05


def unit(rows: int, *, seed: int, size: int = 6) -> Tensor:
    return F.normalize(torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)))


def contrastive_by_loops(embeddings: Tensor, labels: list[int], temperature: float) -> float:
    e = embeddings.double()
    anchors = []
    for i, label in enumerate(labels):
        others = [j for j in range(len(labels)) if j != i]
        positives = [j for j in others if label >= 0 and labels[j] == label]
        if not positives:
            continue
        total = sum(math.exp(float(e[i] @ e[j]) / temperature) for j in others)
        logs = [float(e[i] @ e[p]) / temperature - math.log(total) for p in positives]
        anchors.append(-sum(logs) / len(logs))
    return sum(anchors) / len(anchors) if anchors else 0.0


def shares_by_loops(e: Tensor, row: int) -> list[float]:
    powers = [math.exp(float(e[row] @ e[j]) / TEMPERATURE) for j in range(len(e)) if j != row]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize(
    "labels",
    [
        [0, 0, 1, 1, 2, 2],
        [0, 0, 0, 1, 2, -1],  # an anchor without a positive, a row without a label
        [-1, -1, 3, 3, -1, 5, 3],
        [7, 7],
    ],
)
@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_supervised_contrastive_equals_its_loops(labels: list[int], temperature: float) -> None:
    e = unit(len(labels), seed=1)
    found = supervised_contrastive(e, torch.tensor(labels), temperature=temperature)
    expected = contrastive_by_loops(e, labels, temperature)
    assert float(found) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("labels", [[0], [-1], [0, 1, 2], [-1, -1]])
def test_without_positives_loss_and_gradient_are_zero(labels: list[int]) -> None:
    e = unit(len(labels), seed=2).requires_grad_()
    loss = supervised_contrastive(e, torch.tensor(labels))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert e.grad is not None and not e.grad.any()


def test_unlabelled_rows_push_but_are_never_pulled() -> None:
    """A row labelled -1 enters the sums of others: a gradient away from them, none as an anchor."""
    e = unit(3, seed=3).requires_grad_()
    supervised_contrastive(e, torch.tensor([4, 4, -1])).backward()
    assert e.grad is not None
    away = -(e.grad[2] @ (e[0] + e[1]).detach())
    assert float(away) < 0


def test_relation_distance_equals_its_loops_and_is_zero_where_similarities_agree() -> None:
    student, teacher = unit(5, seed=4), unit(5, seed=5)
    expected = 0.0
    for row in range(5):
        p, q = shares_by_loops(teacher.double(), row), shares_by_loops(student.double(), row)
        expected += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / 5
    assert float(relation_distance(student, teacher)) == pytest.approx(expected, rel=1e-4)
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))
    assert abs(float(relation_distance(student @ rotation, student))) < 1e-5
    assert float(relation_distance(unit(1, seed=1), unit(1, seed=2))) == 0.0


def test_embedding_distance_is_one_minus_the_mean_cosine() -> None:
    student, teacher = unit(4, seed=6), unit(4, seed=7)
    cosines = [float(student[i].double() @ teacher[i].double()) for i in range(4)]
    expected = 1 - sum(cosines) / 4
    assert float(embedding_distance(student, teacher)) == pytest.approx(expected, rel=1e-5)


def test_feature_distance_equals_its_loops_over_layers_and_tokens() -> None:
    student = [unit(7, seed=8) * 3, unit(7, seed=9)]
    teacher = [unit(7, seed=10), unit(7, seed=11)]
    expected = 0.0
    for u, o in zip(student, teacher, strict=True):
        expected += sum(float((u[t].double() - o[t].double()).pow(2).sum()) for t in range(7)) / 7
    found = feature_distance(student, teacher, total_tokens=7)
    assert float(found) == pytest.approx(expected / 2, rel=1e-5)
    # One worker's share of a global batch of 21 tokens.
    assert float(feature_distance(student, teacher, total_tokens=21)) == pytest.approx(
        expected / 6, rel=1e-5
    )
    with pytest.raises(ValueError, match="zip"):
        feature_distance(student, teacher[:1], total_tokens=7)


def test_no_distance_gives_the_teacher_a_gradient() -> None:
    teacher = unit(4, seed=12).requires_grad_()
    student = unit(4, seed=13).requires_grad_()
    total = (
        relation_distance(student, teacher)
        + embedding_distance(student, teacher)
        + feature_distance([student], [teacher], total_tokens=4)
    )
    total.backward()
    assert teacher.grad is None
    assert student.grad is not None and student.grad.any()


def test_shapes_are_checked_at_run_time() -> None:
    with pytest.raises(TypeCheckError):
        relation_distance(unit(4, seed=0), unit(5, seed=0))
    with pytest.raises(TypeCheckError):
        supervised_contrastive(unit(4, seed=0), torch.zeros(3, dtype=torch.int64))
