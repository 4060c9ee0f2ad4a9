"""What the student imitates: the mixture and the fusion against formulas by hand."""

import pytest
import torch
from torch import Tensor

from adapterdistill.adapters import AdapterStack, BottleneckAdapter, Fusion
from adapterdistill.backbone import Encoder, pack
from adapterdistill.checkpoint import state_digest
from adapterdistill.distill.adapter_fusion import AdapterFusion
from adapterdistill.distill.batches import TrainingRows
from adapterdistill.distill.composition import (
    FUSION_RATE,
    FUSION_STEPS,
    FUSION_STRENGTH,
    OWN_STRENGTH,
    SHARPNESS,
    FusedTeachers,
    Mixture,
    mixture_weights,
)
from adapterdistill.distill.losses import prototype_loss
from adapterdistill.distill.objective import Recording
from adapterdistill.distill.training import Schedule, train
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
    found = Recording(Mixture.of(tiny_encoder, teachers, ROWS))
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
    mixture = Mixture.of(tiny_encoder, [teacher], ROWS)
    found = tiny_encoder.embed_ids(ROWS.ids, mixture)
    assert torch.allclose(found, tiny_encoder.embed_ids(ROWS.ids, teacher), atol=1e-5)


def test_the_order_of_teachers_changes_nothing(tiny_encoder: Encoder) -> None:
    teachers = teachers_of(tiny_encoder, 4)
    one = tiny_encoder.embed_ids(ROWS.ids, Mixture.of(tiny_encoder, teachers, ROWS))
    other = tiny_encoder.embed_ids(ROWS.ids, Mixture.of(tiny_encoder, teachers[::-1], ROWS))
    assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_mixture_without_a_teacher_is_one_that_never_had_it(
    tiny_encoder: Encoder, count: int
) -> None:
    teachers = teachers_of(tiny_encoder, count)
    whole = Mixture.of(tiny_encoder, teachers, ROWS)
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    for left_out in range(count):
        shares = [float(w) for n, w in enumerate(whole.shares) if n != left_out]
        others = [t for n, t in enumerate(teachers) if n != left_out]
        for layer in range(2):
            taught = sum(
                w / sum(shares) * teacher(layer, x)
                for w, teacher in zip(shares, others, strict=True)
            )
            expected = whole.scales[layer] * taught
            assert torch.allclose(
                whole.without(left_out)(layer, x), torch.as_tensor(expected), atol=1e-5
            )


def fused_of(encoder: Encoder, count: int) -> tuple[list[BottleneckAdapter], FusedTeachers]:
    teachers = teachers_of(encoder, count)
    own = random_adapter(encoder, seed=9, scale=0.2)
    return teachers, FusedTeachers.of(encoder, teachers, ROWS, own=own, seed=0)


def test_the_fused_teachers_are_adapter_fusion_trained_on_the_rows(tiny_encoder: Encoder) -> None:
    teachers, composed = fused_of(tiny_encoder, 3)
    expected = AdapterFusion(tiny_encoder, AdapterStack.of(teachers), Fusion.new(2, 32, seed=0))
    start = tiny_encoder.embed_ids(ROWS.ids, expected.deployed())
    schedule = Schedule(max_steps=FUSION_STEPS, learning_rate=FUSION_RATE)
    train(expected, ROWS, schedule, seed=0)
    assert state_digest(composed.fusion) == state_digest(expected.fusion)
    end = tiny_encoder.embed_ids(ROWS.ids, expected.deployed())
    losses = [float(prototype_loss(e, ROWS.labels).detach()) for e in (start, end)]
    assert losses[1] < losses[0]
    assert not any(p.requires_grad for p in composed.fusion.parameters())


def test_the_own_adapter_is_added_to_the_fusion(tiny_encoder: Encoder) -> None:
    _, composed = fused_of(tiny_encoder, 3)
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    for layer in range(2):
        fused = composed.fusion(layer, x, composed.stack)
        expected = FUSION_STRENGTH * fused + OWN_STRENGTH * composed.own(layer, x)
        assert torch.allclose(composed(layer, x), expected, atol=1e-6)


def test_the_same_arguments_compose_the_same_and_change_no_adapter(tiny_encoder: Encoder) -> None:
    adapters, one = fused_of(tiny_encoder, 2)
    before = [state_digest(adapter) for adapter in adapters]
    _, other = fused_of(tiny_encoder, 2)
    assert state_digest(one.fusion) == state_digest(other.fusion)
    assert torch.equal(one.shares, other.shares)
    assert [state_digest(adapter) for adapter in adapters] == before


def test_the_shares_of_a_fusion_are_its_mean_attention(tiny_encoder: Encoder) -> None:
    _, composed = fused_of(tiny_encoder, 3)
    sums, tokens = torch.zeros(3, dtype=torch.float64), 0

    def watched(layer: int, x: Tensor) -> Tensor:
        nonlocal tokens
        sums.add_(composed.fusion.attention(layer, x, composed.stack).double().sum(0))
        tokens += len(x)
        return composed.fusion(layer, x, composed.stack)

    with torch.no_grad():
        for ids in ROWS.ids:  # one by one: attention is by token, whatever the batch
            tiny_encoder.embed(pack([ids]), watched)
    assert composed.shares.double() == pytest.approx(sums / tokens, abs=1e-5)


def test_a_fusion_without_a_teacher_attends_to_the_others(tiny_encoder: Encoder) -> None:
    adapters, composed = fused_of(tiny_encoder, 3)
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    for left_out in range(3):
        others = AdapterStack.of([a for n, a in enumerate(adapters) if n != left_out])
        for layer in range(2):
            expected = FUSION_STRENGTH * composed.fusion(layer, x, others)
            expected = expected + OWN_STRENGTH * composed.own(layer, x)
            found = composed.without(left_out)
            assert torch.allclose(found(layer, x), expected, atol=1e-5)
            assert float(found.shares.sum()) == pytest.approx(1) and len(found.shares) == 2
