"""A tenant's classification tasks beside its retrieval, and the teacher that each of them gets."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import metadata_of
from adapterdistill.data.tasks import Task, TaskRow
from adapterdistill.distill.meta_kd.tasks import Domains, TaskLesson, TaskOverDomains
from adapterdistill.distill.multitask_kd.objective import (
    MultitaskDistillation,
    TaskBatches,
    no_targets,
)
from adapterdistill.distill.multitask_kd.students import AdapterBody, MultitaskModel, TaskTexts
from adapterdistill.distill.objective import Objective
from adapterdistill.distill.training import Schedule, train
from adapterdistill.manifest import Metric, SharedPrototypes, canonical_json

_SPLITS = ("train", "valid", "test")
_METADATA = "tasks"


@dataclass(frozen=True)
class TaskSplits:
    """A task's rows as token ids. `valid` rows bound its teacher's steps; `test` is only scored."""

    name: str
    classes: tuple[str, ...]
    train: TaskTexts
    valid: TaskTexts
    test: TaskTexts
    domains: Domains | None = None
    """Domains of the training rows, if Meta-KD learns from them."""


def tokenise_task(task: Task, encoder: Encoder, domains: Domains | None = None) -> TaskSplits:
    train, valid, test = (task_texts(getattr(task, split), task, encoder) for split in _SPLITS)
    return TaskSplits(task.name, task.classes, train, valid, test, domains)


def task_texts(rows: Sequence[TaskRow], task: Task, encoder: Encoder) -> TaskTexts:
    """Rows of a task as token ids."""
    written = [
        text
        for row in rows
        for text in ((row.text,) if row.text_pair is None else (row.text, row.text_pair))
    ]
    labels = torch.tensor([task.classes.index(row.label) for row in rows], dtype=torch.int64)
    ids = tuple(map(tuple, encoder.tokenize(written)))
    return TaskTexts(ids, labels, task.pairs, len(task.classes))


def write_tasks(path: Path, tasks: Sequence[TaskSplits]) -> None:
    """Token ids, labels and domains as safetensors."""
    tensors: dict[str, Tensor] = {}
    for place, task in enumerate(tasks):
        for split in _SPLITS:
            texts: TaskTexts = getattr(task, split)
            prefix = f"{place}.{split}"
            flat = [i for ids in texts.ids for i in ids]
            tensors[f"{prefix}.ids"] = torch.tensor(flat, dtype=torch.int32)
            tensors[f"{prefix}.lengths"] = torch.tensor([len(ids) for ids in texts.ids])
            tensors[f"{prefix}.labels"] = texts.labels
        if task.domains is not None:
            tensors[f"{place}.domains"] = task.domains.of_row
    told = [[task.name, task.classes, task.train.pairs, _told_of(task.domains)] for task in tasks]
    path.write_bytes(safetensors.torch.save(tensors, {_METADATA: canonical_json(told).decode()}))


def _told_of(domains: Domains | None) -> list[Any] | None:
    """The number of domains, and the prototypes that others share."""
    if domains is None:
        return None
    return [domains.number, *(one.model_dump(mode="json") for one in domains.others)]


def read_tasks(path: Path) -> list[TaskSplits]:
    payload = path.read_bytes()
    tensors = safetensors.torch.load(payload)

    def texts(prefix: str, pairs: bool, classes: int) -> TaskTexts:
        pieces = tensors[f"{prefix}.ids"].split(tensors[f"{prefix}.lengths"].tolist())
        ids = tuple(tuple(piece.tolist()) for piece in pieces)
        return TaskTexts(ids, tensors[f"{prefix}.labels"], pairs, classes)

    found = []
    told = json.loads(metadata_of(payload, _METADATA) or "[]")
    for place, (name, classes, pairs, told_of) in enumerate(told):
        train, valid, test = (texts(f"{place}.{split}", pairs, len(classes)) for split in _SPLITS)
        domains = None
        if told_of is not None:
            number, *others = told_of
            shared = tuple(map(SharedPrototypes.model_validate, others))
            domains = Domains(number, tensors[f"{place}.domains"], shared)
        found.append(TaskSplits(name, tuple(classes), train, valid, test, domains))
    return found


@dataclass(frozen=True)
class TaughtTasks:
    """A light student's lessons: its tenant's retrieval, then tasks that have teachers."""

    batches: TaskBatches
    tasks: tuple[TaskSplits, ...] = ()
    teachers: tuple[MultitaskModel, ...] = ()
    lessons: tuple[TaskLesson | None, ...] = ()
    """Lessons of the tasks that Meta-KD teaches; None for the others."""

    @cached_property
    def targets(self) -> list[Tensor]:
        """The teachers' logits of their tasks' training rows."""
        pairs = zip(self.teachers, self.tasks, strict=True)
        return [teacher.predict(task.train) for teacher, task in pairs]

    def scores(self, student: MultitaskModel) -> dict[str, dict[str, Metric]]:
        """Accuracy by task, of teacher and student on `valid` and `test` rows."""
        found: dict[str, dict[str, Metric]] = {}
        pairs = zip(self.teachers, self.tasks, strict=True)
        for place, (teacher, task) in enumerate(pairs, start=1):
            found[task.name] = {
                f"{split}_{model}": accuracy(*answers, getattr(task, split))
                for model, answers in (("teacher", (teacher, 0)), ("student", (student, place)))
                for split in ("valid", "test")
                if len(getattr(task, split))
            }
        return found


def taught_tasks(
    retrieval: TaskTexts,
    tasks: Sequence[TaskSplits],
    encoder: Encoder,
    *,
    bottleneck_size: int,
    student_layers: int,
    schedule: Schedule,
    seed: int,
) -> TaughtTasks:
    """Train each task's teacher; if the task has domains, a meta-teacher of them."""
    batches = TaskBatches([retrieval, *(task.train for task in tasks)])
    teachers: list[MultitaskModel] = []
    lessons: list[TaskLesson | None] = []
    for task in tasks:
        teacher = new_teacher(task, encoder, bottleneck_size=bottleneck_size, seed=seed)
        lesson = None
        if task.domains is None:
            fit_teacher(teacher, task, schedule=schedule, seed=seed)
        else:
            over_domains = TaskOverDomains(task.train, task.domains, encoder)
            teaching = over_domains.teaching(teacher, seed=seed)
            fit_teacher(teacher, task, teaching, schedule=schedule, seed=seed)
            lesson = over_domains.lesson(teaching, student_layers=student_layers)
        teachers.append(teacher)
        lessons.append(lesson)
    return TaughtTasks(batches, tuple(tasks), tuple(teachers), tuple(lessons))


def new_teacher(
    task: TaskSplits, encoder: Encoder, *, bottleneck_size: int, seed: int
) -> MultitaskModel:
    """An adapter near identity, and a head of the task's classes."""
    shape = (encoder.num_layers, encoder.hidden_size, bottleneck_size)
    body = AdapterBody(encoder, BottleneckAdapter.new(*shape, seed=seed).to(encoder.device))
    return MultitaskModel(body, [task.train], seed=seed)


def fit_teacher(
    teacher: MultitaskModel,
    task: TaskSplits,
    objective: Objective | None = None,
    *,
    schedule: Schedule,
    seed: int,
) -> None:
    """Train a teacher for the steps that the task's `valid` rows allow, and freeze it.

    Args:
        objective: trains on the task's rows; None: on their labels alone.
    """
    batches = TaskBatches([task.train])
    train(
        objective or MultitaskDistillation(teacher, batches, no_targets(batches), alpha=1.0),
        batches.texts,
        schedule,
        seed=seed,
        device=next(teacher.parameters()).device,
        choose=batches.choose,
        held_out=lambda _: -_cross_entropy(teacher, task.valid),
    )
    (objective or teacher).requires_grad_(False)


def _cross_entropy(model: MultitaskModel, texts: TaskTexts) -> float:
    return float(F.cross_entropy(model.predict(texts).cpu(), texts.labels))


def accuracy(model: MultitaskModel, place: int, texts: TaskTexts) -> Metric:
    """Share of the rows whose class the model's head `place` finds."""
    found = model.predict(texts, place).argmax(-1).cpu()
    share = float((found == texts.labels).double().mean())
    return Metric(value=round(share, 6), count=len(texts))
