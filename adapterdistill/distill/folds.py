"""Cross-validation for few rows: the training of one fold holds out each labelled row.

The adapter that is served holds out nothing. It is trained after the folds, for the number of steps
that was best for them on average.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from adapterdistill.backbone import Embedder
from adapterdistill.data.splits import row_key
from adapterdistill.distill.batches import Batch, TrainingRows, make_batch
from adapterdistill.distill.objective import Objective, Scored
from adapterdistill.distill.training import Checkpoint, Schedule, TrainResult
from adapterdistill.errors import TrainingError

NUM_FOLDS = 2
"""Three folds chose the steps of small tenants as well as two did, and five did worse; each fold
costs a training."""
FEW_ROWS = 250
"""Tenants with fewer labelled training rows use folds: a fifth of them would leave less than 50
rows to choose and to compare on, where one row is two points."""


def assign_folds(
    questions: TrainingRows, rows: TrainingRows, keys: Sequence[str], *, seed: int
) -> Tensor:
    """Each row's fold, [rows] int64, from 0 without a gap; -1 for copies of a question.

    Each FAQ's rows, in an order drawn by `keys` and `seed`, go to the folds in turn, and the next
    FAQ's rows continue from there. Rows of equal tokens share a fold: otherwise one would be
    trained on where the other is held out. For the same reason a copy of a question, which every
    training and every index holds, is never held out.
    """
    fold_of_text: dict[tuple[int, ...], int] = {tuple(ids): -1 for ids in questions.ids}
    labels, turn = rows.first_labels.tolist(), 0
    drawn = sorted(range(len(keys)), key=lambda row: (labels[row], row_key(keys[row], seed=seed)))
    for row in drawn:
        text = tuple(rows.ids[row])
        if text not in fold_of_text:
            fold_of_text[text] = turn % NUM_FOLDS
            turn += 1
    return torch.tensor([fold_of_text[tuple(ids)] for ids in rows.ids], dtype=torch.int64)


class CrossValidation(Objective):
    """The folds' objectives together. None is trained on the rows that its fold holds out.

    Each takes from a batch the rows that its fold does not hold out, so that it meets its fewer
    rows as often as a training on all rows does.
    """

    def __init__(self, folds: Sequence[Scored], rows: TrainingRows, fold_of_row: Tensor) -> None:
        super().__init__()
        self._folds = folds
        self._objectives = nn.ModuleList(fold.objective for fold in folds)
        self._rows = rows
        self._fold_of_row = fold_of_row.tolist()

    def parameter_groups(self, learning_rate: float) -> list[dict[str, object]]:
        groups = (fold.objective.parameter_groups(learning_rate) for fold in self._folds)
        return list(chain.from_iterable(groups))

    def deployed(self) -> Embedder:
        """The first fold's model, which `score` ignores: no fold is served."""
        return self._folds[0].objective.deployed()

    def score(self, _: Embedder) -> float:
        """Mean held-out score of the folds as they are now."""
        scores = [fold.held_out(fold.objective.deployed()) for fold in self._folds]
        return sum(scores) / len(scores)

    def forward(self, batch: Batch) -> Tensor:
        losses = []
        for number, objective in enumerate(self._objectives):
            kept = [row for row in batch.rows if self._fold_of_row[row] != number]
            if not kept and batch.world_size == 1:
                continue  # a small batch may be all held out
            if len(kept) < batch.world_size:
                raise TrainingError(
                    f"{batch.world_size} workers need as many rows a step, a fold got {len(kept)}"
                )
            part = make_batch(
                self._rows,
                kept,
                device=batch.labels.device,
                rank=batch.rank,
                world_size=batch.world_size,
            )
            losses.append(objective(part))
        return torch.stack(losses).sum()


def train_in_folds(
    run: Callable[..., TrainResult],
    validation: CrossValidation,
    objective: Objective,
    rows: TrainingRows,
    schedule: Schedule,
    *,
    checkpoint: Checkpoint | None,
    resume: bytes | None,
) -> TrainResult:
    """Train the folds, then `objective` on all rows for as many steps as were best for them.

    The checkpoint belongs to the folds: resumed after its last step, they are done, and the
    training on all rows, which is shorter, starts again.

    Args:
        run: `train` with the options that both trainings share.

    Returns:
        The folds' result.
    """
    result = run(
        validation,
        rows,
        schedule,
        held_out=validation.score,
        checkpoint=checkpoint,
        resume=resume,
    )
    whole = run(objective, rows, replace(schedule, max_steps=result.best_step))
    result.seconds += whole.seconds
    return result


def all_files(adapter: Path, num_folds: int) -> list[Path]:
    """Paths of the adapter of all rows and of each fold's."""
    return [adapter, *(fold_file(adapter, fold) for fold in range(num_folds))]


def fold_file(adapter: Path, fold: int) -> Path:
    """Path of a fold's adapter, beside that of all rows."""
    return adapter.with_suffix(f".fold{fold}{adapter.suffix}")
