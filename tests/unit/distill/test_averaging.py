"""The averaged teachers against layers worked out by hand."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder, pack
from adapterdistill.checkpoint import pack_adapter, state_digest
from adapterdistill.distill.averaging import (
    MOST_SCALE,
    OWN_RATE,
    OWN_STEPS,
    AverageTeachers,
    MovedAverage,
    averaged_teachers,
    own_share,
    rescale,
    weighted_average,
)
from adapterdistill.distill.batches import TrainingRows
from adapterdistill.distill.composition import mixture_weights
from adapterdistill.distill.folds import fold_file
from adapterdistill.distill.objective import OwnAdapter, Recording
from adapterdistill.distill.rows import StageRows, write_rows
from adapterdistill.distill.stage import StageSpec, run_stage
from adapterdistill.distill.training import Schedule, train
from tests.separable_tenant import fold_stage, separable_rows, separable_stage
from tests.tiny_encoders import random_adapter

ROWS = separable_rows(3, seed=1)


def teachers_of(encoder: Encoder, count: int) -> list[BottleneckAdapter]:
    return [random_adapter(encoder, seed=seed, scale=0.2) for seed in range(count)]


def rms(x: Tensor) -> float:
    return float(x.detach().double().square().mean().sqrt())


def test_every_weight_is_the_weighted_sum(tiny_encoder: Encoder) -> None:
    teachers, weights = teachers_of(tiny_encoder, 3), torch.tensor([0.5, 0.3, 0.2])
    average = weighted_average(teachers, weights)
    for name, part in average.named_parameters():
        expected = sum(
            float(w) * dict(t.named_parameters())[name]
            for w, t in zip(weights, teachers, strict=True)
        )
        torch.testing.assert_close(part, expected)


def test_a_narrower_teacher_counts_as_one_with_zero_units(tiny_encoder: Encoder) -> None:
    shape = tiny_encoder.num_layers, tiny_encoder.hidden_size
    wide = BottleneckAdapter.new(*shape, 8, seed=0)
    narrow = BottleneckAdapter.new(*shape, 3, seed=1)
    average = weighted_average([wide, narrow], torch.tensor([0.25, 0.75]))
    assert average.bottleneck_size == 8
    torch.testing.assert_close(
        average.down_weight[:, :3], 0.25 * wide.down_weight[:, :3] + 0.75 * narrow.down_weight
    )
    torch.testing.assert_close(average.down_weight[:, 3:], 0.25 * wide.down_weight[:, 3:])
    torch.testing.assert_close(average.up_weight[..., 3:], 0.25 * wide.up_weight[..., 3:])


def test_each_layer_is_as_strong_as_the_teachers_on_its_own_input(tiny_encoder: Encoder) -> None:
    teachers = teachers_of(tiny_encoder, 5)
    average = weighted_average(teachers, torch.full((5,), 0.2))
    rescale(tiny_encoder, average, teachers, ROWS)
    seen: list[Tensor] = []

    def watched(layer: int, x: Tensor) -> Tensor:
        seen.append(x)
        return average(layer, x)

    found = Recording(watched)
    tiny_encoder.embed(pack(ROWS.ids), found)
    for layer, (x, output) in enumerate(zip(seen, found.outputs, strict=True)):
        expected = sum(rms(teacher(layer, x)) for teacher in teachers) / 5
        assert rms(output) == pytest.approx(expected, rel=1e-4)


def test_the_average_of_one_teacher_is_that_teacher(tiny_encoder: Encoder) -> None:
    teacher = random_adapter(tiny_encoder, seed=0, scale=0.2)
    average, shares = averaged_teachers(tiny_encoder, [teacher], ROWS)
    assert shares.tolist() == [1.0]
    for mine, theirs in zip(average.parameters(), teacher.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_teachers_that_cancel_out_are_not_blown_up(tiny_encoder: Encoder) -> None:
    teacher = random_adapter(tiny_encoder, seed=0, scale=0.2)
    opposite = teacher.copy()
    with torch.no_grad():
        opposite.up_weight *= -0.999
        opposite.up_bias *= -0.999
    average = weighted_average([teacher, opposite], torch.tensor([0.5, 0.5]))
    before = average.up_weight.detach().clone()
    rescale(tiny_encoder, average, [teacher, opposite], ROWS)
    torch.testing.assert_close(average.up_weight.detach(), MOST_SCALE * before)


def test_the_average_weighs_teachers_by_how_they_rank_the_rows(tiny_encoder: Encoder) -> None:
    teachers = teachers_of(tiny_encoder, 4)
    found, shares = averaged_teachers(tiny_encoder, teachers, ROWS)
    weights = mixture_weights(tiny_encoder, teachers, ROWS)
    expected = weighted_average(teachers, weights)
    torch.testing.assert_close(shares, weights)
    assert float(shares.sum()) == pytest.approx(1.0)
    torch.testing.assert_close(found.down_weight, expected.down_weight)


@pytest.mark.parametrize("rows_per_faq", [1, 2, 6, 30])
def test_the_more_rows_an_faq_has_the_further_they_move_the_average(rows_per_faq: int) -> None:
    rows = TrainingRows([[1]] * 2 * rows_per_faq, torch.tensor([3, 8] * rows_per_faq))
    assert own_share(rows) == pytest.approx(rows_per_faq / (rows_per_faq + 6))


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_own_rows_move_the_average_by_a_share_of_the_way(
    tiny_encoder: Encoder, share: float
) -> None:
    average = random_adapter(tiny_encoder, seed=0, scale=0.2)
    before = state_digest(average)
    moved, trained = (
        MovedAverage(tiny_encoder, average.copy(), share),
        OwnAdapter(tiny_encoder, average.copy()),
    )
    for objective in (moved, trained):
        train(objective, ROWS, Schedule(max_steps=OWN_STEPS, learning_rate=OWN_RATE), seed=3)
    assert state_digest(average) == before
    assert state_digest(trained.student) != before
    for mine, start, end in zip(
        moved.deployed().parameters(),
        average.parameters(),
        trained.student.parameters(),
        strict=True,
    ):
        torch.testing.assert_close(mine, (1 - share) * start + share * end)


def spec_of(folder: Path, encoder: Encoder, rows: StageRows, *, labelled: bool) -> StageSpec:
    write_rows(folder / "rows.safetensors", rows)
    average = folder / "averaged.safetensors"
    payload = pack_adapter(random_adapter(encoder, seed=0, scale=0.2), model_name="tiny")
    for file in (average, fold_file(average, 0), fold_file(average, 1)):
        file.write_bytes(payload)
    schedule = Schedule(max_steps=7, batch_size=12, evaluate_every=2)
    return StageSpec(
        rows=str(folder / "rows.safetensors"),
        bottleneck_size=4,
        schedule=AverageTeachers().schedule(schedule, labelled=labelled),
        seed=2,
        method="averaged_teachers",
        initial=str(average),
    )


def test_nothing_is_trained_without_labelled_rows(tmp_path: Path, tiny_encoder: Encoder) -> None:
    none = TrainingRows([], ROWS.labels[:0])
    rows = StageRows(ROWS, none, none, 6)
    found = run_stage(spec_of(tmp_path, tiny_encoder, rows, labelled=False), tiny_encoder)
    average = random_adapter(tiny_encoder, seed=0, scale=0.2)
    assert isinstance(found.student, BottleneckAdapter) and found.result.steps == 0
    for mine, expected in zip(found.student.parameters(), average.parameters(), strict=True):
        torch.testing.assert_close(mine, expected)


@pytest.mark.parametrize("rows", [separable_stage(), fold_stage()], ids=["held out", "folds"])
def test_the_steps_are_fixed_whatever_the_held_out_rows_say(
    tmp_path: Path, tiny_encoder: Encoder, rows: StageRows
) -> None:
    found = run_stage(spec_of(tmp_path, tiny_encoder, rows, labelled=True), tiny_encoder)
    assert found.result.steps == found.result.best_step == OWN_STEPS
    folds = [state_digest(fold) for fold in found.folds if isinstance(fold, BottleneckAdapter)]
    assert len(set(folds)) == len(found.folds) == (0 if rows.folds is None else 2)
    assert isinstance(found.student, BottleneckAdapter)
    assert state_digest(found.student) not in folds


def test_teachers_stay_byte_identical_and_results_repeat(tiny_encoder: Encoder) -> None:
    teachers = teachers_of(tiny_encoder, 3)
    before = [state_digest(teacher) for teacher in teachers]
    first, _ = averaged_teachers(tiny_encoder, teachers, ROWS)
    assert [state_digest(teacher) for teacher in teachers] == before
    again, _ = averaged_teachers(tiny_encoder, teachers, ROWS)
    assert state_digest(again) == state_digest(first)
    assert state_digest(first) not in before


def test_averaging_needs_teachers_of_one_shape_and_a_row(tiny_encoder: Encoder) -> None:
    with pytest.raises(ValueError, match="need one shape"):
        weighted_average([], torch.zeros(0))
    other = BottleneckAdapter.new(tiny_encoder.num_layers, 4, 2, seed=0)
    with pytest.raises(ValueError, match="need one shape"):
        weighted_average([random_adapter(tiny_encoder, seed=0), other], torch.tensor([0.5, 0.5]))
    with pytest.raises(ValueError, match="needs a row"):
        averaged_teachers(
            tiny_encoder, teachers_of(tiny_encoder, 1), TrainingRows([], torch.zeros(0).long())
        )
