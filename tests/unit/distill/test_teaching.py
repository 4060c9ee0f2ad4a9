"""Which teachers helped: attention by a loop over rows, absence by a fusion built without one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adapterdistill.adapters import AdapterStack, BottleneckAdapter, Fusion
from adapterdistill.backbone import Encoder, pack
from adapterdistill.checkpoint import pack_adapter
from adapterdistill.distill.adapter_distillation import AdapterDistillation
from adapterdistill.distill.folds import NUM_FOLDS
from adapterdistill.distill.method import OwnAdapter, Scored
from adapterdistill.distill.stage import StageSpec, run_stage, write_rows
from adapterdistill.distill.teaching import attention_mass, leave_one_out, teaching_of
from adapterdistill.distill.training import Schedule
from tests.separable_tenant import fold_stage, held_out_of, separable_rows, separable_stage
from tests.tiny_encoders import random_adapter

ROWS = separable_rows(4, seed=3)


def sharp_fusion() -> Fusion:
    """Away from the start, where attention is nearly even."""
    fusion = Fusion.new(2, 32, seed=0)
    with torch.no_grad():
        for name in ("query_weight", "key_weight"):
            getattr(fusion, name).mul_(10)
    return fusion


def teachers(encoder: Encoder, count: int) -> list[BottleneckAdapter]:
    return [random_adapter(encoder, seed=seed, scale=0.3) for seed in range(count)]


def objective_of(
    encoder: Encoder, adapters: list[BottleneckAdapter], fusion: Fusion
) -> AdapterDistillation:
    student = BottleneckAdapter.new(2, 32, 6, seed=0)
    return AdapterDistillation(encoder, student, AdapterStack.of(adapters), fusion)


def test_the_mass_is_the_mean_weight_over_tokens_and_layers(tiny_encoder: Encoder) -> None:
    fusion, stack = sharp_fusion(), AdapterStack.of(teachers(tiny_encoder, 3))
    found = attention_mass(tiny_encoder, fusion, stack, ROWS)
    weights = []
    for ids in ROWS.ids:

        def fused(layer: int, x: torch.Tensor) -> torch.Tensor:
            weights.append(fusion.attention(layer, x, stack).detach())
            return fusion(layer, x, stack)

        tiny_encoder.embed(pack([ids]), fused)
    assert sum(found) == pytest.approx(1.0, abs=1e-12)
    assert found == pytest.approx(torch.cat(weights).mean(0).tolist(), abs=1e-5)
    assert max(found) - min(found) > 0.02


@pytest.mark.parametrize("count", [1, 2, 4])
def test_leaving_one_out_equals_a_fusion_that_was_built_without_it(
    tiny_encoder: Encoder, count: int
) -> None:
    adapters, fusion, held_out = teachers(tiny_encoder, count), sharp_fusion(), held_out_of

    def nothing(layer: int, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)

    def score(chosen: list[BottleneckAdapter]) -> float:
        fused = objective_of(tiny_encoder, chosen, fusion).fused() if chosen else nothing
        return held_out(tiny_encoder)(fused)

    whole = objective_of(tiny_encoder, adapters, fusion)
    found = leave_one_out([Scored(whole, held_out(tiny_encoder))])
    expected = [score(adapters[:n] + adapters[n + 1 :]) - score(adapters) for n in range(count)]
    assert found == pytest.approx(expected, abs=1e-5)
    assert max(map(abs, found)) > 1e-3


def test_over_folds_the_change_is_that_of_the_mean_score(tiny_encoder: Encoder) -> None:
    adapters = teachers(tiny_encoder, 3)
    held_out = held_out_of(tiny_encoder)
    parts = [
        Scored(objective_of(tiny_encoder, adapters, fusion), held_out)
        for fusion in (sharp_fusion(), Fusion.new(2, 32, seed=5))
    ]
    each = [leave_one_out([part]) for part in parts]
    mean = [(one + other) / 2 for one, other in zip(*each, strict=True)]
    assert leave_one_out(parts) == pytest.approx(mean, abs=1e-6)
    assert leave_one_out([]) == ()


def test_a_stage_without_teachers_has_none_that_helped(tiny_encoder: Encoder) -> None:
    own = OwnAdapter(tiny_encoder, BottleneckAdapter.new(2, 32, 6, seed=0))
    scored = [Scored(own, held_out_of(tiny_encoder))]
    assert teaching_of(tiny_encoder, own, ROWS, scored) is None and leave_one_out(scored) == ()


@pytest.mark.parametrize("folds", [True, False])
def test_a_stage_tells_of_each_teacher_and_of_the_own_adapter(
    tmp_path: Path, tiny_encoder: Encoder, folds: bool
) -> None:
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
        initial=str(own),
        teachers=tuple(map(str, files)),
    )
    silent = run_stage(spec, tiny_encoder).teaching
    told = run_stage(replace(spec, leave_one_out=True), tiny_encoder).teaching
    assert silent is not None and told is not None
    assert silent.attention == told.attention and silent.leave_one_out == ()
    assert len(told.attention) == len(told.leave_one_out) == 3
    assert sum(told.attention) == pytest.approx(1.0) and min(told.attention) > 0
    assert any(told.leave_one_out)
