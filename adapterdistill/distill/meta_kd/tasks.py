"""Meta-KD of a run's tasks: their domains, their teachers over these, and a student's lessons.

A light student that also learns retrieval and tasks without domains learns each task over domains
by Meta-KD's loss instead of the distance from its teacher's logits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from adapterdistill.backbone import Encoder
from adapterdistill.data.tasks import Task
from adapterdistill.distill.batches import Batch
from adapterdistill.distill.meta_kd.formulas import DomainHead, Prototypes, row_weights, typicality
from adapterdistill.distill.meta_kd.shared_prototypes import prototypes_in
from adapterdistill.distill.meta_kd.student import TERMS, MetaDistillation
from adapterdistill.distill.meta_kd.teacher import Lesson, MetaTeaching, Teacher, check_domains
from adapterdistill.distill.multitask_kd.objective import MultitaskDistillation, TaskBatches
from adapterdistill.distill.multitask_kd.students import AdapterBody, MultitaskModel, TaskTexts
from adapterdistill.errors import ConfigError
from adapterdistill.manifest import SharedPrototypes


@dataclass(frozen=True)
class Domains:
    """The domain of each training row of a task."""

    number: int
    of_row: Int[Tensor, " rows"]
    others: tuple[SharedPrototypes, ...] = ()
    """Prototypes that other tenants share, of the same classes."""


def domains_of(task: Task, others: Sequence[SharedPrototypes] = ()) -> Domains | None:
    """The task's domains in alphabetical order; None where no training row names one.

    Args:
        others: prototypes that other tenants share; those of the task's classes are kept.

    Raises:
        ConfigError: there is one domain only, one has no training row, a training row names none,
            or rows are pairs. Domains are not quoted: they are private.
    """
    named = [row.domain for row in task.train if row.domain is not None]
    if not named:
        return None
    where = f"tasks/{task.name}.jsonl, field domain"
    if task.pairs:
        raise ConfigError(
            f"{where}: Meta-KD reads single texts, these rows are pairs: leave the field out"
        )
    if len(named) < len(task.train):
        raise ConfigError(
            f"{where}: {len(task.train) - len(named)} of {len(task.train)} train rows have none: "
            "give it to all of them, or to none"
        )
    rows = (*task.train, *task.valid, *task.test)
    names = sorted({row.domain for row in rows if row.domain is not None})
    of_row = torch.tensor([names.index(name) for name in named])
    told = [f"{n} of {len(names)} in alphabetical order" for n in range(1, len(names) + 1)]
    try:
        check_domains(of_row, told)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    same = tuple(one for one in others if one.classes == task.classes)
    return Domains(len(names), of_row, same)


class TaskOverDomains:
    """A task's training rows on the public frozen encoder: how typical each is of its class."""

    def __init__(self, texts: TaskTexts, domains: Domains, encoder: Encoder) -> None:
        self._texts, self._domains, self._encoder = texts, domains, encoder
        embeddings = encoder.embed_ids(texts.ids).cpu()
        own = Prototypes.of(
            embeddings,
            texts.labels,
            domains.of_row,
            num_classes=texts.num_outputs,
            num_domains=domains.number,
        )
        prototypes = Prototypes.joined([own, *map(prototypes_in, domains.others)])
        self._typical = typicality(embeddings, texts.labels, domains.of_row, prototypes)

    def teaching(self, model: MultitaskModel, *, seed: int) -> MetaTeaching:
        """The objective that trains `model`, which has this task alone, to be its meta-teacher."""
        head = DomainHead(self._encoder.hidden_size, self._domains.number, seed=seed)
        return MetaTeaching(
            model,
            self._texts.labels,
            typical=self._typical,
            domains=self._domains.of_row,
            domain_head=head.to(self._encoder.device),
        )

    def lesson(self, taught: MetaTeaching, *, student_layers: int) -> "TaskLesson":
        """The trained meta-teacher's lesson on the rows, and lambda of each."""
        assert isinstance(taught.model.body, AdapterBody)
        teacher = Teacher(
            self._encoder, taught.model.body.adapter, taught.model.heads[0], taught.domain_head
        )
        lesson = Lesson.of(
            teacher, self._texts.ids, self._domains.of_row, student_layers=student_layers
        )
        gold = lesson.logits.cpu().softmax(-1).gather(1, self._texts.labels[:, None])[:, 0]
        return TaskLesson(lesson, row_weights(self._typical, gold))


@dataclass(frozen=True)
class TaskLesson:
    """A student's lesson of a task over domains."""

    lesson: Lesson
    weights: Float[Tensor, " rows"]


class MetaTasksDistillation(MultitaskDistillation):
    """Multi-task distillation whose tasks over domains have Meta-KD's loss. For one worker.

    The layer that fits the student's states to its teachers' is trained with it, and not served.
    """

    def __init__(
        self,
        model: MultitaskModel,
        batches: TaskBatches,
        targets: Sequence[Tensor],
        lessons: Sequence[TaskLesson | None],
        *,
        seed: int,
    ) -> None:
        """
        Args:
            lessons: of each task of `batches`; None: its distance from the targets is its loss.
        """
        super().__init__(model, batches, targets)
        self._of_task = nn.ModuleDict(
            {
                str(place): MetaDistillation(
                    model,
                    one.lesson,
                    batches.tasks[place].labels,
                    one.weights,
                    terms=TERMS,
                    task=place,
                    seed=seed,
                )
                for place, one in enumerate(lessons)
                if one is not None
            }
        )

    def forward(self, batch: Batch) -> Tensor:
        task, rows = self.batches.place(batch.rows)
        if str(task) not in self._of_task:
            return super().forward(batch)
        loss: Tensor = self._of_task[str(task)](replace(batch, rows=tuple(rows.tolist())))
        return loss
