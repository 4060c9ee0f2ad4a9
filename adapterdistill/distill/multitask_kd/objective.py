"""Multi-task knowledge distillation (Liu et al., arXiv 1911.03588): teachers into a light student.

Each task has a teacher, frozen: an adapter and a head on the shared encoder. One student, a shared
body with a head a task, learns their logits, one task a step, over the shuffled batches of all
tasks. Trained on one task this is ordinary distillation; with `alpha` 1, plain training. A task may
be a tenant's retrieval: outputs are then the vectors to rank by, and the tenant's adapter teaches.

The paper's full text was not available: the loss and its default follow notes on it.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from adapterdistill.distill.batches import Batch, TrainingRows
from adapterdistill.distill.losses import prototype_loss
from adapterdistill.distill.multitask_kd.students import MultitaskModel, TaskTexts
from adapterdistill.distill.objective import ModelObjective
from adapterdistill.errors import ConfigError


def distillation_loss(
    student: Float[Tensor, "rows outputs"],
    teacher: Float[Tensor, "rows outputs"],
    labels: Int[Tensor, " rows"],
    *,
    alpha: float = 0.0,
    spread: float = 1.0,
    retrieval: bool = False,
) -> Float[Tensor, ""]:
    """(1 - alpha) * mean over rows of ||z^T - z^S||^2 / spread + alpha * CE(labels, z^S), logits z.

    No temperature, and no gradient to the teacher. In retrieval z are unit-length vectors (so that
    the distance is 2 - 2 cos), labels FAQs, and `prototype_loss` stands in place of CE.
    """
    distance = (student - teacher.detach()).square().sum(-1).mean() / spread
    if alpha == 0:
        return distance
    label_loss = (prototype_loss if retrieval else F.cross_entropy)(student, labels)
    return (1 - alpha) * distance + alpha * label_loss


class TaskBatches:
    """All tasks' training texts end to end, and which of them each step takes."""

    def __init__(self, tasks: Sequence[TaskTexts]) -> None:
        """Raises ConfigError if there is no task, or one without rows or with one class only.

        A retrieval task may have only labels of -1: it is learnt from its teacher alone.
        """
        if not tasks:
            raise ConfigError("multi-task distillation needs a task, got none")
        for place, task in enumerate(tasks):
            classes = len(task.labels.unique())
            for_teacher = task.retrieval and len(task) and bool((task.labels < 0).all())
            if classes < 2 and not for_teacher:
                raise ConfigError(
                    f"task {place} has {len(task)} training rows of {classes} class(es): give it "
                    "rows of two or more, or leave it out"
                )
        self.tasks = tuple(tasks)
        repeated = [task.labels.repeat_interleave(task.texts_per_row) for task in tasks]
        self.texts = TrainingRows([ids for task in tasks for ids in task.ids], torch.cat(repeated))
        ends = torch.tensor([len(task.ids) for task in tasks]).cumsum(0).tolist()
        self._starts = [0, *ends]
        self._epoch: tuple[tuple[int, int, int], list[list[int]]] | None = None

    def steps_per_epoch(self, batch_size: int) -> int:
        return sum(-(-len(task) // batch_size) for task in self.tasks)

    def choose(self, rows: TrainingRows, *, batch_size: int, seed: int, step: int) -> list[int]:
        """Texts of step `step`, all of one task: a pure function of the arguments.

        An epoch cuts every task's shuffled rows into batches and shuffles these.
        """
        epoch, place = divmod(step, self.steps_per_epoch(batch_size))
        key = (batch_size, seed, epoch)
        if self._epoch is None or self._epoch[0] != key:
            self._epoch = key, self._shuffled(batch_size, (seed << 20) + epoch)
        return self._epoch[1][place]

    def place(self, texts: Sequence[int]) -> tuple[int, Tensor]:
        """The task that `texts`, as chosen, belong to, and their rows in it, [rows] int64."""
        task = sum(texts[0] >= start for start in self._starts[1:])
        k = self.tasks[task].texts_per_row
        return task, (torch.tensor(texts[::k]) - self._starts[task]) // k

    def _shuffled(self, batch_size: int, seed: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        batches = []
        for task, start in zip(self.tasks, self._starts, strict=False):
            k = task.texts_per_row
            order = torch.randperm(len(task), generator=generator)
            texts = start + k * order[:, None] + torch.arange(k)
            batches += [part.flatten().tolist() for part in texts.split(batch_size)]
        order = torch.randperm(len(batches), generator=generator)
        return [batches[i] for i in order.tolist()]


class MultitaskDistillation(ModelObjective):
    """The distance of a model's logits to its teachers', with its labels' cross-entropy.

    It trains in one worker: heads of tasks that a step does not meet get no gradient at all, so
    that they and their optimiser state stay as they are.
    """

    def __init__(
        self,
        model: MultitaskModel,
        batches: TaskBatches,
        targets: Sequence[Tensor],
        *,
        alpha: float = 0.0,
    ) -> None:
        """
        Args:
            targets: each task's logits of its teacher, [rows, outputs]; any where alpha is 1.
            alpha: share of the labels' cross-entropy, 0 to 1.

        Distances of logits are relative to the spread of the task's targets: a confident teacher's
        logits are many times as far apart as another's, so that its task alone would be learnt.
        Vectors to rank by all have unit length.

        Raises:
            ConfigError: alpha is out of range, or a teacher's logits do not fit its task's rows.
        """
        super().__init__()
        if not 0.0 <= alpha <= 1.0:
            raise ConfigError(f"alpha must be from 0 (teachers alone) to 1 (labels), got {alpha}")
        wanted = [(len(task), task.num_outputs) for task in batches.tasks]
        found = [tuple(logits.shape) for logits in targets]
        if found != wanted:
            raise ConfigError(f"teachers' logits have shapes {found}, the tasks need {wanted}")
        self.model: MultitaskModel = model
        self.batches = batches
        self._targets = [logits.detach().cpu() for logits in targets]
        self._spreads = [
            1.0 if task.retrieval else spread_of(logits)
            for task, logits in zip(batches.tasks, self._targets, strict=True)
        ]
        self._alpha = alpha

    def forward(self, batch: Batch) -> Tensor:
        if batch.world_size != 1:
            raise ConfigError("multi-task distillation trains in one worker: set num_workers to 1")
        task, rows = self.batches.place(batch.rows)
        logits = self.model(batch.tokens, task)
        texts, device = self.batches.tasks[task], logits.device
        return distillation_loss(
            logits,
            self._targets[task][rows].to(device),
            texts.labels[rows].to(device),
            alpha=self._alpha,
            spread=self._spreads[task],
            retrieval=texts.retrieval,
        )


def spread_of(logits: Float[Tensor, "rows outputs"]) -> float:
    """Mean squared distance of a row's logits from their mean; 1 where all rows have the same."""
    return float(logits.var(dim=0, correction=0).sum()) or 1.0


def no_targets(batches: TaskBatches) -> list[Tensor]:
    """Zeros that replace teachers' logits if there is no teacher (alpha 1)."""
    return [torch.zeros(len(task), task.num_outputs) for task in batches.tasks]
