"""Training in the owner's process: resumed after a kill it ends the same."""

from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from adapterdistill.actors.training.loop import train_in_place
from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import pack_adapter, unpack_adapter
from adapterdistill.distill.adapter_distillation import AdapterDistillation
from adapterdistill.distill.batches import Batch
from adapterdistill.distill.folds import NUM_FOLDS
from adapterdistill.distill.rows import write_rows
from adapterdistill.distill.stage import StageSpec
from adapterdistill.distill.training import Schedule
from tests.separable_tenant import fold_stage, held_out_of, separable_stage
from tests.tiny_encoders import random_adapter


class Killed(BaseException):
    pass


@pytest.fixture
def spec(tmp_path: Path, tiny_encoder: Encoder) -> StageSpec:
    write_rows(tmp_path / "rows.safetensors", separable_stage())
    teacher = random_adapter(tiny_encoder, seed=1, scale=0.1)
    (tmp_path / "teacher").write_bytes(pack_adapter(teacher, model_name="tiny"))
    return StageSpec(
        rows=str(tmp_path / "rows.safetensors"),
        bottleneck_size=4,
        schedule=Schedule(max_steps=9, batch_size=12, evaluate_every=3, learning_rate=5e-3),
        seed=2,
        method="adapter_distillation",
        teachers=(str(tmp_path / "teacher"),),
    )


def killed_at(step: int, spec: StageSpec, encoder: Encoder, adapter: Path) -> None:
    def kill(at: int, *_: object) -> None:
        if at == step:
            raise Killed

    with pytest.raises(Killed):
        train_in_place(spec, encoder, adapter=adapter, progress=kill)


@pytest.mark.parametrize("step", [1, 3, 5, 6, 9])
@pytest.mark.parametrize(
    "method", ["averaged_teachers", "adapter_distillation", "attention_distillation", None]
)
def test_killed_at_any_step_it_ends_as_if_it_had_not_been(
    spec: StageSpec, tiny_encoder: Encoder, tmp_path: Path, step: int, method: str | None
) -> None:
    initial = spec.teachers[0] if method == "averaged_teachers" else None
    spec = replace(spec, method=method, teachers=spec.teachers if method else (), initial=initial)
    whole = train_in_place(spec, tiny_encoder, adapter=tmp_path / "whole" / "a.safetensors")
    adapter = tmp_path / "killed" / "a.safetensors"
    killed_at(step, spec, tiny_encoder, adapter)
    assert not adapter.exists()
    steps: list[int] = []
    resumed = train_in_place(
        spec, tiny_encoder, adapter=adapter, progress=lambda at, *_: steps.append(at)
    )
    assert adapter.read_bytes() == (tmp_path / "whole" / "a.safetensors").read_bytes()
    assert steps == list(range(step // 3 * 3 + 1, 10))
    assert (resumed.best_step, resumed.held_out_score) == (whole.best_step, whole.held_out_score)
    assert resumed.losses == whole.losses
    assert [p.name for p in adapter.parent.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("last", [1, 6, 8, 9, 10, 13, 18])
def test_killed_in_the_folds_or_after_them_it_leaves_the_same_adapters(
    spec: StageSpec, tiny_encoder: Encoder, tmp_path: Path, last: int
) -> None:
    write_rows(Path(spec.rows), fold_stage())
    spec = replace(spec, leave_one_out=True)
    whole = train_in_place(spec, tiny_encoder, adapter=tmp_path / "whole" / "a.safetensors")
    assert whole.steps == whole.best_step == 9  # of the folds, and then of the whole
    adapter, steps = tmp_path / "killed" / "a.safetensors", 0

    def kill(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == last:
            raise Killed

    with pytest.raises(Killed):
        train_in_place(spec, tiny_encoder, adapter=adapter, progress=kill)
    resumed = train_in_place(spec, tiny_encoder, adapter=adapter, progress=kill)
    # The folds are kept every third step, the whole is trained again.
    assert steps == last + 18 - min(last // 3 * 3, 9)
    files = {p.name: p.read_bytes() for p in adapter.parent.iterdir()}
    folds = [f"a.fold{fold}.safetensors" for fold in range(NUM_FOLDS)]
    assert sorted(files) == [*folds, "a.safetensors"]
    assert files == {p.name: p.read_bytes() for p in (tmp_path / "whole").iterdir()}
    assert len(set(files.values())) == 1 + NUM_FOLDS
    same = {"seconds": 0, "peak_rss_mb": 0}
    assert resumed.model_copy(update=same) == whole.model_copy(update=same)


def test_killed_between_two_folds_of_a_step_it_ends_as_if_it_had_not_been(
    spec: StageSpec, tiny_encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(Path(spec.rows), fold_stage())
    train_in_place(spec, tiny_encoder, adapter=tmp_path / "whole" / "a.safetensors")
    adapter, forward, calls = tmp_path / "a.safetensors", AdapterDistillation.forward, 0

    def kill(objective: AdapterDistillation, batch: Batch) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 4 * NUM_FOLDS + 2:  # of the fifth step's first fold comes the second
            raise Killed
        return forward(objective, batch)

    with monkeypatch.context() as patch:
        patch.setattr(AdapterDistillation, "forward", kill)
        with pytest.raises(Killed):
            train_in_place(spec, tiny_encoder, adapter=adapter)
    train_in_place(spec, tiny_encoder, adapter=adapter)
    assert adapter.read_bytes() == (tmp_path / "whole" / "a.safetensors").read_bytes()


def test_the_adapter_has_the_score_that_is_told(
    spec: StageSpec, tiny_encoder: Encoder, tmp_path: Path
) -> None:
    outcome = train_in_place(spec, tiny_encoder, adapter=tmp_path / "a.safetensors")
    adapter = unpack_adapter((tmp_path / "a.safetensors").read_bytes())
    assert held_out_of(tiny_encoder)(adapter) == pytest.approx(outcome.held_out_score, abs=1e-6)
    assert outcome.steps == 9 and outcome.peak_rss_mb > 50


def test_a_damaged_checkpoint_starts_the_stage_anew(
    spec: StageSpec, tiny_encoder: Encoder, tmp_path: Path
) -> None:
    train_in_place(spec, tiny_encoder, adapter=tmp_path / "whole.safetensors")
    adapter = tmp_path / "killed" / "whole.safetensors"
    killed_at(6, spec, tiny_encoder, adapter)
    (state,) = adapter.parent.glob("*.state")
    state.write_bytes(state.read_bytes()[:100])
    train_in_place(spec, tiny_encoder, adapter=adapter)
    assert adapter.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_another_stage_does_not_take_up_the_checkpoint(
    spec: StageSpec, tiny_encoder: Encoder, tmp_path: Path
) -> None:
    adapter = tmp_path / "killed" / "a.safetensors"
    killed_at(6, spec, tiny_encoder, adapter)
    steps: list[int] = []
    train_in_place(
        replace(spec, seed=3),
        tiny_encoder,
        adapter=adapter,
        progress=lambda at, *_: steps.append(at),
    )
    assert steps[0] == 1
