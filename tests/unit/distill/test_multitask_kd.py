"""Multi-task distillation: the loss by hand, one task a step, and what no step may touch."""

from collections import Counter

import pytest
import torch
from torch import Tensor

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import state_digest
from adapterdistill.distill.batches import make_batch
from adapterdistill.distill.losses import prototype_loss
from adapterdistill.distill.multitask_kd.objective import (
    MultitaskDistillation,
    TaskBatches,
    distillation_loss,
    no_targets,
    spread_of,
)
from adapterdistill.distill.multitask_kd.students import (
    AdapterBody,
    BiLstmBody,
    MultitaskModel,
    TaskTexts,
    TransformerBody,
)
from adapterdistill.distill.training import Schedule, train
from adapterdistill.errors import ConfigError
from tests.task_texts import pair_task, retrieval_task, single_task

TASKS = [single_task(26, seed=1), pair_task(), single_task(18, seed=2, classes=3)]


def student_of(encoder: Encoder, tasks: list[TaskTexts], *, seed: int = 0) -> MultitaskModel:
    return MultitaskModel(TransformerBody(encoder, num_layers=1, num_heads=2), tasks, seed=seed)


def teacher_of(encoder: Encoder, task: TaskTexts) -> MultitaskModel:
    body = AdapterBody(encoder, BottleneckAdapter.new(2, 32, 4, seed=3))
    return MultitaskModel(body, [task], seed=3)


def targets_of(encoder: Encoder, tasks: list[TaskTexts]) -> list[Tensor]:
    return [teacher_of(encoder, task).predict(task) for task in tasks]


def fitted(objective: MultitaskDistillation, *, steps: int, batch_size: int = 8) -> list[float]:
    schedule = Schedule(max_steps=steps, batch_size=batch_size, learning_rate=3e-3)
    batches = objective.batches
    return train(objective, batches.texts, schedule, seed=5, choose=batches.choose).losses


def test_the_loss_equals_float64_by_hand() -> None:
    student, teacher = torch.randn(5, 3), torch.randn(5, 3)
    labels = torch.tensor([0, 2, 1, 1, 0])
    z, goal = student.double(), teacher.double()
    distance = sum(float((goal[i] - z[i]) @ (goal[i] - z[i])) for i in range(5)) / 5
    entropy = -sum(float(z[i, y] - z[i].exp().sum().log()) for i, y in enumerate(labels)) / 5
    for alpha in (0.0, 0.3, 1.0):
        for spread in (1.0, 2.5):
            found = distillation_loss(student, teacher, labels, alpha=alpha, spread=spread)
            expected = (1 - alpha) * distance / spread + alpha * entropy
            assert float(found) == pytest.approx(expected, rel=1e-5)


def test_a_task_of_which_the_teacher_is_surer_weighs_no_more() -> None:
    logits = torch.randn(6, 3)
    mean = logits.double().mean(0)
    by_hand = sum(float((z - mean) @ (z - mean)) for z in logits.double()) / 6
    assert spread_of(logits) == pytest.approx(by_hand, rel=1e-5)
    student, labels = torch.randn(6, 3), torch.zeros(6, dtype=torch.int64)
    once, twice = (
        distillation_loss(student * sure, logits * sure, labels, spread=spread_of(logits * sure))
        for sure in (1.0, 20.0)
    )
    assert float(once) == pytest.approx(float(twice), rel=1e-4)
    assert spread_of(torch.ones(4, 2)) == 1.0


def test_the_distance_of_logits_notices_a_constant() -> None:
    """A divergence of softmaxes would not: it tells a swapped loss."""
    logits, labels = torch.randn(4, 3), torch.zeros(4, dtype=torch.int64)
    assert float(distillation_loss(logits, logits, labels)) == 0.0
    shifted = float(distillation_loss(logits + 2.0, logits, labels))
    assert shifted == pytest.approx(3 * 2.0**2)


def test_a_student_that_equals_its_teacher_has_no_loss(tiny_encoder: Encoder) -> None:
    teacher = teacher_of(tiny_encoder, TASKS[0])
    batches = TaskBatches(TASKS[:1])
    objective = MultitaskDistillation(teacher, batches, [teacher.predict(TASKS[0])])
    loss = objective(make_batch(batches.texts, list(range(12))))
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-9)


def test_one_task_is_ordinary_distillation(tiny_encoder: Encoder) -> None:
    """The same rows in the same order through a loop that knows no tasks."""
    task = TASKS[1]
    targets = targets_of(tiny_encoder, [task])
    ours, plain = student_of(tiny_encoder, [task]), student_of(tiny_encoder, [task])
    batches = TaskBatches([task])
    losses = fitted(MultitaskDistillation(ours, batches, targets), steps=6)
    optimizer = torch.optim.AdamW(plain.parameters(), weight_decay=0.01, fused=True)
    for step in range(6):
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1.0, (step + 1) / 5)
        texts = batches.choose(batches.texts, batch_size=8, seed=5, step=step)
        rows = [text // 2 for text in texts[::2]]
        logits = plain(make_batch(batches.texts, texts).tokens, 0)
        loss = (logits - targets[0][rows]).pow(2).sum(1).mean() / spread_of(targets[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert losses[step] == pytest.approx(float(loss.detach()), rel=1e-5)
    torch.testing.assert_close(ours.state_dict(), plain.state_dict())


def test_a_step_on_one_task_leaves_other_heads_and_the_teacher_byte_identical(
    tiny_encoder: Encoder,
) -> None:
    teachers = [teacher_of(tiny_encoder, task) for task in TASKS]
    student = student_of(tiny_encoder, TASKS)
    batches = TaskBatches(TASKS)
    targets = [t.predict(task) for t, task in zip(teachers, TASKS, strict=True)]
    objective = MultitaskDistillation(student, batches, targets)
    first = batches.choose(batches.texts, batch_size=8, seed=5, step=3)
    moved, _ = batches.place(first)
    # Three steps before, so that the optimiser holds momentum for other heads.
    fitted(objective, steps=3)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    for step in range(4):
        before = [state_digest(head) for head in student.heads]
        texts = batches.choose(batches.texts, batch_size=8, seed=5, step=step)
        moved, _ = batches.place(texts)
        optimizer.zero_grad(set_to_none=True)
        objective(make_batch(batches.texts, texts)).backward()
        optimizer.step()
        after = [state_digest(head) for head in student.heads]
        assert [b != a for b, a in zip(before, after, strict=True)] == [
            t == moved for t in range(3)
        ]
    assert all(p.grad is None for teacher in teachers for p in teacher.parameters())


def test_the_teachers_logits_get_no_gradient() -> None:
    student, teacher = torch.randn(4, 2, requires_grad=True), torch.randn(4, 2, requires_grad=True)
    distillation_loss(student, teacher, torch.zeros(4, dtype=torch.int64)).backward()
    assert student.grad is not None and teacher.grad is None


def order(batches: TaskBatches, *, seed: int, steps: int = 24) -> list[int]:
    chosen = (
        batches.choose(batches.texts, batch_size=8, seed=seed, step=step) for step in range(steps)
    )
    return [batches.place(texts)[0] for texts in chosen]


def test_the_same_seed_gives_the_same_order_of_tasks_and_another_another() -> None:
    assert order(TaskBatches(TASKS), seed=1) == order(TaskBatches(TASKS), seed=1)
    assert order(TaskBatches(TASKS), seed=1) != order(TaskBatches(TASKS), seed=2)


def test_an_epoch_meets_every_row_of_every_task_once_one_task_a_step() -> None:
    batches = TaskBatches(TASKS)
    steps = batches.steps_per_epoch(8)
    assert steps == 4 + 3 + 3
    for epoch in range(2):
        met: Counter[tuple[int, int]] = Counter()
        for step in range(epoch * steps, (epoch + 1) * steps):
            texts = batches.choose(batches.texts, batch_size=8, seed=1, step=step)
            task, rows = batches.place(texts)
            met.update((task, row) for row in rows.tolist())
            k = TASKS[task].texts_per_row
            found = [TASKS[task].ids[k * row + i] for row in rows.tolist() for i in range(k)]
            assert [batches.texts.ids[text] for text in texts] == found
        assert met == {(t, row): 1 for t, task in enumerate(TASKS) for row in range(len(task))}
    assert order(batches, seed=1, steps=steps) != sorted(order(batches, seed=1, steps=steps))


@pytest.mark.parametrize("kind", ["transformer", "bilstm"])
def test_both_students_learn_their_teachers_logits_and_the_labels(
    tiny_encoder: Encoder, kind: str
) -> None:
    def fresh() -> MultitaskModel:
        if kind == "transformer":
            return student_of(tiny_encoder, TASKS)
        body = BiLstmBody(tiny_encoder, hidden_size=8, pairs=True, seed=0)
        return MultitaskModel(body, TASKS, seed=0)

    batches = TaskBatches(TASKS)
    goals = [4.0 * torch.nn.functional.one_hot(t.labels, t.num_outputs).float() for t in TASKS]
    losses = fitted(MultitaskDistillation(fresh(), batches, goals), steps=120)
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    model = fresh()
    fitted(MultitaskDistillation(model, batches, no_targets(batches), alpha=1.0), steps=120)
    hits = (model.predict(TASKS[0], 0).argmax(-1) == TASKS[0].labels).float().mean()
    assert float(hits) > 0.9


def test_tasks_and_settings_that_cannot_train_are_refused(tiny_encoder: Encoder) -> None:
    with pytest.raises(ConfigError, match="needs a task"):
        TaskBatches([])
    none = TaskTexts((), torch.zeros(0, dtype=torch.int64), pairs=False, num_outputs=2)
    with pytest.raises(ConfigError, match="task 1 has 0 training rows"):
        TaskBatches([TASKS[0], none])
    one_class = TaskTexts(TASKS[0].ids, torch.zeros(26, dtype=torch.int64), False, 2)
    with pytest.raises(ConfigError, match=r"of 1 class\(es\)"):
        TaskBatches([one_class])
    batches, student = TaskBatches(TASKS[:1]), student_of(tiny_encoder, TASKS[:1])
    with pytest.raises(ConfigError, match="alpha must be from 0"):
        MultitaskDistillation(student, batches, no_targets(batches), alpha=1.5)
    with pytest.raises(ConfigError, match="teachers' logits have shapes"):
        MultitaskDistillation(student, batches, [torch.zeros(26, 3)])
    objective = MultitaskDistillation(student, batches, no_targets(batches))
    with pytest.raises(ConfigError, match="one worker"):
        objective(make_batch(batches.texts, [0, 1], rank=0, world_size=2))


def test_a_tenants_retrieval_is_learnt_from_its_adapter(tiny_encoder: Encoder) -> None:
    """Vectors to rank by: the teacher's are its embeddings, the student's come near to them."""
    tasks = [retrieval_task(), TASKS[0]]
    teacher = teacher_of(tiny_encoder, tasks[0])
    goal = teacher.predict(tasks[0])
    assert isinstance(teacher.body, AdapterBody)
    expected = tiny_encoder.embed_ids(tasks[0].ids, teacher.body.adapter)
    torch.testing.assert_close(goal, expected)
    student = student_of(tiny_encoder, tasks)
    before = student.predict(tasks[0])
    torch.testing.assert_close(before.norm(dim=1), torch.ones(24))
    batches = TaskBatches(tasks)
    targets = [goal, torch.zeros(26, 2)]
    objective = MultitaskDistillation(student, batches, targets)
    loss = objective(make_batch(batches.texts, list(range(24))))
    turned = float(2 - 2 * (before * goal).sum(1).mean())
    assert float(loss.detach()) == pytest.approx(turned, rel=1e-5)
    fitted(objective, steps=60)
    after = student.predict(tasks[0])
    assert float((after * goal).sum(1).mean()) > float((before * goal).sum(1).mean()) + 0.1
    # On labels alone its loss is that of an own adapter.
    own = MultitaskDistillation(student, batches, targets, alpha=1.0)
    loss = own(make_batch(batches.texts, list(range(24))))
    torch.testing.assert_close(loss.detach(), prototype_loss(after, tasks[0].labels))
