"""The one training loop: AdamW, warm-up, held-out rows bound the steps, exact resume."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from adapterdistill.distill.batches import Choose, TrainingRows, choose_rows, make_batch
from adapterdistill.distill.objective import HeldOut, Objective, Progress
from adapterdistill.errors import TrainingError


@dataclass(frozen=True)
class Schedule:
    """Length and speed of a training."""

    max_steps: int
    learning_rate: float = 1e-3
    warmup_steps: int = 5
    weight_decay: float = 0.01
    batch_size: int = 64
    evaluate_every: int = 10
    """Steps between held-out scores, which are also the checkpoints (an epoch)."""
    patience: int = 3
    """Scores without a new best after which training ends."""
    fixed: bool = False
    """Run all `max_steps`: no held-out score is taken. Few held-out rows tell steps by chance."""


@dataclass(frozen=True)
class Workers:
    """This process among the workers of one training."""

    rank: int = 0
    world_size: int = 1


@dataclass
class TrainResult:
    """Result of a training. The objective holds the parameters of `best_step` afterwards."""

    best_step: int
    best_score: float | None
    steps: int
    """Steps that were run; those after `best_step` are discarded."""
    losses: list[float] = field(default_factory=list)
    scores: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0


Checkpoint = Callable[[int, bytes], None]
"""Keeps (step, state); called by every worker, after the same steps."""


def train(
    objective: Objective,
    rows: TrainingRows,
    schedule: Schedule,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    choose: Choose = choose_rows,
    held_out: HeldOut | None = None,
    workers: Workers | None = None,
    checkpoint: Checkpoint | None = None,
    resume: bytes | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Train `objective` on `rows` and leave it with its best parameters.

    With `held_out`, the score is taken at step 0 and every `evaluate_every` steps; training ends
    after `patience` scores without a new best, and the best step's parameters are restored.
    Without, or with a fixed schedule, all `max_steps` are run. Batches depend on `seed` and the
    step alone, so a resumed run equals an uninterrupted one.

    Raises:
        TrainingError: there are fewer rows than workers, or the loss is not finite.
    """
    workers = workers or Workers()
    rows_a_step = min(len(rows.ids), schedule.batch_size)
    if rows_a_step < workers.world_size:
        raise TrainingError(
            f"{workers.world_size} workers need as many rows a step, got {rows_a_step}"
        )
    started = time.perf_counter()
    held_out = None if schedule.fixed else held_out
    optimizer = torch.optim.AdamW(
        objective.parameter_groups(schedule.learning_rate),
        weight_decay=schedule.weight_decay,
        fused=True,
    )
    rates = [group["lr"] for group in optimizer.param_groups]
    model: nn.Module = objective
    if workers.world_size > 1:
        model = DistributedDataParallel(objective)
    run = _Run(optimizer)
    if resume is not None:
        run.load(resume)
    elif held_out is not None:
        run.score(_of_first(workers, held_out, objective, device))
    while run.step < schedule.max_steps and not run.stale(schedule.patience):
        warm = min(1.0, (run.step + 1) / max(1, schedule.warmup_steps))
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * warm
        chosen = choose(rows, batch_size=schedule.batch_size, seed=seed, step=run.step)
        batch = make_batch(
            rows, chosen, device=device, rank=workers.rank, world_size=workers.world_size
        )
        optimizer.zero_grad(set_to_none=True)
        loss: Tensor = model(batch)
        (loss * workers.world_size).backward()
        optimizer.step()
        run.after_step(float(loss.detach()))
        last = run.step == schedule.max_steps
        score = None
        if run.step % schedule.evaluate_every == 0 or last:
            if held_out is not None:
                score = run.score(_of_first(workers, held_out, objective, device))
            if checkpoint is not None:
                checkpoint(run.step, run.state())
        if progress is not None:
            progress(run.step, schedule.max_steps, run.result.losses[-1], score)
    run.restore_best()
    run.result.seconds = time.perf_counter() - started
    return run.result


def _of_first(
    workers: Workers, held_out: HeldOut, objective: Objective, device: torch.device | str
) -> float:
    """The first worker's held-out score, so that all end at the same step despite rounding."""
    score = held_out(objective.deployed()) if workers.rank == 0 else 0.0
    if workers.world_size == 1:
        return score
    shared = torch.tensor(score, dtype=torch.float64, device=device)
    torch.distributed.broadcast(shared, src=0)
    return float(shared)


class _Run:
    """State between steps: parameters, optimiser, the best so far."""

    def __init__(self, optimizer: torch.optim.AdamW) -> None:
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._optimizer = optimizer
        self._best: list[Tensor] | None = None
        self._since_best = 0
        self.step = 0
        self.result = TrainResult(best_step=0, best_score=None, steps=0)

    def after_step(self, loss: float) -> None:
        self.step += 1
        self.result.steps = self.step
        self.result.losses.append(loss)
        if loss != loss or loss in (float("inf"), float("-inf")):
            raise TrainingError(
                f"loss is not finite at step {self.step}: lower the learning rate or check the rows"
            )

    def score(self, score: float) -> float:
        result = self.result
        result.scores.append((self.step, score))
        if result.best_score is None or score > result.best_score:
            result.best_score, result.best_step = score, self.step
            self._best = [p.detach().clone() for p in self._parameters]
            self._since_best = 0
        else:
            self._since_best += 1
        return score

    def stale(self, patience: int) -> bool:
        return self._since_best >= patience

    def restore_best(self) -> None:
        if self._best is None:
            self.result.best_step = self.step
            return
        with torch.no_grad():
            for p, best in zip(self._parameters, self._best, strict=True):
                p.copy_(best)

    def state(self) -> bytes:
        tensors: dict[str, Tensor] = {}
        for i, p in enumerate(self._parameters):
            tensors[f"parameter.{i}"] = p.detach()
            for key, value in self._optimizer.state[p].items():
                tensors[f"optimizer.{i}.{key}"] = value
            if self._best is not None:
                tensors[f"best.{i}"] = self._best[i]
        scores = torch.tensor(self.result.scores, dtype=torch.float64).reshape(-1, 2)
        tensors["scores"] = scores
        tensors["losses"] = torch.tensor(self.result.losses, dtype=torch.float64)
        tensors["since_best"] = torch.tensor(self._since_best)
        return safetensors.torch.save({k: v.cpu().contiguous() for k, v in tensors.items()})

    def load(self, state: bytes) -> None:
        tensors = safetensors.torch.load(state)
        with torch.no_grad():
            for i, p in enumerate(self._parameters):
                p.copy_(tensors[f"parameter.{i}"])
                prefix = f"optimizer.{i}."
                self._optimizer.state[p] = {
                    name.removeprefix(prefix): value.to(p.device) if value.dim() else value
                    for name, value in tensors.items()
                    if name.startswith(prefix)
                }
        if "best.0" in tensors:
            self._best = [tensors[f"best.{i}"].to(p.device) for i, p in enumerate(self._parameters)]
        self.result.losses = tensors["losses"].tolist()
        self.step = self.result.steps = len(self.result.losses)
        self._since_best = int(tensors["since_best"])
        for step, score in tensors["scores"].tolist():
            self.result.scores.append((int(step), score))
            if self.result.best_score is None or score > self.result.best_score:
                self.result.best_score, self.result.best_step = score, int(step)
