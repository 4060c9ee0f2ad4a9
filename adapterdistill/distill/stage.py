"""A training stage as data: what Ray Train workers receive, and how it becomes a training.

A spec holds paths and numbers only. Rows are token ids in a file on the owner's node.
"""

import json
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import unpack_adapter
from adapterdistill.distill.adapter_distillation import (
    distillation_of,
    imitation_rows,
)
from adapterdistill.distill.batches import TrainingRows
from adapterdistill.distill.folds import CrossValidation, fold_file, train_in_folds
from adapterdistill.distill.held_out import HeldOutRows
from adapterdistill.distill.method import Objective, OwnAdapter, Progress, Scored
from adapterdistill.distill.teaching import Teaching, teaching_of
from adapterdistill.distill.training import Checkpoint, Schedule, TrainResult, Workers, train


@dataclass(frozen=True)
class StageSpec:
    """One stage of one tenant. `teachers` empty: stage 1, own rows only."""

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

    def of_fold(self, fold: int) -> "StageSpec":
        """The same, started from what the stage before left for the fold."""
        if self.initial is None:
            return self
        return replace(self, initial=str(fold_file(Path(self.initial), fold)))

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "StageSpec":
        values = json.loads(text)
        values["schedule"] = Schedule(**values["schedule"])
        values["teachers"] = tuple(values["teachers"])
        return cls(**values)


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


def load_payload(path: str) -> BottleneckAdapter:
    return unpack_adapter(Path(path).read_bytes())


def build_objective(spec: StageSpec, encoder: Encoder, rows: TrainingRows) -> Objective:
    """The stage's objective on these training rows, on the encoder's device, at its start."""
    initial = None if spec.initial is None else load_payload(spec.initial).to(encoder.device)
    if not spec.teachers:
        student = initial or BottleneckAdapter.new(
            encoder.num_layers, encoder.hidden_size, spec.bottleneck_size, seed=spec.seed
        )
        return OwnAdapter(encoder, student.to(encoder.device))
    teachers = [load_payload(path).to(encoder.device) for path in spec.teachers]
    return distillation_of(
        encoder,
        teachers,
        rows,
        own=initial,
        bottleneck_size=spec.bottleneck_size,
        seed=spec.seed,
    )


def texts_of(
    spec: StageSpec, encoder: Encoder, rows: StageRows
) -> tuple[TrainingRows, Tensor | None]:
    """What the stage trains on, and the fold that holds out each, [texts] int64, -1 for none."""
    if not spec.teachers:
        return rows.train, rows.folds
    texts, of_row = imitation_rows(encoder, rows.train)
    if rows.folds is None:
        return texts, None
    return texts, torch.where(of_row < 0, -1, rows.folds[of_row])


@dataclass(frozen=True)
class TrainedStage:
    """What a stage leaves, each at the best step."""

    student: BottleneckAdapter
    folds: tuple[BottleneckAdapter, ...]
    """Each fold's student; no row of the fold was trained on."""
    result: TrainResult
    teaching: Teaching | None = None
    """Of stage 2."""


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
    objective = build_objective(spec, encoder, rows.train)
    folds = [
        Scored(build_objective(spec.of_fold(number), encoder, part.train), part.scorer(encoder))
        for number, part in enumerate(rows.splits())
    ]
    texts, fold_of_text = texts_of(spec, encoder, rows)
    run = partial(train, seed=spec.seed, device=encoder.device, workers=workers, progress=progress)
    if folds and fold_of_text is not None:
        scored = folds
        result = train_in_folds(
            run,
            CrossValidation(folds, texts, fold_of_text),
            objective,
            texts,
            spec.schedule,
            checkpoint=checkpoint,
            resume=resume,
        )
    else:
        held_out = rows.scorer(encoder) if rows.held_queries.ids else None
        scored = [] if held_out is None else [Scored(objective, held_out)]
        result = run(
            objective,
            texts,
            spec.schedule,
            held_out=held_out,
            checkpoint=checkpoint,
            resume=resume,
        )
    return TrainedStage(
        objective.student,
        tuple(fold.objective.student for fold in folds),
        result,
        teaching_of(objective, scored if spec.leave_one_out else ()),
    )
