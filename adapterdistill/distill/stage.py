"""A training stage as data, which Ray Train workers receive, and its training.

A spec holds paths and numbers only. Rows are token ids in a file on the owner's node.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import unpack_adapter
from adapterdistill.distill.batches import Choose, TrainingRows, choose_rows
from adapterdistill.distill.folds import CrossValidation, fold_file, train_in_folds
from adapterdistill.distill.method import (
    OWN_ADAPTER,
    Method,
    StageTexts,
    Start,
    Teaching,
    Trained,
    Variant,
)
from adapterdistill.distill.methods import METHODS
from adapterdistill.distill.objective import Objective, Progress, Scored
from adapterdistill.distill.private.order import secret_choice
from adapterdistill.distill.rows import StageRows, read_rows
from adapterdistill.distill.training import Checkpoint, Schedule, TrainResult, Workers, train
from adapterdistill.manifest import Metric


@dataclass(frozen=True)
class StageSpec:
    """One training stage of one tenant."""

    rows: str
    """File written by `write_rows`."""
    bottleneck_size: int
    schedule: Schedule
    seed: int
    """Public: of the initialisation, and of the order of rows unless that is secret."""
    method: str | None = None
    """One of `METHODS`; None: stage 1, own rows only."""
    initial: str | None = None
    """Payload of the adapter to start from; None starts near identity."""
    teachers: tuple[str, ...] = ()
    """Payload files of the frozen teachers."""
    leave_one_out: bool = False
    """Whether to score the teachers' composition without each of them afterwards."""
    sections: dict[str, Any] = field(default_factory=dict)
    """The method's sections of the run's TOML."""
    variant: dict[str, Any] | None = None
    """Settings of the variant to make of the adapter `initial`, which is then frozen."""
    tasks: str | None = None
    """File that `Method.prepare` may have written."""
    secret: str | None = None
    """Draws the rows of each step; None: `seed` does."""

    def __post_init__(self) -> None:
        if self.teachers and self.method is None:
            raise ValueError("a stage with teachers needs a method")

    def of_fold(self, fold: int) -> "StageSpec":
        """The same, started from the fold's adapter of the stage before."""
        if self.initial is None:
            return self
        return replace(self, initial=str(fold_file(Path(self.initial), fold)))

    def to_json(self) -> str:
        return _SPEC.dump_json(self).decode()

    @classmethod
    def from_json(cls, text: str) -> "StageSpec":
        return _SPEC.validate_json(text)

    def start(self, encoder: Encoder) -> Start:
        """The start of the training, read from the spec's files."""
        method = method_of(self)
        variant = None
        if self.variant is not None:
            assert method.variant is not None and self.initial is not None
            variant = method.variant.model_validate(self.variant)

        def loaded(path: str) -> BottleneckAdapter:
            return load_payload(Path(path)).to(encoder.device)

        return Start(
            encoder,
            self.seed,
            self.bottleneck_size,
            self.schedule,
            method.sections.model_validate(self.sections),
            initial=None if self.initial is None else loaded(self.initial),
            teachers=tuple(map(loaded, self.teachers)),
            variant=variant,
            tasks_file=None if self.tasks is None else Path(self.tasks),
            choose=choice(self.secret),
        )


_SPEC = TypeAdapter(StageSpec)


def choice(secret: str | None) -> Choose:
    """Choice of a step's rows by `secret`; None: by the public seed."""
    return choose_rows if secret is None else secret_choice(secret)


def method_of(spec: StageSpec) -> Method:
    """The stage's method."""
    return OWN_ADAPTER if spec.method is None else METHODS[spec.method]


def load_payload(path: Path) -> BottleneckAdapter:
    """The adapter in a payload file."""
    return unpack_adapter(path.read_bytes())


def texts_of(spec: StageSpec, encoder: Encoder, rows: StageRows) -> StageTexts:
    """The texts that the stage trains on."""
    return method_of(spec).texts(spec.start(encoder), rows)


def build_objective(
    spec: StageSpec, encoder: Encoder, rows: TrainingRows, texts: StageTexts | None = None
) -> Objective:
    """The stage's objective on these training rows, on the encoder's device, at its start.

    Args:
        texts: the stage's (`texts_of`); None: `rows` alone.
    """
    texts = texts or StageTexts(rows, None)
    return method_of(spec).objective(spec.start(encoder), rows, texts)


def trained_by(spec: StageSpec, objective: Objective) -> Trained:
    """The model that the stage's trained objective leaves."""
    method = method_of(spec)
    if spec.variant is None or method.variant is None:
        adapter = objective.deployed()
        assert isinstance(adapter, BottleneckAdapter)
        return adapter
    return Variant(method.variant.model_validate(spec.variant), method.model(objective))


@dataclass(frozen=True)
class TrainedStage:
    """Models that a stage leaves, each at the best step."""

    student: Trained
    folds: tuple[Trained, ...]
    """Each fold's student; no row of the fold was trained on."""
    result: TrainResult
    teaching: Teaching | None = None
    """Each teacher's help, if the method can say."""
    tasks: Mapping[str, Mapping[str, Metric]] = field(default_factory=dict)
    """Metrics by task, as `StageTexts.scores` gives them."""


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
    objective = build_objective(spec, encoder, rows.train, texts)
    folds = [
        Scored(
            build_objective(spec.of_fold(number), encoder, part.train, texts),
            part.scorer(encoder),
        )
        for number, part in enumerate(rows.splits())
    ]
    run = partial(
        train,
        seed=spec.seed,
        device=encoder.device,
        choose=texts.choose or choice(spec.secret),
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

    return TrainedStage(
        trained_by(spec, objective),
        tuple(trained_by(spec, fold.objective) for fold in folds),
        result,
        method_of(spec).teaching(objective, scored if spec.leave_one_out else ()),
        texts.scores(objective),
    )
