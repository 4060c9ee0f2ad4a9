"""Trains a stage on Ray Train's workers: starts as many as have room, resumes where they ended.

They run on the owner's node (they reserve a sliver of its resource), checkpoint each evaluation to
the owner's workspace, and resume from there, also where there is room for fewer than before: the
batch of a step, its order and its loss are the same for any number of workers. Rows reach them as
the path of a file.
"""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapterdistill import ray_private
from adapterdistill.actors.training.outcome import TrainingOutcome, write_payloads
from adapterdistill.actors.training.room import (
    cluster_nodes,
    room,
    wait_for_room,
    what_lacks,
    worker_resources,
)
from adapterdistill.backbone import load_configured
from adapterdistill.distill.stage import StageSpec, run_stage
from adapterdistill.distill.training import Workers
from adapterdistill.errors import AdapterDistillError, PlacementError, TrainingError
from adapterdistill.files import keep_private, write_atomically
from adapterdistill.manifest import sha256_hex
from adapterdistill.sections import EncoderConfig

_CHECKPOINT = "state.safetensors"
_RETRIES = 2
"""Retries after workers that died and, apart from those, after workers that did not start."""


@dataclass(frozen=True)
class TrainWorkers:
    """The Ray Train workers of one stage."""

    num_workers: int
    min_workers: int
    """Smallest number to continue with if there is no room for more."""
    use_gpu: bool
    resource: str | None
    start_timeout_s: float
    threads: int = 1

    @property
    def each(self) -> dict[str, float]:
        """Resources that each worker takes of a node."""
        return worker_resources(use_gpu=self.use_gpu, owner=self.resource)


def train_on_workers(
    spec: StageSpec,
    encoder: EncoderConfig,
    *,
    adapter: Path,
    run_folder: Path,
    workers: TrainWorkers,
) -> TrainingOutcome:
    """Train under Ray Train; called on the owner's node, from which the controller runs.

    Args:
        run_folder: owner-local folder of Ray Train's checkpoints.

    Raises:
        PlacementError: the cluster lacks the room that the workers need.
        TrainingError: the training failed.
    """
    from ray.train import ControllerError

    # Ray waits so long at each of its attempts to place workers.
    attempt_s = workers.start_timeout_s / (1 + _RETRIES)
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(attempt_s)
    # A worker continues after a checkpoint when Ray next looks, by default after 2 s.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    outcome = adapter.with_suffix(".outcome.json")
    outcome.unlink(missing_ok=True)
    loop_config = {
        "spec": spec.to_json(),
        "encoder": encoder.model_dump(),
        "use_gpu": workers.use_gpu,
        "threads": workers.threads,
        "adapter": str(adapter),
        "outcome": str(outcome),
    }
    most = workers.num_workers
    while not outcome.exists():
        count = wait_for_room(
            workers.each,
            most=most,
            fewest=workers.min_workers,
            timeout_s=workers.start_timeout_s,
            nodes=cluster_nodes,
        )
        try:
            trainer(loop_config, workers, count, run_folder).fit()
        except Exception as error:
            failed = error.controller_failure if isinstance(error, ControllerError) else None
            if not ray_private.is_startup_timeout(failed):
                raise TrainingError(f"Ray Train failed: {_cause(error)}") from error
            # Another took the room, perhaps that of workers that died: continue with fewer.
            now = cluster_nodes()
            if count == workers.min_workers:
                lacks = (
                    what_lacks(now, workers.each, count)
                    or "another job took it, and has left it since"
                )
                raise PlacementError(
                    f"Ray Train found no room for {count} workers within "
                    f"{workers.start_timeout_s:g} s: {lacks}"
                ) from error
            fit = min(count - 1, room([node.free for node in now], workers.each))
            most = max(workers.min_workers, fit)
            continue
        if not outcome.exists():
            raise TrainingError("Ray Train ended without a result")
    return TrainingOutcome.model_validate_json(outcome.read_bytes())


def trainer(
    loop_config: dict[str, Any], workers: TrainWorkers, count: int, run_folder: Path
) -> Any:
    """The `TorchTrainer` of `count` workers.

    Its name is the stage's, for any number of workers, so that it resumes where another number of
    workers ended.
    """
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    digest = sha256_hex(loop_config["spec"].encode())
    return TorchTrainer(
        train_loop,
        train_loop_config=loop_config,
        scaling_config=ScalingConfig(
            num_workers=count, use_gpu=workers.use_gpu, resources_per_worker=workers.each
        ),
        run_config=RunConfig(
            name=f"{Path(loop_config['adapter']).stem}-{digest[:12]}",
            storage_path=str(run_folder),
            # Typed as Ray's older class, which has no such limit; without it Ray retries forever.
            failure_config=FailureConfig(
                max_failures=_RETRIES,
                controller_failure_limit=_RETRIES,  # type: ignore[call-arg]
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )


def _cause(error: BaseException) -> str:
    """The first failure: its type and, if it is one of ours, its message. Others may quote rows."""
    whole = getattr(error, "controller_failure", None) or error.__cause__ or error
    failures = getattr(error, "worker_failures", None) or {0: whole}
    raised = [ray_private.raised_by_worker(failures[rank]) for rank in sorted(failures)]
    # One worker's fault makes the others lose their connection to it.
    first = next((one for one in raised if isinstance(one, AdapterDistillError)), raised[0])
    name = type(first).__name__
    return f"{name}: {first}" if isinstance(first, AdapterDistillError) else name


def train_loop(config: dict[str, Any]) -> None:
    """The loop that each Ray Train worker runs."""
    import ray.train.torch
    import torch

    keep_private()
    context = ray.train.get_context()
    workers = Workers(rank=context.get_world_rank(), world_size=context.get_world_size())
    spec = StageSpec.from_json(config["spec"])
    options = EncoderConfig(**config["encoder"])
    if config["use_gpu"]:
        device = str(ray.train.torch.get_device())
        options = options.model_copy(update={"device": device})
    torch.set_num_threads(config["threads"])
    encoder = load_configured(options)
    trained = run_stage(
        spec, encoder, workers=workers, checkpoint=_reporter(workers), resume=_last_checkpoint()
    )
    if workers.rank == 0:
        write_payloads(trained, encoder, Path(config["adapter"]))
        write_atomically(Path(config["outcome"]), TrainingOutcome.of(trained).canonical_json())


def _reporter(workers: Workers) -> Callable[[int, bytes], None]:
    import ray.train

    def report(step: int, state: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            kept = None
            if workers.rank == 0:
                (Path(folder) / _CHECKPOINT).write_bytes(state)
                kept = ray.train.Checkpoint.from_directory(folder)
            ray.train.report({"step": step}, checkpoint=kept)

    return report


def _last_checkpoint() -> bytes | None:
    import ray.train

    kept = ray.train.get_checkpoint()
    if kept is None:
        return None
    with kept.as_directory() as folder:
        return (Path(folder) / _CHECKPOINT).read_bytes()
