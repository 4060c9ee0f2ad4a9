"""A training method: its config, texts, objective, result and cost, in one file.

`distill.methods` lists the methods that a run may name. A method either trains the student of
stage 2, or trains a variant: a cheaper model that a tenant may be served by in place of its
adapter. Everything else (folds, checkpoints, workers, verdicts, bundles) is the same for all.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from pydantic import Field
from torch import Tensor, nn

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Embedder, Encoder
from adapterdistill.data.tasks import Task
from adapterdistill.distill.batches import Choose, TrainingRows, choose_rows
from adapterdistill.distill.objective import Objective, OwnAdapter, Scored
from adapterdistill.distill.rows import StageRows
from adapterdistill.distill.training import Schedule
from adapterdistill.manifest import Metric, Record, SharedPrototypes
from adapterdistill.sections import EncoderConfig, Section


class VariantConfig(Section):
    """The training of a variant, and how much the variant may lose."""

    steps: int = Field(ge=1, le=100_000)
    learning_rate: float = Field(gt=0, le=1)
    most_lost: float = Field(default=0.01, ge=0, le=1)
    """Top-1 that the variant may lose on held-out rows against the adapter and still be served."""


class VariantSettings(Record, ABC):
    """Settings that a variant's model is built from. Its payload keeps them as metadata."""

    kind: str
    """The method that made it."""

    @abstractmethod
    def new(self, encoder: Encoder, *, seed: int) -> nn.Module:
        """An untrained model. Raises ConfigError if the encoder is too small for it."""

    @abstractmethod
    def embedder(self, model: nn.Module) -> Embedder:
        """Embeds texts with `model`, which `new` built."""

    def frozen(self, model: nn.Module) -> nn.Module:
        """The model, prepared for many forwards: its parameters change no more."""
        return model.requires_grad_(False)


@dataclass(frozen=True, eq=False)
class Variant:
    """A trained variant."""

    settings: VariantSettings
    model: nn.Module

    @property
    def embedder(self) -> Embedder:
        """Embeds texts as the variant does."""
        return self.settings.embedder(self.model)


Trained = BottleneckAdapter | Variant
"""Result of a stage: an adapter, or a variant of one."""


class Cost(NamedTuple):
    """Cost of a method's training, for the estimate of a run."""

    step: float = 1.0
    """One token of a training step, in steps of an own adapter."""
    forward: float = 0.0
    """Further forwards of the encoder for each token."""
    before: float = 0.0
    """Steps of an own adapter that the start takes, before the first step."""


@dataclass(frozen=True)
class Start:
    """The start of a training."""

    encoder: Encoder
    seed: int
    bottleneck_size: int
    schedule: Schedule
    sections: Section
    """The method's sections of the run's TOML."""
    initial: BottleneckAdapter | None = None
    """The adapter of the stage before, on the encoder's device; a fold's own in a fold."""
    teachers: Sequence[BottleneckAdapter] = ()
    """Frozen, on the encoder's device."""
    variant: VariantSettings | None = None
    tasks_file: Path | None = None
    """File that `Method.prepare` wrote, if it wrote one."""
    choose: Choose = choose_rows
    """Choice of a step's rows, for what is trained before the first step."""


@dataclass(frozen=True)
class StageTexts:
    """Texts that a stage trains on."""

    rows: TrainingRows
    folds: Tensor | None
    """[rows] int64: the fold that holds the row out, -1 for none. None: no folds."""
    choose: Choose | None = None
    """The method's own choice of a step's rows; None: the stage's."""

    def scores(self, objective: Objective) -> Mapping[str, Mapping[str, Metric]]:
        """Metrics by task of what `objective` trained, besides retrieval."""
        return {}


@dataclass(frozen=True)
class Teaching:
    """Each teacher's help, in the teachers' order."""

    weights: tuple[float, ...]
    """Share of the composition; the sum is 1."""
    leave_one_out: tuple[float, ...] = ()
    """Held-out score of the composition without it minus that of the whole: below 0 where it
    helped. Empty where that was not asked for, or nothing is held out."""


class Method:
    """A training method. The base itself is stage 1: the own rows train the own adapter."""

    sections: ClassVar[type[Section]] = Section
    """The method's further sections of a run's TOML: each field is one, and has a default."""
    variant: ClassVar[type[VariantSettings] | None] = None
    """Settings of the variant that the method makes of the chosen adapter. None: the method trains
    the student of stage 2."""
    cost: ClassVar[Cost] = Cost()
    starts_from_average: ClassVar[bool] = False
    """Whether the student starts as the teachers' average, else as the own adapter."""
    one_worker: ClassVar[bool] = False
    """Whether it trains in one process only."""

    def check_config(self, sections: Section, encoder: EncoderConfig) -> None:
        """Raises ValueError if the sections cannot go with the encoder's."""

    def check_tasks(self, tasks: Callable[[], Sequence[Task]]) -> None:
        """Raises ConfigError if the tenant's tasks are not those that the method needs."""

    def noise(self, sections: Section) -> float | None:
        """Noise of the prototypes that the owner publishes; None: it publishes none."""
        return None

    def variant_settings(self, sections: Section, *, bottleneck_size: int) -> VariantSettings:
        """Settings of the variant, before the tenant's tasks are known."""
        raise NotImplementedError

    def prepare(
        self,
        settings: VariantSettings,
        encoder: Encoder,
        tasks: Sequence[Task],
        prototypes: Sequence[SharedPrototypes],
        *,
        tasks_file: Path,
    ) -> VariantSettings:
        """The settings once the tenant's tasks are known. May write `tasks_file` for the training.

        Args:
            prototypes: those that the teachers publish.
        """
        return settings

    def schedule(self, schedule: Schedule, *, labelled: bool) -> Schedule:
        """The method's schedule, made from that of the run's TOML.

        Args:
            labelled: whether the tenant has labelled training queries.
        """
        return schedule

    def texts(self, start: Start, rows: StageRows) -> StageTexts:
        """The texts that the method trains on."""
        return StageTexts(rows.train, rows.folds)

    def objective(self, start: Start, rows: TrainingRows, texts: StageTexts) -> Objective:
        """The objective at its start, on the encoder's device.

        Args:
            rows: the tenant's own training rows; in a fold those that it does not hold out.
            texts: the result of `texts`, for all rows.
        """
        student = start.initial or BottleneckAdapter.new(
            start.encoder.num_layers,
            start.encoder.hidden_size,
            start.bottleneck_size,
            seed=start.seed,
        )
        return OwnAdapter(start.encoder, student.to(start.encoder.device))

    def model(self, objective: Objective) -> nn.Module:
        """The variant's model that `objective` trained."""
        raise NotImplementedError

    def teaching(self, objective: Objective, scored: Sequence[Scored]) -> Teaching | None:
        """Each teacher's help; None if the method cannot say.

        Args:
            scored: the trained objective, or each fold's, with its score; empty if no teacher is to
                be left out.
        """
        return None


OWN_ADAPTER = Method()
