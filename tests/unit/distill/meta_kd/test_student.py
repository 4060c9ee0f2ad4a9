"""The student's objective: weights by row, no distance where there is none, what it refuses."""

from dataclasses import replace
from unittest.mock import MagicMock

import pytest
import torch
import torch.nn.functional as F

from adapterdistill.backbone import Encoder, pack
from adapterdistill.backbone.layer import embed_tokens
from adapterdistill.distill.batches import Batch, TrainingRows, make_batch
from adapterdistill.distill.meta_kd.formulas import DomainHead, score_distance, soft_cross_entropy
from adapterdistill.distill.meta_kd.student import MetaDistillation, Terms
from adapterdistill.distill.meta_kd.teacher import Lesson, Teacher
from adapterdistill.distill.multitask_kd.objective import TaskBatches
from adapterdistill.distill.multitask_kd.students import BiLstmBody, MultitaskModel, TransformerBody
from adapterdistill.distill.training import Schedule, train
from adapterdistill.errors import ConfigError
from tests.task_texts import single_task
from tests.tiny_encoders import random_adapter

TEXTS = single_task(24)
ROWS = TrainingRows(TEXTS.ids, TEXTS.labels)
DOMAINS = torch.zeros(24, dtype=torch.int64)
WEIGHTS = torch.linspace(0.2, 0.6, 24)
ONES = torch.ones(24)


def student_of(encoder: Encoder, *, layers: int = 1, heads: int = 2) -> MultitaskModel:
    return MultitaskModel(
        TransformerBody(encoder, num_layers=layers, num_heads=heads), [TEXTS], seed=0
    )


def lesson_of(encoder: Encoder, *, layers: int = 1, domain_head: bool = True) -> Lesson:
    head = DomainHead(32, 3, seed=1).requires_grad_(False) if domain_head else None
    torch.manual_seed(3)  # of the linear head below, whatever test ran before
    teacher = Teacher(
        encoder, random_adapter(encoder, seed=3), torch.nn.Linear(32, 2).requires_grad_(False), head
    )
    return Lesson.of(teacher, TEXTS.ids, DOMAINS, student_layers=layers)


def batch_of(rows: list[int]) -> Batch:
    return make_batch(ROWS, rows)


def test_permuting_the_rows_weights_within_a_batch_changes_the_loss(tiny_encoder: Encoder) -> None:
    """Public code takes the batch's mean before the weight."""
    model, lesson = student_of(tiny_encoder), lesson_of(tiny_encoder)
    rows, swapped = [2, 5, 11, 20], WEIGHTS.clone()
    swapped[[2, 20]] = WEIGHTS[[20, 2]]
    assert float(swapped[rows].mean()) == pytest.approx(float(WEIGHTS[rows].mean()))
    losses = [
        MetaDistillation(model, lesson, TEXTS.labels, w, seed=0)(batch_of(rows)).item()
        for w in (WEIGHTS, swapped)
    ]
    assert losses[0] != pytest.approx(losses[1], rel=1e-4)


def test_the_loss_is_the_mean_of_the_rows_own_losses(tiny_encoder: Encoder) -> None:
    """What a row adds is the same alone and beside longer rows: padding never counts."""
    model, lesson = student_of(tiny_encoder), lesson_of(tiny_encoder)
    objective = MetaDistillation(
        model, lesson, TEXTS.labels, WEIGHTS, terms=Terms(temperature=2.0, labels=0.3), seed=0
    )
    rows = [0, 1, 2, 3, 19]
    alone = [objective(batch_of([row])).item() for row in rows]
    assert objective(batch_of(rows)).item() == pytest.approx(sum(alone) / 5, rel=1e-5)
    assert len({len(TEXTS.ids[row]) for row in rows}) > 2


def test_a_student_that_is_its_teacher_is_at_no_distance(tiny_encoder: Encoder) -> None:
    """The same layers and an identity fit: what is left is the soft labels' own entropy."""
    model = student_of(tiny_encoder, layers=2, heads=4)
    teacher = Teacher(tiny_encoder, lambda _, x: torch.zeros_like(x), model.heads[0])
    lesson = Lesson.of(teacher, TEXTS.ids, DOMAINS, student_layers=2)
    objective = MetaDistillation(model, lesson, TEXTS.labels, 1e4 * ONES, seed=0)
    rows = [1, 4, 9]
    shares = lesson.logits[rows].softmax(-1)
    entropy = -(shares * shares.log()).sum(-1).mean()
    assert objective(batch_of(rows)).item() == pytest.approx(entropy.item(), abs=1e-3)


def test_terms_are_added_as_the_formula_says(tiny_encoder: Encoder) -> None:
    model, lesson, rows = student_of(tiny_encoder), lesson_of(tiny_encoder), [7]
    tokens = pack([TEXTS.ids[7]])
    assert isinstance(model.body, TransformerBody)
    objective = MetaDistillation(model, lesson, TEXTS.labels, WEIGHTS, seed=0)
    body, teacher = model.body.encoder.cast(), lesson
    h0, h1 = embed_tokens(body.weights, tokens).double(), body.hidden(tokens).double()
    [(wanted0, wanted1), [wanted_scores]] = teacher.kept[7]
    hidden = (h0 - wanted0).square().mean() + (h1 - wanted1).square().mean()
    w = body.weights.layers[0]
    q, k = (h0.float() @ w.qkv_weight[:32].T + w.qkv_bias[:32]).double().chunk(2, -1)
    scores = q @ k.T / (2 * 8**0.5)  # two heads of 8
    attention = (scores.flatten() - wanted_scores).square().mean()
    assert objective.feature is not None and teacher.transferable is not None
    pooled = h1.float().mean(0, keepdim=True)
    own = objective.feature.transferable(pooled, torch.tensor([0]))
    transferable = (own - teacher.transferable[7]).square().mean()
    soft = -(teacher.logits[7].softmax(-1) * model.heads[0](pooled)[0].log_softmax(-1)).sum()
    expected = WEIGHTS[7] * (hidden + attention + 0.5 * transferable) + soft
    assert objective(batch_of(rows)).item() == pytest.approx(expected.item(), rel=1e-4)


def test_score_distance_is_by_row_in_the_caller_s_order() -> None:
    tokens = pack([[1, 2, 3], [4], [5, 6]])  # laid as [4], [5, 6], [1, 2, 3]
    own, other = torch.zeros(14), torch.cat([torch.full((1,), 2.0), torch.ones(4), torch.zeros(9)])
    assert score_distance(own, other, tokens).tolist() == [0.0, 4.0, 1.0]


def test_soft_labels_are_cross_entropy_at_a_temperature() -> None:
    student, teacher = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.5, 1.5]])
    wanted = (teacher / 2).double().softmax(-1)
    expected = -4 * (wanted * (student / 2).double().log_softmax(-1)).sum()
    found = soft_cross_entropy(student, teacher, temperature=2.0)
    assert float(found) == pytest.approx(float(expected), abs=1e-6)
    sure = soft_cross_entropy(student, torch.tensor([[99.0, 0.0]]))
    assert float(sure) == pytest.approx(
        float(F.cross_entropy(student, torch.tensor([0]))), abs=1e-5
    )


def test_the_student_learns_its_teacher_without_labels(tiny_encoder: Encoder) -> None:
    model, lesson = student_of(tiny_encoder), lesson_of(tiny_encoder)
    wrong = torch.zeros(24, dtype=torch.int64)
    objective = MetaDistillation(model, lesson, wrong, ONES, seed=0)
    batches = TaskBatches([TEXTS])
    schedule = Schedule(max_steps=120, learning_rate=3e-3, batch_size=8)
    found = train(objective, batches.texts, schedule, seed=0, choose=batches.choose)
    assert sum(found.losses[-10:]) < 0.7 * sum(found.losses[:10])
    agreed = model.predict(TEXTS).argmax(-1) == lesson.logits.argmax(-1)
    assert float(agreed.float().mean()) > 0.9


def test_what_does_not_fit_is_refused_with_what_to_change(tiny_encoder: Encoder) -> None:
    lesson, model = lesson_of(tiny_encoder), student_of(tiny_encoder)
    other = MagicMock(spec=Encoder, hidden_size=16)
    narrow = replace(lesson, teacher=replace(lesson.teacher, encoder=other))
    with pytest.raises(ConfigError, match=r"width 32: its teacher's embeddings have 16; take"):
        MetaDistillation(model, narrow, TEXTS.labels, ONES, seed=0)
    short = replace(lesson, ids=lesson.ids[:23])
    with pytest.raises(ConfigError, match=r"lesson is for 1 layers, the student has 2"):
        MetaDistillation(student_of(tiny_encoder, layers=2), lesson, TEXTS.labels, ONES, seed=0)
    with pytest.raises(ConfigError, match=r"differ in rows: \[23, 24\]"):
        MetaDistillation(model, short, TEXTS.labels, ONES, seed=0)
    lstm = BiLstmBody(tiny_encoder, hidden_size=8, pairs=False, seed=0)
    with pytest.raises(ConfigError, match="is a Transformer"):
        MetaDistillation(MultitaskModel(lstm, [TEXTS], seed=0), lesson, TEXTS.labels, ONES, seed=0)
    objective = MetaDistillation(model, lesson, TEXTS.labels, ONES, seed=0)
    with pytest.raises(ConfigError, match="one worker"):
        objective(replace(batch_of([0, 1]), world_size=2))
