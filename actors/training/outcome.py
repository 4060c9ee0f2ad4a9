"""Results of a training stage: payload files, and a record of the training."""

import resource
from pathlib import Path

from adapterdistill.backbone import Encoder
from adapterdistill.distill.folds import fold_file
from adapterdistill.distill.stage import TrainedStage
from adapterdistill.distill.variants import pack_trained
from adapterdistill.files import write_atomically
from adapterdistill.manifest import Metric, Record


class TrainingOutcome(Record):
    """Record of a training stage; the adapters are in the files that the caller named."""

    best_step: int
    steps: int
    held_out_score: float | None
    losses: tuple[float, ...]
    scores: tuple[tuple[int, float], ...] = ()
    """Held-out scores, each with its step."""
    weights: tuple[float, ...]
    leave_one_out: tuple[float, ...]
    """Values of `Teaching`; empty without teachers."""
    tasks: dict[str, dict[str, Metric]]
    """Value of `TrainedStage`."""
    seconds: float
    peak_rss_mb: float

    @classmethod
    def of(cls, trained: TrainedStage) -> "TrainingOutcome":
        result, teaching = trained.result, trained.teaching
        return cls(
            best_step=result.best_step,
            steps=result.steps,
            held_out_score=result.best_score,
            losses=tuple(result.losses),
            scores=tuple(result.scores),
            weights=() if teaching is None else teaching.weights,
            leave_one_out=() if teaching is None else teaching.leave_one_out,
            tasks={name: dict(scores) for name, scores in trained.tasks.items()},
            seconds=round(result.seconds, 3),
            peak_rss_mb=peak_rss_mb(),
        )


def peak_rss_mb() -> float:
    """This process's peak resident memory, MiB (Linux reports KiB)."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def write_payloads(trained: TrainedStage, encoder: Encoder, adapter: Path) -> None:
    """Write the payload to `adapter`, and the folds' beside it."""
    for number, fold in enumerate(trained.folds):
        write_atomically(fold_file(adapter, number), pack_trained(fold, encoder))
    write_atomically(adapter, pack_trained(trained.student, encoder))
