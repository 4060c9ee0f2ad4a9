"""Runs a training stage in place or under Ray Train: the same loop, the same result.

With `num_workers` 0 the stage runs in the calling process, otherwise on Ray Train's workers.
"""

import shutil
import sys
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError

from adapterdistill.actors import tracking
from adapterdistill.actors.training.outcome import TrainingOutcome, write_payloads
from adapterdistill.actors.training.workers import TrainWorkers, train_on_workers
from adapterdistill.backbone import Encoder
from adapterdistill.config import OnboardConfig
from adapterdistill.distill.objective import Progress
from adapterdistill.distill.stage import StageSpec, run_stage
from adapterdistill.files import write_atomically
from adapterdistill.manifest import sha256_hex


def train_stage(
    name: str, spec: StageSpec, encoder: Encoder, config: OnboardConfig, *, adapter: Path
) -> TrainingOutcome:
    """Train as the run's settings say, in place or on workers.

    `adapter` receives the payload, and the folds' go beside it (`fold_file`), as do the losses and
    the held-out scores (`actors.tracking`): in place after each step, of workers at the end.
    """
    outcome = _trained(name, spec, encoder, config, adapter=adapter)
    there = tracking.steps_of(adapter.parent, name)
    rows = tracking.of_training(outcome.losses, outcome.scores)
    tracking.append(adapter.parent, name, (row for row in rows if row[0] not in there))
    return outcome


def _trained(
    name: str, spec: StageSpec, encoder: Encoder, config: OnboardConfig, *, adapter: Path
) -> TrainingOutcome:
    if config.training.num_workers == 0:
        progress = _follower(name, adapter.parent)
        return train_in_place(spec, encoder, adapter=adapter, progress=progress)
    run_folder = adapter.parent / "ray_train"
    outcome = train_on_workers(
        spec,
        config.encoder,
        adapter=adapter,
        run_folder=run_folder,
        workers=workers_of(config),
    )
    shutil.rmtree(run_folder, ignore_errors=True)
    return outcome


def workers_of(config: OnboardConfig) -> TrainWorkers:
    """The workers that a run asks for, each with a GPU if the encoder's device is one."""
    t = config.training
    return TrainWorkers(
        num_workers=t.num_workers,
        min_workers=t.min_workers or t.num_workers,
        use_gpu=t.use_gpu or torch.device(config.encoder.device).type == "cuda",
        resource=config.placement.resource,
        start_timeout_s=t.start_timeout_s,
        threads=t.threads,
    )


def _follower(stage: str, folder: Path) -> Progress:
    """Track each step, and print a line at each held-out score: numbers only.

    On stderr, which reaches the job's log: stdout may be the report as JSON.
    """
    there = tracking.steps_of(folder, stage)

    def line(step: int, steps: int, loss: float, score: float | None) -> None:
        if step not in there:  # a resumed training repeats the steps since its checkpoint
            scored_too = {} if score is None else {"held_out_score": score}
            tracking.append(folder, stage, [(step, {"loss": loss, **scored_too})])
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
) -> TrainingOutcome:
    """Train in this process; `adapter` receives the payload. Resumes at the last checkpoint."""
    kept = adapter.with_name(f"{adapter.stem}-{sha256_hex(spec.to_json().encode())[:12]}.state")

    def checkpoint(step: int, state: bytes) -> None:
        write_atomically(kept, state)

    resume = _readable_state(kept)
    trained = run_stage(spec, encoder, checkpoint=checkpoint, resume=resume, progress=progress)
    write_payloads(trained, encoder, adapter)
    kept.unlink(missing_ok=True)
    return TrainingOutcome.of(trained)


def _readable_state(path: Path) -> bytes | None:
    """The checkpoint; None if there is none or it is damaged: the stage then starts again."""
    if not path.exists():
        return None
    state = path.read_bytes()
    try:
        safetensors.torch.load(state)
    except SafetensorError:
        return None
    return state
