"""The student's imitation against formulas by hand; tests 2 to 5 of the method."""

import pytest
import torch

from adapterdistill.adapters import AdapterStack, BottleneckAdapter
from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import state_digest
from adapterdistill.distill.adapter_distillation import (
    FEATURE_WEIGHT,
    AdapterDistillation,
    distillation_of,
    imitation_rows,
    public_texts,
)
from adapterdistill.distill.batches import TrainingRows, make_batch
from adapterdistill.distill.composition import FusedTeachers, Mixture
from adapterdistill.distill.losses import feature_distance, relation_distance
from adapterdistill.distill.objective import Recording
from adapterdistill.distill.training import Schedule, train
from tests.separable_tenant import separable_rows
from tests.tiny_encoders import random_adapter

ROWS = separable_rows(3, seed=1)


def teachers_of(encoder: Encoder, count: int) -> list[BottleneckAdapter]:
    return [random_adapter(encoder, seed=seed, scale=0.2) for seed in range(count)]


def just(encoder: Encoder, teacher: BottleneckAdapter) -> Mixture:
    """A composition that gives what one adapter gives."""
    return Mixture(AdapterStack.of([teacher]), torch.ones(1), torch.ones(encoder.num_layers))


def test_a_student_that_equals_the_only_teacher_has_no_distance(tiny_encoder: Encoder) -> None:
    teacher = random_adapter(tiny_encoder, seed=1)
    composition = just(tiny_encoder, teacher)
    objective = AdapterDistillation(tiny_encoder, teacher.copy(), composition)
    loss = objective(make_batch(ROWS, range(12)))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-5)
    assert teacher.down_weight.grad is None
    for parameter in objective.student.parameters():
        assert parameter.grad is not None and float(parameter.grad.abs().max()) < 1e-5


def test_the_loss_is_the_sum_of_its_distances_each_side_on_its_own_activations(
    tiny_encoder: Encoder,
) -> None:
    student, teacher = random_adapter(tiny_encoder, seed=1), random_adapter(tiny_encoder, seed=2)
    composition = just(tiny_encoder, teacher)
    batch = make_batch(ROWS, range(12))
    found, goal = Recording(student), Recording(composition)
    with torch.no_grad():
        mine = tiny_encoder.embed(batch.tokens, found)
        theirs = tiny_encoder.embed(batch.tokens, goal)
        loss = AdapterDistillation(tiny_encoder, student, composition)(batch)
    features = feature_distance(found.outputs, goal.outputs, total_tokens=batch.total_tokens)
    expected = FEATURE_WEIGHT * features + relation_distance(mine, theirs)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("with_own", [True, False])
def test_the_student_comes_close_and_teachers_and_own_adapter_stay_as_they_were(
    tiny_encoder: Encoder, with_own: bool
) -> None:
    own = random_adapter(tiny_encoder, seed=9, scale=0.1) if with_own else None
    frozen = [*teachers_of(tiny_encoder, 3), *([own] if own else [])]
    before = [state_digest(adapter) for adapter in frozen]
    objective = distillation_of(tiny_encoder, frozen[:3], ROWS, own=own, bottleneck_size=6, seed=0)
    goal = tiny_encoder.embed_ids(ROWS.ids, objective.composition)

    def missed() -> float:
        found = tiny_encoder.embed_ids(ROWS.ids, objective.student)
        return 1 - float((found * goal).sum(-1).mean())

    assert isinstance(objective.composition, FusedTeachers if with_own else Mixture)
    start = missed()
    assert own is None or state_digest(objective.student) == state_digest(own)
    schedule = Schedule(max_steps=40, learning_rate=5e-3, batch_size=32)
    train(objective, imitation_rows(tiny_encoder, ROWS)[0], schedule, seed=0)
    assert missed() < 0.5 * start
    assert [state_digest(adapter) for adapter in frozen] == before
    assert [p.shape for p in objective.student.parameters()] == [
        p.shape for p in frozen[0].parameters()
    ]


@pytest.mark.parametrize("copies", [1, 100])
def test_own_and_public_texts_are_drawn_about_as_often(tiny_encoder: Encoder, copies: int) -> None:
    mine = TrainingRows(ROWS.ids * copies, ROWS.labels.repeat(copies))
    texts, of_row = imitation_rows(tiny_encoder, mine)
    public, own = int((of_row < 0).sum()), int((of_row >= 0).sum())
    assert public == len(public_texts()) and len(texts.ids) == public + own
    assert own % len(mine.ids) == 0 and own > 0.9 * public
    assert not (texts.labels >= 0).any()
    for text, row in zip(texts.ids, of_row.tolist(), strict=True):
        assert row < 0 or text == mine.ids[row]


def test_a_row_of_the_tenant_s_own_is_no_public_text(tiny_encoder: Encoder) -> None:
    """Else a fold would be trained on what it holds out."""
    shared = tiny_encoder.tokenize(public_texts()[:3])
    mine = TrainingRows([*ROWS.ids, *shared], torch.cat([ROWS.labels, torch.tensor([0, 1, 2])]))
    texts, of_row = imitation_rows(tiny_encoder, mine)
    public = {tuple(ids) for ids, row in zip(texts.ids, of_row.tolist(), strict=True) if row < 0}
    assert len(public) > 500 and not public & set(map(tuple, mine.ids))


def test_public_texts_are_the_samples_queries() -> None:
    texts = public_texts()
    assert len(texts) == len(set(texts)) > 500
    assert all(text.strip() for text in texts)
