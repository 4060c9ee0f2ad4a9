"""A training stage as data: what Ray Train workers receive, and how it becomes a training.

A spec holds paths and numbers only. Rows are token ids in a file on the owner's node.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from torch import Tensor

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import pack_adapter, unpack_adapter
from adapterdistill.distill.adapter_distillation import (
    Teaching,
    distillation_of,
    imitation_rows,
    teaching_of,
)
from adapterdistill.distill.batches import Choose, TrainingRows, choose_rows
from adapterdistill.distill.conditional_distillation import skippable
from adapterdistill.distill.folds import CrossValidation, fold_file, train_in_folds
from adapterdistill.distill.forms import (
    ConditionalSettings,
    FormSettings,
    ServedForm,
    form_objective,
    form_of,
    pack_form,
    retrieval_task,
)
from adapterdistill.distill.held_out import HeldOutRows
from adapterdistill.distill.method import Objective, OwnAdapter, Progress, Scored
from adapterdistill.distill.multitask_kd import MultitaskDistillation
from adapterdistill.distill.task_teachers import TaughtTasks, read_tasks, taught_tasks
from adapterdistill.distill.training import Checkpoint, Schedule, TrainResult, Workers, train
from adapterdistill.manifest import Metric


@dataclass(frozen=True)
class StageSpec:
    """One stage of one tenant: with `teachers` stage 2, with a `form` the making of that form from
    the adapter `initial`, with neither stage 1, own rows only."""

    rows: str
    """File written by `write_rows`."""
    bottleneck_size: int
    schedule: Schedule
    seed: int
    initial: str | None = None
    """Payload of the adapter to start from; None starts near identity."""
    teachers: tuple[str, ...] = ()
    """Payload files of the frozen teachers."""
    leave_one_out: bool = False
    """Whether to score the teachers' composition without each of them afterwards."""
    form: FormSettings | None = None
    """What the adapter `initial` teaches; it is then frozen."""
    tasks: str | None = None
    """File written by `write_tasks`: what a light student learns besides, each of a new teacher."""

    def of_fold(self, fold: int) -> "StageSpec":
        """The same, started from what the stage before left for the fold."""
        if self.initial is None:
            return self
        return replace(self, initial=str(fold_file(Path(self.initial), fold)))

    def to_json(self) -> str:
        return _SPEC.dump_json(self).decode()

    @classmethod
    def from_json(cls, text: str) -> "StageSpec":
        return _SPEC.validate_json(text)


_SPEC = TypeAdapter(StageSpec)


@dataclass(frozen=True)
class StageRows:
    """A tenant's rows as one stage sees them; `held_*` are empty where nothing is held out."""

    train: TrainingRows
    held_index: TrainingRows
    held_queries: TrainingRows
    num_faqs: int
    folds: Tensor | None = None
    """[train rows] int64: the fold that holds the row out, -1 for none. None: no folds."""

    def scorer(self, encoder: Encoder) -> HeldOutRows:
        """Scores adapters on the held-out rows, of which there must be some."""
        return HeldOutRows(encoder, self.held_index, self.held_queries, self.num_faqs)

    def splits(self) -> list["StageRows"]:
        """The rows as each fold sees them: its own held out, the others to fit."""
        if self.folds is None:
            return []
        labelled = self.train.labels >= 0
        return [
            StageRows(
                train=self.train.select(self.folds != fold),
                held_index=self.train.select((self.folds != fold) & labelled),
                held_queries=self.train.select(self.folds == fold),
                num_faqs=self.num_faqs,
            )
            for fold in range(int(self.folds.max()) + 1)
        ]


_PARTS = ("train", "held_index", "held_queries")


def write_rows(path: Path, rows: StageRows) -> None:
    """Token ids and labels as safetensors."""
    tensors: dict[str, Tensor] = {"num_faqs": torch.tensor(rows.num_faqs)}
    for part in _PARTS:
        value: TrainingRows = getattr(rows, part)
        lengths = [len(ids) for ids in value.ids]
        tensors[f"{part}.ids"] = torch.tensor(
            [i for ids in value.ids for i in ids], dtype=torch.int32
        )
        tensors[f"{part}.lengths"] = torch.tensor(lengths, dtype=torch.int64)
        tensors[f"{part}.labels"] = value.labels.clone()  # parts may share theirs
    if rows.folds is not None:
        tensors["folds"] = rows.folds
    path.write_bytes(safetensors.torch.save(tensors))


def read_rows(path: Path) -> StageRows:
    tensors = safetensors.torch.load(path.read_bytes())

    def part(name: str) -> TrainingRows:
        pieces = tensors[f"{name}.ids"].split(tensors[f"{name}.lengths"].tolist())
        return TrainingRows([piece.tolist() for piece in pieces], tensors[f"{name}.labels"])

    train_rows, held_index, held_queries = map(part, _PARTS)
    return StageRows(
        train_rows, held_index, held_queries, int(tensors["num_faqs"]), tensors.get("folds")
    )


def load_payload(path: Path) -> BottleneckAdapter:
    return unpack_adapter(path.read_bytes())


@dataclass(frozen=True)
class StageTexts:
    """What a stage trains on."""

    rows: TrainingRows
    folds: Tensor | None
    """[rows] int64: the fold that holds the row out, -1 for none. None: no folds."""
    tasks: TaughtTasks | None = None
    """The same texts as tasks, where a light student is trained."""

    @property
    def choose(self) -> Choose:
        return choose_rows if self.tasks is None else self.tasks.batches.choose


def texts_of(spec: StageSpec, encoder: Encoder, rows: StageRows) -> StageTexts:
    """The own rows in stage 1, and after it texts without labels, the own and public ones.

    For a light student, further tasks' texts besides: their teachers are trained here.
    """
    if not spec.teachers and spec.form is None:
        return StageTexts(rows.train, rows.folds)
    texts, of_row = imitation_rows(encoder, rows.train)
    if isinstance(spec.form, ConditionalSettings):
        long = skippable(texts.ids, spec.form.routing)
        texts, of_row = texts.select(long), of_row[long]
    folds = None if rows.folds is None else torch.where(of_row < 0, -1, rows.folds[of_row])
    if spec.form is None or isinstance(spec.form, ConditionalSettings):
        return StageTexts(texts, folds)
    tasks = taught_tasks(
        retrieval_task(tuple(map(tuple, texts.ids)), encoder),
        [] if spec.tasks is None else read_tasks(Path(spec.tasks)),
        encoder,
        bottleneck_size=spec.bottleneck_size,
        student_layers=spec.form.layers,
        schedule=spec.schedule,
        seed=spec.seed,
    )
    rows_of_all = tasks.batches.texts
    if folds is not None:  # no fold holds out a row of another task
        folds = F.pad(folds, (0, len(rows_of_all.ids) - len(folds)), value=-1)
    return StageTexts(rows_of_all, folds, tasks)


def build_objective(
    spec: StageSpec, encoder: Encoder, rows: TrainingRows, tasks: TaughtTasks | None = None
) -> Objective:
    """The stage's objective on these training rows, on the encoder's device, at its start.

    Args:
        tasks: of the stage's texts (`texts_of`).
    """
    initial = None if spec.initial is None else load_payload(Path(spec.initial)).to(encoder.device)
    if spec.form is not None:
        assert initial is not None, "a form is made from an adapter"
        return form_objective(spec.form, encoder, initial, rows, tasks, seed=spec.seed)
    if not spec.teachers:
        student = initial or BottleneckAdapter.new(
            encoder.num_layers, encoder.hidden_size, spec.bottleneck_size, seed=spec.seed
        )
        return OwnAdapter(encoder, student.to(encoder.device))
    teachers = [load_payload(Path(path)).to(encoder.device) for path in spec.teachers]
    return distillation_of(
        encoder,
        teachers,
        rows,
        own=initial,
        bottleneck_size=spec.bottleneck_size,
        seed=spec.seed,
    )


Trained = BottleneckAdapter | ServedForm
"""What a stage makes: an adapter, or a form of one."""


def pack_trained(trained: Trained, encoder: Encoder) -> bytes:
    """Its payload."""
    if isinstance(trained, ServedForm):
        return pack_form(trained)
    return pack_adapter(trained, model_name=encoder.ref.name)


@dataclass(frozen=True)
class TrainedStage:
    """What a stage leaves, each at the best step."""

    student: Trained
    folds: tuple[Trained, ...]
    """Each fold's student; no row of the fold was trained on."""
    result: TrainResult
    teaching: Teaching | None = None
    """Of stage 2."""
    tasks: Mapping[str, Mapping[str, Metric]] = field(default_factory=dict)
    """Of a light student: accuracy on its further tasks, as `TaughtTasks.scores` gives it."""


def run_stage(
    spec: StageSpec,
    encoder: Encoder,
    *,
    workers: Workers | None = None,
    checkpoint: Checkpoint | None = None,
    resume: bytes | None = None,
    progress: Progress | None = None,
) -> TrainedStage:
    """Train one stage; where its rows have folds, those first."""
    rows = read_rows(Path(spec.rows))
    texts = texts_of(spec, encoder, rows)
    objective = build_objective(spec, encoder, rows.train, texts.tasks)
    folds = [
        Scored(
            build_objective(spec.of_fold(number), encoder, part.train, texts.tasks),
            part.scorer(encoder),
        )
        for number, part in enumerate(rows.splits())
    ]
    run = partial(
        train,
        seed=spec.seed,
        device=encoder.device,
        choose=texts.choose,
        workers=workers,
        progress=progress,
    )
    if folds and texts.folds is not None:
        scored = folds
        result = train_in_folds(
            run,
            CrossValidation(folds, texts.rows, texts.folds),
            objective,
            texts.rows,
            spec.schedule,
            checkpoint=checkpoint,
            resume=resume,
        )
    else:
        held_out = rows.scorer(encoder) if rows.held_queries.ids else None
        scored = [] if held_out is None else [Scored(objective, held_out)]
        result = run(
            objective,
            texts.rows,
            spec.schedule,
            held_out=held_out,
            checkpoint=checkpoint,
            resume=resume,
        )

    def trained(of: Objective) -> Trained:
        return of.student if spec.form is None else form_of(spec.form, of)

    of_tasks = None
    if texts.tasks is not None and isinstance(objective, MultitaskDistillation):
        of_tasks = texts.tasks.scores(objective.model)
    return TrainedStage(
        trained(objective),
        tuple(trained(fold.objective) for fold in folds),
        result,
        teaching_of(objective, scored if spec.leave_one_out else ()),
        of_tasks or {},
    )
