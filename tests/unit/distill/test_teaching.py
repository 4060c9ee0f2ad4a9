"""Which teachers helped: their shares, and the held-out score without each by hand."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import pack_adapter
from adapterdistill.distill.adapter_distillation import (
    AdapterDistillation,
    DistilTeachers,
    leave_one_out,
)
from adapterdistill.distill.composition import Composition, FusedTeachers, Mixture
from adapterdistill.distill.folds import NUM_FOLDS
from adapterdistill.distill.method import OWN_ADAPTER
from adapterdistill.distill.objective import HeldOut, OwnAdapter, Scored
from adapterdistill.distill.rows import write_rows
from adapterdistill.distill.stage import StageSpec, run_stage
from adapterdistill.distill.training import Schedule
from tests.separable_tenant import fold_stage, held_out_of, separable_rows, separable_stage
from tests.tiny_encoders import random_adapter

ROWS = separable_rows(4, seed=3)


def composition_of(encoder: Encoder, count: int) -> Composition:
    teachers = [random_adapter(encoder, seed=seed, scale=0.3) for seed in range(count)]
    return Mixture.of(encoder, teachers, ROWS)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_leaving_one_out_is_the_change_of_the_held_out_score(
    tiny_encoder: Encoder, count: int
) -> None:
    whole, score = composition_of(tiny_encoder, count), held_out_of(tiny_encoder)
    found = leave_one_out([(whole, score)])
    assert found == pytest.approx([score(whole.without(n)) - score(whole) for n in range(count)])
    assert max(map(abs, found)) > 1e-3
    if count == 1:
        assert found[0] == pytest.approx(score(lambda _, x: torch.zeros_like(x)) - score(whole))


def test_over_folds_the_change_is_that_of_the_mean_score(tiny_encoder: Encoder) -> None:
    score = held_out_of(tiny_encoder)
    teachers = [random_adapter(tiny_encoder, seed=seed, scale=0.3) for seed in range(3)]
    composed = (
        Mixture.of(tiny_encoder, teachers, ROWS),
        FusedTeachers.of(tiny_encoder, teachers, ROWS, own=teachers[0], seed=0),
    )
    stages: list[tuple[Composition, HeldOut]] = [(composition, score) for composition in composed]
    each = [leave_one_out([stage]) for stage in stages]
    mean = [(one + other) / 2 for one, other in zip(*each, strict=True)]
    assert leave_one_out(stages) == pytest.approx(mean, abs=1e-6)
    assert leave_one_out([]) == ()


def test_a_stage_without_teachers_has_none_that_helped(tiny_encoder: Encoder) -> None:
    own = OwnAdapter(tiny_encoder, BottleneckAdapter.new(2, 32, 6, seed=0))
    assert OWN_ADAPTER.teaching(own, [Scored(own, held_out_of(tiny_encoder))]) is None


def test_the_shares_are_those_of_the_composition(tiny_encoder: Encoder) -> None:
    composition = composition_of(tiny_encoder, 3)
    student = BottleneckAdapter.new(2, 32, 6, seed=0)
    objective = AdapterDistillation(tiny_encoder, student, composition)
    found = DistilTeachers().teaching(objective, [])
    assert found.leave_one_out == ()
    assert found.weights == pytest.approx(composition.shares.tolist())


@pytest.mark.parametrize("folds", [True, False])
def test_a_stage_tells_of_each_teacher(tmp_path: Path, tiny_encoder: Encoder, folds: bool) -> None:
    write_rows(tmp_path / "rows", fold_stage() if folds else separable_stage())
    files = [tmp_path / f"{n}.safetensors" for n in (0, 1)]
    own = tmp_path / "own.safetensors"
    starts = [own.with_name(f"own.fold{fold}.safetensors") for fold in range(NUM_FOLDS)]
    for seed, file in enumerate([*files, own, *starts]):
        adapter = random_adapter(tiny_encoder, seed=seed, scale=0.2)
        file.write_bytes(pack_adapter(adapter, model_name="test"))
    spec = StageSpec(
        rows=str(tmp_path / "rows"),
        bottleneck_size=4,
        schedule=Schedule(max_steps=2, batch_size=12, evaluate_every=2),
        seed=0,
        method="adapter_distillation",
        initial=str(own),
        teachers=tuple(map(str, files)),
    )
    silent = run_stage(spec, tiny_encoder).teaching
    told = run_stage(replace(spec, leave_one_out=True), tiny_encoder).teaching
    assert silent is not None and told is not None
    assert silent.weights == told.weights and silent.leave_one_out == ()
    assert len(told.weights) == len(told.leave_one_out) == 2
    assert sum(told.weights) == pytest.approx(1.0) and min(told.weights) > 0
    assert any(told.leave_one_out)
