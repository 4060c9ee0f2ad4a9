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
    prototype_loss,
    relation_distance,
)

TEMPERATURE = 0.05


def unit(rows: int, *, seed: int, size: int = 6) -> Tensor:
    return F.normalize(torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)))


def prototype_by_loops(embeddings: Tensor, labels: list[int], temperature: float) -> float:
    e = embeddings.double()
    terms = []
    for i, label in enumerate(labels):
        if label < 0 or labels.count(label) < 2:
            continue
        cosines = {}
        for faq in set(labels) - {-1}:
            rows = [e[j] for j, other in enumerate(labels) if other == faq and j != i]
            mean = torch.stack(rows).mean(0)
            cosines[faq] = float(e[i] @ mean / mean.norm())
        total = sum(math.exp(cosine / temperature) for cosine in cosines.values())
        terms.append(math.log(total) - cosines[label] / temperature)
    return sum(terms) / len(terms) if terms else 0.0


def shares_by_loops(e: Tensor, row: int) -> list[float]:
    powers = [math.exp(float(e[row] @ e[j]) / TEMPERATURE) for j in range(len(e)) if j != row]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize(
    "labels",
    [
        [0, 0, 1, 1, 2, 2],
        [0, 0, 0, 1, 2, -1],  # rows alone of their FAQ, a row without a label
        [-1, -1, 3, 3, -1, 5, 3],
        [7, 7],  # one FAQ: nothing to tell apart
        [2, 0, 1, 2, 0, 1, 1],
    ],
)
@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_prototype_loss_equals_its_loops(labels: list[int], temperature: float) -> None:
    e = unit(len(labels), seed=1)
    found = prototype_loss(e, torch.tensor(labels), temperature=temperature)
    expected = prototype_by_loops(e, labels, temperature)
    assert float(found) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("labels", [[0], [-1], [0, 1, 2], [-1, -1]])
def test_without_positives_loss_and_gradient_are_zero(labels: list[int]) -> None:
    e = unit(len(labels), seed=2).requires_grad_()
    loss = prototype_loss(e, torch.tensor(labels))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert e.grad is not None and not e.grad.any()


def test_rows_without_a_label_take_no_part_and_rows_alone_only_push() -> None:
    e = unit(4, seed=3).requires_grad_()
    prototype_loss(e, torch.tensor([4, 4, 6, -1])).backward()
    assert e.grad is not None
    assert not e.grad[3].any()
    away = -(e.grad[2] @ (e[0] + e[1]).detach())
    assert float(away) < 0


def test_gradients_equal_finite_differences() -> None:
    e = unit(6, seed=8).double()

    def loss(rows: Tensor) -> Tensor:
        unit_rows = F.normalize(rows, dim=-1).float()
        return prototype_loss(unit_rows, torch.tensor([0, 0, 1, 1, 2, -1]), temperature=0.5)

    rows = e.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(rows), rows)
    for row, column in ((0, 0), (2, 3), (4, 1), (5, 2)):
        step = torch.zeros_like(e)
        step[row, column] = 1e-2
        slope = (float(loss(e + step)) - float(loss(e - step))) / 2e-2
        assert float(found[row, column]) == pytest.approx(slope, abs=2e-3)


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
        prototype_loss(unit(4, seed=0), torch.zeros(3, dtype=torch.int64))
