"""Training on Ray Train's workers equals training in place, also when a worker dies."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adapterdistill.actors.training.loop import train_in_place, workers_of
from adapterdistill.actors.training.outcome import TrainingOutcome
from adapterdistill.actors.training.workers import TrainWorkers, _cause, train_on_workers, trainer
from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import pack_adapter, unpack_adapter
from adapterdistill.config import OnboardConfig
from adapterdistill.distill.folds import NUM_FOLDS, fold_file
from adapterdistill.distill.rows import write_rows
from adapterdistill.distill.stage import StageSpec, run_stage
from adapterdistill.distill.training import Schedule
from adapterdistill.distill.variants import unpack_variant
from adapterdistill.errors import PlacementError, TrainingError
from adapterdistill.sections import EncoderConfig
from tests.cluster.processes import kill_one
from tests.random_variants import VARIANTS
from tests.separable_tenant import fold_stage, held_out_of, separable_stage
from tests.tiny_encoders import random_adapter

pytestmark = pytest.mark.ray


@pytest.fixture
def spec(tmp_path: Path, tiny_encoder: Encoder) -> StageSpec:
    """Stage 2 with one teacher; 17 rows a step, so that two workers' shares differ."""
    write_rows(tmp_path / "rows.safetensors", separable_stage())
    teacher = random_adapter(tiny_encoder, seed=1, scale=0.1)
    (tmp_path / "teacher").write_bytes(pack_adapter(teacher, model_name="tiny"))
    return StageSpec(
        rows=str(tmp_path / "rows.safetensors"),
        bottleneck_size=4,
        schedule=Schedule(max_steps=6, batch_size=17, evaluate_every=3, learning_rate=5e-3),
        seed=2,
        method="adapter_distillation",
        teachers=(str(tmp_path / "teacher"),),
    )


def on_workers(
    spec: StageSpec,
    encoder: Path,
    adapter: Path,
    num_workers: int = 1,
    *,
    min_workers: int | None = None,
    resource: str | None = "owner:here",
    start_timeout_s: float = 300.0,
) -> TrainingOutcome:
    return train_on_workers(
        spec,
        EncoderConfig(name=str(encoder), dtype="float32"),
        adapter=adapter,
        run_folder=adapter.parent / "ray_train",
        workers=TrainWorkers(
            num_workers,
            min_workers or num_workers,
            use_gpu=False,
            resource=resource,
            start_timeout_s=start_timeout_s,
        ),
    )


def assert_same_adapter(one: Path, other: Path, *, within: float) -> None:
    pairs = zip(
        unpack_adapter(one.read_bytes()).parameters(),
        unpack_adapter(other.read_bytes()).parameters(),
        strict=True,
    )
    for left, right in pairs:
        torch.testing.assert_close(left, right, rtol=0, atol=within)


def test_two_workers_train_the_adapter_that_the_owner_would(
    ray_cluster: str,
    spec: StageSpec,
    tiny_encoder: Encoder,
    tiny_encoder_folder: Path,
    tmp_path: Path,
) -> None:
    here, there = tmp_path / "here.safetensors", tmp_path / "there.safetensors"
    in_place = train_in_place(spec, tiny_encoder, adapter=here)
    outcome = on_workers(spec, tiny_encoder_folder, there, num_workers=2)
    assert_same_adapter(here, there, within=1e-5)
    assert (outcome.steps, outcome.best_step) == (in_place.steps, in_place.best_step)
    assert outcome.held_out_score == pytest.approx(in_place.held_out_score, abs=1e-4)
    assert outcome.losses == pytest.approx(in_place.losses, abs=1e-4)
    adapter = unpack_adapter(there.read_bytes())
    assert held_out_of(tiny_encoder)(adapter) == pytest.approx(outcome.held_out_score, abs=1e-5)


def test_one_worker_that_is_killed_goes_on_at_its_checkpoint(
    ray_cluster: str,
    spec: StageSpec,
    tiny_encoder: Encoder,
    tiny_encoder_folder: Path,
    tmp_path: Path,
) -> None:
    write_rows(Path(spec.rows), fold_stage())
    schedule = replace(spec.schedule, max_steps=12, evaluate_every=1, patience=99)
    spec = replace(spec, schedule=schedule)
    here, there = tmp_path / "here.safetensors", tmp_path / "there.safetensors"
    in_place = train_in_place(spec, tiny_encoder, adapter=here)
    steps: list[int] = []
    run_stage(spec, tiny_encoder, checkpoint=lambda step, _: steps.append(step))
    found: list[TrainingOutcome] = []
    training = threading.Thread(
        target=lambda: found.append(on_workers(spec, tiny_encoder_folder, there)), daemon=True
    )
    training.start()
    seen: set[Path] = set()
    before = 0
    deadline = time.monotonic() + 300
    while training.is_alive():
        assert time.monotonic() < deadline
        seen.update((tmp_path / "ray_train").glob("*/checkpoint_*"))
        if not before and len(seen) >= len(steps) / 2:  # Ray Train notes each somewhat later
            assert not there.exists()
            kill_one("RayTrainWorker")
            before = len(seen)
        time.sleep(0.005)
    assert before < len(seen) < before + len(steps) - 1  # begun anew, it would make all again
    assert found[0].steps == 12 and found[0].best_step == in_place.best_step
    assert found[0].losses == pytest.approx(in_place.losses, abs=1e-4)
    assert_same_adapter(here, there, within=1e-5)
    for fold in range(NUM_FOLDS):
        assert_same_adapter(fold_file(here, fold), fold_file(there, fold), within=1e-5)

    # The same run once more has nothing left to train: it starts from the last checkpoint.
    there.unlink()
    again = on_workers(spec, tiny_encoder_folder, there)
    made = set((tmp_path / "ray_train").glob("*/checkpoint_*")) - seen
    assert len(made) <= 1
    assert (again.steps, again.losses) == (12, found[0].losses)
    assert_same_adapter(here, there, within=1e-5)


@contextmanager
def taken(cpus: float) -> Iterator[None]:
    """So much of the cluster is another's."""
    import ray

    others = ray.util.placement_group([{"CPU": cpus}])
    assert others.wait(30)
    try:
        yield
    finally:
        ray.util.remove_placement_group(others)


def test_one_worker_where_there_is_no_room_for_two_makes_the_form_that_the_owner_would(
    ray_cluster: str,
    spec: StageSpec,
    tiny_encoder: Encoder,
    tiny_encoder_folder: Path,
    tmp_path: Path,
) -> None:
    settings = VARIANTS["transformer"]
    spec = replace(
        spec,
        method=settings.kind,
        teachers=(),
        initial=spec.teachers[0],
        variant=settings.model_dump(mode="json"),
    )
    here, there = tmp_path / "here.safetensors", tmp_path / "there.safetensors"
    in_place = train_in_place(spec, tiny_encoder, adapter=here)
    with taken(cpus=1.2):  # a form would be refused by two workers
        outcome = on_workers(
            spec, tiny_encoder_folder, there, num_workers=2, min_workers=1, start_timeout_s=3
        )
    assert (outcome.steps, outcome.best_step) == (in_place.steps, in_place.best_step)
    assert outcome.losses == pytest.approx(in_place.losses, abs=1e-4)
    forms = [unpack_variant(file.read_bytes(), tiny_encoder) for file in (here, there)]
    states = [form.model.state_dict() for form in forms]
    torch.testing.assert_close(*states, rtol=0, atol=1e-5)


def test_workers_without_room_are_refused_with_what_they_lack(
    ray_cluster: str, spec: StageSpec, tiny_encoder_folder: Path, tmp_path: Path
) -> None:
    adapter = tmp_path / "a.safetensors"
    with pytest.raises(PlacementError, match=r"CPU: needs 4\.5 .*owner:here have 2, "):
        on_workers(spec, tiny_encoder_folder, adapter, num_workers=9)
    with pytest.raises(PlacementError, match=r"owner:nobody: needs 0\.001 .*the cluster has 0, "):
        on_workers(spec, tiny_encoder_folder, adapter, resource="owner:nobody")
    lacks = r"no room for 2 training workers within 1 s: CPU: needs 1 .* have 2, 0\.5 free$"
    with taken(cpus=1.5), pytest.raises(PlacementError, match=lacks):
        on_workers(spec, tiny_encoder_folder, adapter, num_workers=2, start_timeout_s=1)


@pytest.mark.parametrize(
    ("device", "use_gpu", "gpus"),
    [("cpu", False, 0), ("cuda", False, 1), ("cuda:0", False, 1), ("cpu", True, 1)],
)
def test_each_worker_has_a_gpu_if_asked_or_where_the_encoders_device_is_one(
    tmp_path: Path, device: str, use_gpu: bool, gpus: int
) -> None:
    config = OnboardConfig.model_validate(
        {
            "tenant": "here",
            "adapter": "a",
            "data": str(tmp_path),
            "workspace": str(tmp_path),
            "serving_store": str(tmp_path),
            "registry": {"address": "127.0.0.1:1"},
            "encoder": {"device": device},
            "training": {"num_workers": 3, "min_workers": 2, "use_gpu": use_gpu},
            "placement": {"resource": "owner:here"},
        }
    )
    workers = workers_of(config)
    assert (workers.num_workers, workers.min_workers) == (3, 2)
    made = trainer({"spec": "", "adapter": "a"}, workers, 2, tmp_path)
    scaling, failures = made.scaling_config, made.run_config.failure_config
    assert (scaling.num_workers, scaling.use_gpu) == (2, bool(gpus))
    assert scaling.total_resources == {"CPU": 1, "owner:here": 0.002} | (
        {"GPU": 2 * gpus} if gpus else {}
    )
    assert (failures.max_failures, failures.controller_failure_limit) == (2, 2)


def test_the_first_fault_of_a_training_is_said_without_rays_traceback() -> None:
    from ray.train import WorkerGroupError
    from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

    lost = UserExceptionWithTraceback(RuntimeError("a private row"), "Traceback: a private row")
    ours = UserExceptionWithTraceback(TrainingError("loss is not finite"), "Traceback: ...")
    both = WorkerGroupError("Traceback: ...", {0: lost, 1: ours})
    assert _cause(both) == "TrainingError: loss is not finite"
    assert _cause(WorkerGroupError("Traceback: ...", {0: lost})) == "RuntimeError"
    assert _cause(OSError("a private path")) == "OSError"
