"""The composition and its imitation against formulas by hand; tests 2 to 5 of the method."""

import pytest
import torch
from torch import Tensor

from adapterdistill.adapters import AdapterStack, BottleneckAdapter
from adapterdistill.backbone import Encoder, pack
from adapterdistill.checkpoint import state_digest
from adapterdistill.distill.adapter_distillation import (
    FEATURE_WEIGHT,
    SHARPNESS,
    STRENGTH_ALONE,
    STRENGTH_BESIDE_OWN,
    AdapterDistillation,
    Composition,
    Mixture,
    distillation_of,
    imitation_rows,
    mixture_weights,
    public_texts,
)
from adapterdistill.distill.batches import TrainingRows, make_batch
from adapterdistill.distill.losses import feature_distance, prototype_loss, relation_distance
from adapterdistill.distill.method import Recording
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


def even_mixture(encoder: Encoder, *teachers: BottleneckAdapter) -> Mixture:
    shares = torch.full((len(teachers),), 1 / len(teachers))
    return Mixture(AdapterStack.of(teachers), shares, torch.ones(encoder.num_layers))


def test_the_composition_adds_the_mixture_to_the_own_adapter(tiny_encoder: Encoder) -> None:
    own, teacher = random_adapter(tiny_encoder, seed=1), random_adapter(tiny_encoder, seed=2)
    mixture = even_mixture(tiny_encoder, teacher)
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    for layer in range(2):
        both = Composition(mixture, own, 0.25)(layer, x)
        alone = Composition(mixture, None, 0.25)(layer, x)
        assert torch.allclose(both, own(layer, x) + 0.25 * teacher(layer, x), atol=1e-6)
        assert torch.allclose(alone, 0.25 * teacher(layer, x), atol=1e-6)


def test_where_no_own_adapter_was_trained_the_teachers_count_for_more(
    tiny_encoder: Encoder,
) -> None:
    teachers, own = teachers_of(tiny_encoder, 2), random_adapter(tiny_encoder, seed=5)
    alone = Composition.of(tiny_encoder, teachers, ROWS, own=None)
    beside = Composition.of(tiny_encoder, teachers, ROWS, own=own)
    assert (alone.strength, beside.strength) == (STRENGTH_ALONE, STRENGTH_BESIDE_OWN)
    assert STRENGTH_ALONE > STRENGTH_BESIDE_OWN > 0


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_composition_without_a_teacher_is_one_that_never_had_it(
    tiny_encoder: Encoder, count: int
) -> None:
    own = random_adapter(tiny_encoder, seed=9)
    teachers = teachers_of(tiny_encoder, count)
    whole = Composition.of(tiny_encoder, teachers, ROWS, own=own, strength=0.7)
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    for left_out in range(count):
        shares = [float(w) for n, w in enumerate(whole.mixture.weights) if n != left_out]
        others = [t for n, t in enumerate(teachers) if n != left_out]
        for layer in range(2):
            taught = sum(
                w / sum(shares) * teacher(layer, x)
                for w, teacher in zip(shares, others, strict=True)
            )
            expected = own(layer, x) + 0.7 * whole.mixture.scales[layer] * taught
            assert torch.allclose(whole.without(left_out)(layer, x), expected, atol=1e-5)


def test_a_student_that_equals_the_only_teacher_has_no_distance(tiny_encoder: Encoder) -> None:
    teacher = random_adapter(tiny_encoder, seed=1)
    composition = Composition(even_mixture(tiny_encoder, teacher), None, 1.0)
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
    composition = Composition(even_mixture(tiny_encoder, teacher), None, 1.0)
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
    composition = Composition.of(tiny_encoder, frozen[:3], ROWS, own=own, strength=1.0)
    objective = distillation_of(tiny_encoder, composition, bottleneck_size=6, seed=0)
    goal = tiny_encoder.embed_ids(ROWS.ids, objective.composition)

    def missed() -> float:
        found = tiny_encoder.embed_ids(ROWS.ids, objective.student)
        return 1 - float((found * goal).sum(-1).mean())

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
