"""Method `multitask_kd`: a light student of the tenant's adapter and of its further tasks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from adapterdistill.backbone import Embedder, Encoder
from adapterdistill.data.tasks import Task
from adapterdistill.distill.adapter_distillation import imitation_texts
from adapterdistill.distill.batches import TrainingRows
from adapterdistill.distill.meta_kd.tasks import Domains
from adapterdistill.distill.method import (
    Cost,
    Method,
    StageTexts,
    Start,
    VariantConfig,
    VariantSettings,
)
from adapterdistill.distill.multitask_kd.objective import MultitaskDistillation
from adapterdistill.distill.multitask_kd.students import (
    BiLstmBody,
    Body,
    MultitaskModel,
    TaskTexts,
    TransformerBody,
)
from adapterdistill.distill.multitask_kd.task_teachers import (
    TaskSplits,
    TaughtTasks,
    read_tasks,
    taught_tasks,
    tokenise_task,
    write_tasks,
)
from adapterdistill.distill.objective import Objective
from adapterdistill.distill.rows import StageRows
from adapterdistill.errors import ConfigError
from adapterdistill.manifest import Metric, Record, SharedPrototypes
from adapterdistill.sections import Section


class LightConfig(VariantConfig):
    """Section `light`: a small Transformer or BiLSTM that replaces the encoder.

    It also learns the tasks in the tenant's folder `tasks`, whose teachers have the same steps;
    with `meta_kd`, tasks whose rows name domains from meta-teachers, by a Transformer only.
    """

    body: Literal["transformer", "bilstm"] = "transformer"
    layers: int = Field(default=2, ge=1)
    """Layers of a Transformer: at most the encoder's."""
    heads: int = Field(default=3, ge=1)
    """Attention heads of a Transformer: at most the encoder's."""
    lstm_size: int = Field(default=64, ge=1)
    """Size of each direction of a BiLSTM: at most half of the encoder's hidden size."""
    steps: int = Field(default=1000, ge=1, le=100_000)
    learning_rate: float = Field(default=1e-3, gt=0, le=1)


class LightSections(Section):
    """The method's sections."""

    light: LightConfig = LightConfig()


class TaskHead(Record):
    """A classification task that a light student answers besides retrieval."""

    name: str = Field(pattern=r"^[a-z0-9_]{1,40}$")
    classes: tuple[str, ...] = Field(min_length=2)
    pairs: bool

    @classmethod
    def of(cls, task: TaskSplits) -> "TaskHead":
        return cls(name=task.name, classes=task.classes, pairs=task.train.pairs)


class LightSettings(VariantSettings):
    """A light student of the encoder's word embeddings (multi-task distillation, or Meta-KD)."""

    kind: Literal["multitask_kd", "meta_kd"] = "multitask_kd"
    body: Literal["transformer", "bilstm"]
    layers: int = Field(ge=1)
    heads: int = Field(ge=1)
    lstm_size: int = Field(ge=1)
    tasks: tuple[TaskHead, ...] = ()
    """Tasks whose heads are kept with the model; the retrieval comes before them."""

    def new(self, encoder: Encoder, *, seed: int) -> MultitaskModel:
        """Raises ConfigError if it would have more than its teacher, the encoder, has."""
        body: Body
        if self.body == "transformer":
            # Positions stay the encoder's: a server may read longer texts than the owner did.
            body = TransformerBody(
                encoder, num_layers=self.layers, num_heads=self.heads, train_positions=False
            )
        else:
            if 2 * self.lstm_size > encoder.hidden_size:
                raise ConfigError(
                    f"a BiLSTM of lstm_size {self.lstm_size} is {2 * self.lstm_size} wide, its "
                    f"teacher's embeddings {encoder.hidden_size}: take at most "
                    f"{encoder.hidden_size // 2}"
                )
            pairs = any(task.pairs for task in self.tasks)
            body = BiLstmBody(encoder, hidden_size=self.lstm_size, pairs=pairs, seed=seed)
        none = torch.empty(0, dtype=torch.int64)
        heads = [TaskTexts((), none, task.pairs, len(task.classes)) for task in self.tasks]
        return MultitaskModel(body, [retrieval_task((), encoder), *heads], seed=seed)

    def embedder(self, model: nn.Module) -> Embedder:
        assert isinstance(model, MultitaskModel)
        return model

    def frozen(self, model: nn.Module) -> nn.Module:
        assert isinstance(model, MultitaskModel)
        model.body.freeze()
        return super().frozen(model)


def retrieval_task(ids: tuple[tuple[int, ...], ...], encoder: Encoder) -> TaskTexts:
    """A tenant's texts as a task: the student is to embed them where the adapter does."""
    labels = torch.full((len(ids),), -1)
    return TaskTexts(ids, labels, pairs=False, num_outputs=encoder.embedding_size, retrieval=True)


@dataclass(frozen=True)
class LightTexts(StageTexts):
    """The tenant's texts and those of its tasks, whose teachers are trained."""

    tasks: TaughtTasks = field(kw_only=True)

    def scores(self, objective: Objective) -> dict[str, dict[str, Metric]]:
        assert isinstance(objective, MultitaskDistillation)
        return self.tasks.scores(objective.model)


class MultitaskKd(Method):
    """Trains one student of the tenant's adapter and of each task's teacher."""

    sections: ClassVar[type[Section]] = LightSections
    variant = LightSettings
    cost = Cost(step=0.3, forward=1.0)  # without the tasks
    one_worker = True

    def variant_settings(self, sections: Section, *, bottleneck_size: int) -> LightSettings:
        assert isinstance(sections, LightSections)
        light = sections.light
        return LightSettings(
            body=light.body, layers=light.layers, heads=light.heads, lstm_size=light.lstm_size
        )

    def domains(self, task: Task, prototypes: Sequence[SharedPrototypes]) -> Domains | None:
        """The domains over which the task is learnt; None: as one task."""
        return None

    def prepare(
        self,
        settings: VariantSettings,
        encoder: Encoder,
        tasks: Sequence[Task],
        prototypes: Sequence[SharedPrototypes],
        *,
        tasks_file: Path,
    ) -> VariantSettings:
        splits = [tokenise_task(task, encoder, self.domains(task, prototypes)) for task in tasks]
        if splits:
            write_tasks(tasks_file, splits)
        return settings.model_copy(update={"tasks": tuple(map(TaskHead.of, splits))})

    def texts(self, start: Start, rows: StageRows) -> LightTexts:
        assert isinstance(start.variant, LightSettings)
        own = imitation_texts(start.encoder, rows)
        tasks = taught_tasks(
            retrieval_task(tuple(map(tuple, own.rows.ids)), start.encoder),
            [] if start.tasks_file is None else read_tasks(start.tasks_file),
            start.encoder,
            bottleneck_size=start.bottleneck_size,
            student_layers=start.variant.layers,
            schedule=start.schedule,
            seed=start.seed,
        )
        of_all = tasks.batches.texts
        folds = own.folds
        if folds is not None:  # no fold holds out a row of another task
            folds = F.pad(folds, (0, len(of_all.ids) - len(folds)), value=-1)
        return LightTexts(of_all, folds, tasks.batches.choose, tasks=tasks)

    def objective(self, start: Start, rows: TrainingRows, texts: StageTexts) -> Objective:
        assert isinstance(texts, LightTexts) and isinstance(start.variant, LightSettings)
        assert start.initial is not None
        tasks, adapter = texts.tasks, start.initial.requires_grad_(False)
        targets = [start.encoder.embed_ids(tasks.batches.tasks[0].ids, adapter), *tasks.targets]
        student = start.variant.new(start.encoder, seed=start.seed)
        return self.distillation(student, tasks, targets, seed=start.seed)

    def distillation(
        self, student: MultitaskModel, tasks: TaughtTasks, targets: Sequence[Tensor], *, seed: int
    ) -> MultitaskDistillation:
        """The loss of the student on the retrieval, whose targets come first, and the tasks."""
        return MultitaskDistillation(student, tasks.batches, targets)

    def model(self, objective: Objective) -> MultitaskModel:
        assert isinstance(objective, MultitaskDistillation)
        return objective.model
