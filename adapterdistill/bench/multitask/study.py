"""Light students of several tasks' teachers: accuracy joint, task by task and undistilled, speed.

Teachers, one a task, are adapters (with heads, but for retrieval) on the frozen encoder, trained on
labels. Every model is kept as it was after the epoch that did best on `valid` rows; `test` rows are
only scored.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from adapterdistill.backbone import Encoder
from adapterdistill.bench.multitask.tasks import BenchTask, Size
from adapterdistill.distill.held_out import centroids
from adapterdistill.distill.multitask_kd.objective import (
    MultitaskDistillation,
    TaskBatches,
    no_targets,
)
from adapterdistill.distill.multitask_kd.students import (
    AdapterBody,
    BiLstmBody,
    Body,
    MultitaskModel,
    TaskTexts,
    TransformerBody,
)
from adapterdistill.distill.training import Schedule, train
from adapterdistill.testbed.progress import phase
from adapterdistill.testbed.random_adapters import new_adapter

BATCH_SIZE = 32
TEACHER_RATE = 1e-3
ALPHA = 0.5
"""Share of the labels in what a distilled student learns."""
STUDENT_RATES = {"transformer": 1e-3, "bilstm": 2e-3}
TUNED_SHARE = 3
"""A student that has learnt all tasks is tuned to one for a third of the epochs."""
TEACHER = "teacher"
JOINT = "joint"
TUNED = "joint, then each task"
SINGLE = "task by task"
PLAIN = "joint, no distillation"


@dataclass(frozen=True)
class StudentShape:
    """The students' sizes."""

    layers: int = 2
    heads: int = 3
    lstm_size: int = 64


def measure_multitask(
    encoder: Encoder, tasks: Sequence[BenchTask], size: Size, shape: StudentShape, *, seed: int
) -> dict[str, Any]:
    """Train teachers and students, score them on test rows, and time them."""
    makers = {kind: partial(_student, kind, encoder, shape, seed) for kind in STUDENT_RATES}
    # Built before anything is trained, so that an impossible student is refused at once.
    joint = {kind: make(tasks) for kind, make in makers.items()}
    trainings = len(tasks) + len(joint) * (2 + 2 * len(tasks))
    with phase("models trained", trainings) as done:
        teachers = [_teacher(encoder, task, size, seed, done) for task in tasks]
        targets = [t.predict(task.train) for t, task in zip(teachers, tasks, strict=True)]
        rows = [_row(TEACHER, TEACHER, [(teacher, 0) for teacher in teachers], tasks)]
        for kind, make in makers.items():
            fit = _Fit(STUDENT_RATES[kind], size.student_epochs, seed, done)
            for training, models in _trained(fit, joint[kind], make, tasks, targets).items():
                rows.append(_row(kind, training, models, tasks))
    timed = {TEACHER: [(teacher, 0) for teacher in teachers]}
    timed |= {kind: [(model, i) for i in range(len(tasks))] for kind, model in joint.items()}
    return {
        "tasks": {
            task.name: {
                "input": _input(task.train),
                "classes": int(task.train.labels.max()) + 1,
                "train": len(task.train), "valid": len(task.valid), "test": len(task.test),
            }
            for task in tasks
        },
        "shape": asdict(shape),
        "size": asdict(size),
        "seed": seed,
        "rows": rows,
        "speed": _time(timed, tasks, size),
    }  # fmt: skip


def _student(
    kind: str, encoder: Encoder, shape: StudentShape, seed: int, tasks: Sequence[BenchTask]
) -> MultitaskModel:
    """An untrained student of `tasks`. Raises ConfigError where its shape is not the encoder's."""
    body: Body
    if kind == "transformer":
        body = TransformerBody(encoder, num_layers=shape.layers, num_heads=shape.heads)
    else:
        pairs = any(task.train.pairs for task in tasks)
        body = BiLstmBody(encoder, hidden_size=shape.lstm_size, pairs=pairs, seed=seed)
    return MultitaskModel(body, [task.train for task in tasks], seed=seed)


Models = list[tuple[MultitaskModel, int]]
"""The model that answers each task, with the task's place in it."""


@dataclass(frozen=True)
class _Fit:
    """Trains a model on tasks: the same settings for every training of one kind of student."""

    learning_rate: float
    epochs: int
    seed: int
    done: Callable[[], None]

    def __call__(
        self, model: MultitaskModel, tasks: Sequence[BenchTask], targets: Sequence[Tensor] | None
    ) -> MultitaskModel:
        """Train on the teachers' logits `targets`, or on labels alone where these are None."""
        batches = TaskBatches([task.train for task in tasks])
        steps = batches.steps_per_epoch(BATCH_SIZE)
        train(
            MultitaskDistillation(
                model,
                batches,
                no_targets(batches) if targets is None else targets,
                alpha=1.0 if targets is None else ALPHA,
            ),
            batches.texts,
            Schedule(
                max_steps=steps * self.epochs,
                learning_rate=self.learning_rate,
                warmup_steps=max(5, steps // 4),
                batch_size=BATCH_SIZE,
                evaluate_every=steps,
            ),
            seed=self.seed,
            device=next(model.parameters()).device,
            choose=batches.choose,
            held_out=lambda _: macro(
                [accuracy(model, i, task, task.valid) for i, task in enumerate(tasks)]
            ),
        )
        self.done()
        return model


def _teacher(
    encoder: Encoder, task: BenchTask, size: Size, seed: int, done: Callable[[], None]
) -> MultitaskModel:
    body = AdapterBody(encoder, new_adapter(encoder, seed))
    fit = _Fit(TEACHER_RATE, size.teacher_epochs, seed, done)
    return fit(MultitaskModel(body, [task.train], seed=seed), [task], None)


def _trained(
    fit: _Fit,
    joint: MultitaskModel,
    make: Callable[[Sequence[BenchTask]], MultitaskModel],
    tasks: Sequence[BenchTask],
    targets: Sequence[Tensor],
) -> dict[str, Models]:
    """The students of one kind, by how they were trained."""
    fit(joint, tasks, targets)
    found: dict[str, Models] = {JOINT: [(joint, i) for i in range(len(tasks))], TUNED: []}
    few = replace(fit, epochs=max(1, fit.epochs // TUNED_SHARE))
    for i, task in enumerate(tasks):
        tuned = make([task])
        tuned.start_from(joint, i)
        found[TUNED].append((few(tuned, [task], targets[i : i + 1]), 0))
    found[SINGLE] = [
        (fit(make([task]), [task], targets[i : i + 1]), 0) for i, task in enumerate(tasks)
    ]
    plain = fit(make(tasks), tasks, None)
    found[PLAIN] = [(plain, i) for i in range(len(tasks))]
    return found


def macro(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def accuracy(model: MultitaskModel, place: int, task: BenchTask, texts: TaskTexts) -> float:
    return macro(hits(model, place, task, texts))


def hits(model: MultitaskModel, place: int, task: BenchTask, texts: TaskTexts) -> list[int]:
    """1 for each row whose class, or whose FAQ by nearest centroid, is found; else 0."""
    outputs = model.predict(texts, place)
    if texts.retrieval:
        index = model.predict(task.train, place)
        faqs = centroids(index, task.train.labels, int(task.train.labels.max()) + 1)
        outputs = outputs @ faqs.T
    return (outputs.argmax(-1).cpu() == texts.labels).int().tolist()


def _input(texts: TaskTexts) -> str:
    return "queries" if texts.retrieval else "pairs" if texts.pairs else "texts"


def _row(model: str, training: str, models: Models, tasks: Sequence[BenchTask]) -> dict[str, Any]:
    pairs = list(zip(models, tasks, strict=True))
    found = {task.name: hits(m, place, task, task.test) for (m, place), task in pairs}
    by_task = {name: macro(of_task) for name, of_task in found.items()}
    return {
        "model": model,
        "training": training,
        "accuracy": by_task,
        "macro": macro(list(by_task.values())),
        "valid_macro": macro([accuracy(m, place, task, task.valid) for (m, place), task in pairs]),
        "parameters": sum({id(m): m.num_parameters() for m, _ in models}.values()),
        "frozen_parameters": models[0][0].body.num_frozen,
        "hits": found,
    }


@torch.no_grad()
def _time(timed: Mapping[str, Models], tasks: Sequence[BenchTask], size: Size) -> dict[str, Any]:
    """Texts a second of each model over the same test texts of all tasks, one thread, in turn."""
    texts = [_first(task.test, size.timed_texts) for task in tasks]
    count = sum(len(of_task.ids) for of_task in texts)
    seconds: dict[str, list[float]] = {kind: [] for kind in timed}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with phase("timing rounds", size.rounds + 1) as done:
        for turn in range(size.rounds + 1):
            for kind, models in timed.items():
                started = time.perf_counter()
                for (model, place), of_task in zip(models, texts, strict=True):
                    model.predict(of_task, place)
                if torch.cuda.is_initialized():
                    torch.cuda.synchronize()
                if turn:  # the first is for warming up
                    seconds[kind].append(time.perf_counter() - started)
            done()
    torch.set_num_threads(threads)
    teacher = seconds[TEACHER]
    return {
        kind: {
            "texts": count,
            "rounds": len(spent),
            "texts_per_s_best": count / min(spent),
            "texts_per_s_median": count / statistics.median(spent),
            "times_teacher_best": min(teacher) / min(spent),
            "times_teacher_median": statistics.median(teacher) / statistics.median(spent),
        }
        for kind, spent in seconds.items()
    }


def _first(texts: TaskTexts, count: int) -> TaskTexts:
    """The first rows of at most `count` texts."""
    rows = max(1, count // texts.texts_per_row)
    ids = texts.ids[: rows * texts.texts_per_row]
    return replace(texts, ids=ids, labels=texts.labels[:rows])
