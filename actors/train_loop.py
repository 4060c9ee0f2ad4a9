"""Runs a training stage in place or under Ray Train: the same loop, the same result.

With `num_workers` 0 the stage runs in the calling process. Otherwise Ray Train's workers run it
on the owner's node (they reserve a sliver of its resource), checkpoint each evaluation to the
owner's workspace, and resume from there. Rows reach the workers as the path of a file.
"""

import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError

from actors.files import write_atomically
from adapterdistill.backbone import Encoder, load_encoder
from adapterdistill.config import OnboardConfig
from adapterdistill.distill.folds import fold_file
from adapterdistill.distill.method import Progress
from adapterdistill.distill.stage import StageSpec, TrainedStage, pack_trained, run_stage
from adapterdistill.distill.training import Workers
from adapterdistill.errors import AdapterDistillError, PlacementError, TrainingError
from adapterdistill.manifest import Metric, Record, canonical_json, sha256_hex

RESOURCE_SLIVER = 0.001
_CHECKPOINT = "state.safetensors"


class Outcome(Record):
    """What a training stage reports; the adapters are in the files that the caller named."""

    best_step: int
    steps: int
    held_out_score: float | None
    losses: tuple[float, ...]
    weights: tuple[float, ...]
    leave_one_out: tuple[float, ...]
    """As in `Teaching`; empty without teachers."""
    tasks: dict[str, dict[str, Metric]]
    """As in `TrainedStage`."""
    seconds: float
    peak_rss_mb: float

    @classmethod
    def of(cls, trained: TrainedStage) -> "Outcome":
        result, teaching = trained.result, trained.teaching
        return cls(
            best_step=result.best_step,
            steps=result.steps,
            held_out_score=result.best_score,
            losses=tuple(result.losses),
            weights=() if teaching is None else teaching.weights,
            leave_one_out=() if teaching is None else teaching.leave_one_out,
            tasks={name: dict(scores) for name, scores in trained.tasks.items()},
            seconds=round(result.seconds, 3),
            peak_rss_mb=peak_rss_mb(),
        )


@dataclass(frozen=True)
class TrainWorkers:
    """The Ray Train workers of one stage."""

    num_workers: int
    use_gpu: bool
    resource: str | None
    start_timeout_s: float
    threads: int = 1


def peak_rss_mb() -> float:
    """This process's peak resident memory, MiB (Linux reports KiB)."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def train_stage(
    name: str, spec: StageSpec, encoder: Encoder, config: OnboardConfig, *, adapter: Path
) -> Outcome:
    """Train as the run's settings say, in place or on workers.

    `adapter` receives the payload, and the folds' go beside it (`fold_file`).
    """
    t = config.training
    if t.num_workers == 0:
        return train_in_place(spec, encoder, adapter=adapter, progress=_printer(name))
    run_folder = adapter.parent / "ray_train"
    outcome = train_on_workers(
        spec,
        config.encoder.model_dump(),
        adapter=adapter,
        run_folder=run_folder,
        workers=TrainWorkers(
            t.num_workers, t.use_gpu, config.placement.resource, t.start_timeout_s, t.threads
        ),
    )
    shutil.rmtree(run_folder, ignore_errors=True)
    return outcome


def _printer(stage: str) -> Progress:
    """Progress lines at each held-out score: numbers only, they reach the job's log.

    On stderr: stdout may be the report as JSON.
    """

    def line(step: int, steps: int, loss: float, score: float | None) -> None:
        if score is not None or step == steps or step == 1:
            scored = "" if score is None else f", held-out score {score:.4f}"
            print(
                f"{stage}: step {step}/{steps}, loss {loss:.4f}{scored}",
                file=sys.stderr,
                flush=True,
            )

    return line


def train_in_place(
    spec: StageSpec, encoder: Encoder, *, adapter: Path, progress: Progress | None = None
) -> Outcome:
    """Train in this process; `adapter` receives the payload. Resumes at the last checkpoint."""
    kept = adapter.with_name(f"{adapter.stem}-{sha256_hex(spec.to_json().encode())[:12]}.state")

    def checkpoint(step: int, state: bytes) -> None:
        write_atomically(kept, state)

    resume = _readable_state(kept)
    trained = run_stage(spec, encoder, checkpoint=checkpoint, resume=resume, progress=progress)
    _write_payloads(trained, encoder, adapter)
    kept.unlink(missing_ok=True)
    return Outcome.of(trained)


def _write_payloads(trained: TrainedStage, encoder: Encoder, adapter: Path) -> None:
    for number, fold in enumerate(trained.folds):
        write_atomically(fold_file(adapter, number), pack_trained(fold, encoder))
    write_atomically(adapter, pack_trained(trained.student, encoder))


def _readable_state(path: Path) -> bytes | None:
    """The checkpoint, None if there is none or it is damaged: then the stage starts anew."""
    if not path.exists():
        return None
    state = path.read_bytes()
    try:
        safetensors.torch.load(state)
    except SafetensorError:
        return None
    return state


def train_on_workers(
    spec: StageSpec,
    encoder: dict[str, Any],
    *,
    adapter: Path,
    run_folder: Path,
    workers: TrainWorkers,
) -> Outcome:
    """Train under Ray Train; called on the owner's node, from which the controller runs.

    Args:
        encoder: keyword arguments of `load_encoder`.
        run_folder: owner-local folder of Ray Train's checkpoints.

    Raises:
        PlacementError: the cluster has not the resources that the workers need.
        TrainingError: the training failed.
    """
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(workers.start_timeout_s))
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    per_worker: dict[str, float] = {"CPU": 0.5}
    if workers.use_gpu:
        per_worker["GPU"] = 1
    if workers.resource is not None:
        per_worker[workers.resource] = RESOURCE_SLIVER
    require_resources({name: n * workers.num_workers for name, n in per_worker.items()})
    outcome = adapter.with_suffix(".outcome.json")
    outcome.unlink(missing_ok=True)
    digest = sha256_hex(spec.to_json().encode() + canonical_json(workers.num_workers))
    trainer = TorchTrainer(
        train_loop,
        train_loop_config={
            "spec": spec.to_json(),
            "encoder": encoder,
            "threads": workers.threads,
            "adapter": str(adapter),
            "outcome": str(outcome),
        },
        scaling_config=ScalingConfig(
            num_workers=workers.num_workers,
            use_gpu=workers.use_gpu,
            resources_per_worker=per_worker,
        ),
        run_config=RunConfig(
            name=f"{adapter.stem}-{digest[:12]}",
            storage_path=str(run_folder),
            # Typed as Ray's older class, which has no such limit; without it Ray retries forever.
            failure_config=FailureConfig(max_failures=2, controller_failure_limit=2),  # type: ignore[call-arg]
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )
    try:
        trainer.fit()
    except Exception as error:
        raise TrainingError(f"Ray Train failed: {_cause(error)}") from error
    if not outcome.exists():
        raise TrainingError("Ray Train ended without a result")
    return Outcome.model_validate_json(outcome.read_bytes())


def _cause(error: BaseException) -> str:
    """What failed first: its type and, if it is one of ours, its message. Others may quote rows."""
    failures = getattr(error, "worker_failures", None) or {0: error.__cause__ or error}
    # Ray wraps what a worker raised, with its traceback as the message.
    raised = [getattr(failures[rank], "_base_exc", failures[rank]) for rank in sorted(failures)]
    # One worker's fault makes the others lose their connection to it.
    first = next((one for one in raised if isinstance(one, AdapterDistillError)), raised[0])
    name = type(first).__name__
    return f"{name}: {first}" if isinstance(first, AdapterDistillError) else name


def require_resources(needed: dict[str, float]) -> None:
    """Raises PlacementError if the whole cluster has less than `needed`."""
    import ray

    total = ray.cluster_resources()
    short = [
        f"{name}: needs {n:g}, the cluster has {total.get(name, 0):g}"
        for name, n in needed.items()
        if total.get(name, 0) < n
    ]
    if short:
        raise PlacementError(f"not enough resources for training: {'; '.join(short)}")


def train_loop(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs."""
    import ray.train
    import torch

    context = ray.train.get_context()
    workers = Workers(rank=context.get_world_rank(), world_size=context.get_world_size())
    spec = StageSpec.from_json(config["spec"])
    options = dict(config["encoder"])
    if torch.cuda.is_available():
        options["device"] = str(ray.train.torch.get_device())
    torch.set_num_threads(config["threads"])
    encoder = load_encoder(**options)
    trained = run_stage(
        spec, encoder, workers=workers, checkpoint=_reporter(workers), resume=_last_checkpoint()
    )
    if workers.rank == 0:
        _write_payloads(trained, encoder, Path(config["adapter"]))
        write_atomically(Path(config["outcome"]), Outcome.of(trained).canonical_json())


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
