"""The teachers' mixture and its imitation, against formulas by hand."""

import pytest
import torch
from torch import Tensor

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder, pack
from adapterdistill.checkpoint import state_digest
from adapterdistill.distill.batches import TrainingRows, make_batch
from adapterdistill.distill.losses import prototype_loss
from adapterdistill.distill.merging import (
    SHARPNESS,
    Imitation,
    merged_student,
    mixture_of,
    mixture_weights,
    public_texts,
)
from adapterdistill.distill.method import Recording
from tests.separable_tenant import separable_rows
from tests.tiny_encoders import random_adapter

ROWS = separable_rows(3, seed=1)


def teachers_of(encoder: Encoder, count: int) -> list[BottleneckAdapter]:
    return [random_adapter(encoder, seed=seed, scale=0.2) for seed in range(count)]


def test_a_teachers_share_is_a_softmax_of_its_standardised_loss(tiny_encoder: Encoder) -> None:
    teachers = teachers_of(tiny_encoder, 4)
    losses = torch.tensor(
        [
            float(prototype_loss(tiny_encoder.embed_ids(ROWS.ids, t), ROWS.labels).detach())
            for t in teachers
        ],
        dtype=torch.float64,
    )
    z = (losses - losses.mean()) / losses.std(correction=0)
    expected = (-SHARPNESS * z).exp() / (-SHARPNESS * z).exp().sum()
    found = mixture_weights(tiny_encoder, teachers, ROWS)
    assert found.double() == pytest.approx(expected, abs=1e-4)
    assert int(found.argmax()) == int(losses.argmin())


@pytest.mark.parametrize("labels", [list(range(6)), [-1] * 6])
def test_without_two_rows_of_a_faq_all_teachers_count_alike(
    tiny_encoder: Encoder, labels: list[int]
) -> None:
    rows = TrainingRows(ROWS.ids[:6], torch.tensor(labels))
    found = mixture_weights(tiny_encoder, teachers_of(tiny_encoder, 4), rows)
    assert found.tolist() == [0.25] * 4


def test_teachers_that_are_alike_share_alike(tiny_encoder: Encoder) -> None:
    teacher = random_adapter(tiny_encoder, seed=1)
    found = mixture_weights(tiny_encoder, [teacher, teacher.copy()], ROWS)
    assert found.tolist() == pytest.approx([0.5, 0.5], abs=1e-4)


def test_the_mixture_is_the_weighted_sum_made_as_strong_as_the_teachers(
    tiny_encoder: Encoder,
) -> None:
    teachers = teachers_of(tiny_encoder, 3)
    shares = mixture_weights(tiny_encoder, teachers, ROWS)
    found = Recording(mixture_of(tiny_encoder, teachers, ROWS))
    inputs: list[Tensor] = []

    def watched(layer: int, x: Tensor) -> Tensor:
        inputs.append(x)
        return found(layer, x)

    with torch.no_grad():
        tiny_encoder.embed(pack(ROWS.ids), watched)
        for layer, (x, output) in enumerate(zip(inputs, found.outputs, strict=True)):
            outputs = [teacher(layer, x).double() for teacher in teachers]
            mean = sum(float(w) * u for w, u in zip(shares, outputs, strict=True))
            assert isinstance(mean, Tensor)
            strength = sum(
                float(w) * float(u.square().mean().sqrt())
                for w, u in zip(shares, outputs, strict=True)
            )
            expected = mean * strength / float(mean.square().mean().sqrt())
            assert output.double() == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_one_teacher_is_its_own_mixture(tiny_encoder: Encoder) -> None:
    teacher = random_adapter(tiny_encoder, seed=1)
    mixture = mixture_of(tiny_encoder, [teacher], ROWS)
    found = tiny_encoder.embed_ids(ROWS.ids, mixture)
    assert torch.allclose(found, tiny_encoder.embed_ids(ROWS.ids, teacher), atol=1e-5)


def test_the_order_of_teachers_changes_nothing(tiny_encoder: Encoder) -> None:
    teachers = teachers_of(tiny_encoder, 4)
    one = tiny_encoder.embed_ids(ROWS.ids, mixture_of(tiny_encoder, teachers, ROWS))
    other = tiny_encoder.embed_ids(ROWS.ids, mixture_of(tiny_encoder, teachers[::-1], ROWS))
    assert torch.allclose(one, other, atol=1e-5)


def test_a_student_that_equals_the_only_teacher_has_no_distance(tiny_encoder: Encoder) -> None:
    teacher = random_adapter(tiny_encoder, seed=1)
    imitation = Imitation(tiny_encoder, teacher.copy(), teacher)
    loss = imitation(make_batch(ROWS, range(12)))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-5)
    assert teacher.down_weight.grad is None
    for parameter in imitation.student.parameters():
        assert parameter.grad is not None and float(parameter.grad.abs().max()) < 1e-5


def test_the_student_comes_close_to_the_mixture_and_teachers_stay_as_they_were(
    tiny_encoder: Encoder,
) -> None:
    teachers = teachers_of(tiny_encoder, 3)
    before = [state_digest(teacher) for teacher in teachers]
    student = merged_student(tiny_encoder, teachers, ROWS, bottleneck_size=6, seed=0)
    again = merged_student(tiny_encoder, teachers, ROWS, bottleneck_size=6, seed=0)
    assert state_digest(student) == state_digest(again)
    assert [state_digest(teacher) for teacher in teachers] == before
    mixture = mixture_of(tiny_encoder, teachers, ROWS)
    goal = tiny_encoder.embed_ids(ROWS.ids, mixture)
    bare = tiny_encoder.embed_ids(ROWS.ids)
    found = tiny_encoder.embed_ids(ROWS.ids, student)
    moved = 1 - float((bare * goal).sum(-1).mean())
    missed = 1 - float((found * goal).sum(-1).mean())
    assert missed < 0.4 * moved


def test_public_texts_are_the_samples_queries() -> None:
    texts = public_texts()
    assert len(texts) == len(set(texts)) > 500
    assert all(text.strip() for text in texts)
