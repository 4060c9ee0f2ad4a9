"""Served forms: cheaper models that a tenant may be served by in place of its adapter.

A form is its settings, from which a model is built, and that model's weights. Its payload is
safetensors with the settings as metadata; equal forms give equal bytes.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import safetensors.torch
import torch
from pydantic import Field, TypeAdapter
from safetensors import SafetensorError
from torch import nn

from adapterdistill.adapters import LEAST, BottleneckAdapter, ConditionalAdapter, Routing
from adapterdistill.backbone import Embedder, Encoder
from adapterdistill.checkpoint import metadata_of
from adapterdistill.distill.adapter_distillation import imitation_rows
from adapterdistill.distill.batches import TrainingRows
from adapterdistill.distill.conditional_distillation import (
    SKIPPING_SIZE,
    ConditionalDistillation,
    fitted,
    skippable,
)
from adapterdistill.distill.meta_kd.tasks import MetaTasksDistillation
from adapterdistill.distill.method import Objective
from adapterdistill.distill.multitask_kd import MultitaskDistillation
from adapterdistill.distill.students import (
    BiLstmBody,
    Body,
    MultitaskModel,
    TaskTexts,
    TransformerBody,
)
from adapterdistill.distill.task_teachers import TaskSplits, TaughtTasks
from adapterdistill.errors import ConfigError, InvalidPayloadError
from adapterdistill.manifest import Record, canonical_json

_METADATA = "served_form"


class ConditionalSettings(Record):
    """A conditional adapter (CoDA) at one speed."""

    kind: Literal["conditional"] = "conditional"
    bottleneck_size: int = Field(ge=1, le=1024)
    skipping_size: int = Field(default=SKIPPING_SIZE, ge=1, le=1024)
    speed: float = Field(ge=1, le=8192)
    least: int = Field(default=LEAST, ge=3, le=8192)
    to_all: bool

    def new(self, encoder: Encoder, *, seed: int) -> ConditionalAdapter:
        """Near identity, with a random router."""
        shape = (encoder.num_layers, encoder.hidden_size, self.bottleneck_size)
        adapter = BottleneckAdapter.new(*shape, seed=seed).to(encoder.device)
        return ConditionalAdapter.new(adapter, skipping_size=self.skipping_size, seed=seed)

    def embedder(self, model: nn.Module) -> Embedder:
        assert isinstance(model, ConditionalAdapter)
        return model.at(self.routing)

    @property
    def routing(self) -> Routing:
        return Routing(self.speed, least=self.least, to_all=self.to_all)


class TaskHead(Record):
    """A classification task that a light student answers besides retrieval."""

    name: str = Field(pattern=r"^[a-z0-9_]{1,40}$")
    classes: tuple[str, ...] = Field(min_length=2)
    pairs: bool

    @classmethod
    def of(cls, task: TaskSplits) -> "TaskHead":
        return cls(name=task.name, classes=task.classes, pairs=task.train.pairs)


class LightSettings(Record):
    """A light student of the encoder's word embeddings (multi-task distillation, or Meta-KD)."""

    kind: Literal["multitask_kd", "meta_kd"] = "multitask_kd"
    body: Literal["transformer", "bilstm"]
    layers: int = Field(ge=1)
    """Of a Transformer, like `heads`."""
    heads: int = Field(ge=1)
    lstm_size: int = Field(ge=1)
    """Of each direction of a BiLSTM."""
    tasks: tuple[TaskHead, ...] = ()
    """Their heads are kept with the model; retrieval alone is served."""

    def new(self, encoder: Encoder, *, seed: int) -> MultitaskModel:
        """Raises ConfigError where it would have more than its teacher, the encoder, has."""
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


FormSettings = Annotated[ConditionalSettings | LightSettings, Field(discriminator="kind")]
_SETTINGS: TypeAdapter[ConditionalSettings | LightSettings] = TypeAdapter(FormSettings)


@dataclass(frozen=True, eq=False)
class ServedForm:
    """A trained form."""

    settings: FormSettings
    model: nn.Module

    @property
    def embedder(self) -> Embedder:
        """What embeds texts as the form does."""
        return self.settings.embedder(self.model)


def retrieval_task(ids: tuple[tuple[int, ...], ...], encoder: Encoder) -> TaskTexts:
    """A tenant's texts as a task: to be embedded where the encoder's adapter embeds them."""
    labels = torch.full((len(ids),), -1)
    return TaskTexts(ids, labels, pairs=False, num_outputs=encoder.hidden_size, retrieval=True)


def form_objective(
    settings: FormSettings,
    encoder: Encoder,
    adapter: BottleneckAdapter,
    rows: TrainingRows,
    tasks: TaughtTasks | None,
    *,
    seed: int,
) -> Objective:
    """A new form, and what brings it close to the frozen `adapter`.

    Args:
        rows: the tenant's training rows, on which a form may be fitted before it is trained. A
            fold's own: it must not be fitted on what it holds out.
        tasks: of a light student.
    """
    adapter.requires_grad_(False)
    if isinstance(settings, ConditionalSettings):
        texts, _ = imitation_rows(encoder, rows)
        texts = texts.select(skippable(texts.ids, settings.routing))
        model = fitted(encoder, adapter, texts.ids, skipping_size=settings.skipping_size, seed=seed)
        return ConditionalDistillation(encoder, model, adapter, settings.routing)
    assert tasks is not None
    targets = [encoder.embed_ids(tasks.batches.tasks[0].ids, adapter), *tasks.targets]
    student = settings.new(encoder, seed=seed)
    if not any(tasks.lessons):
        return MultitaskDistillation(student, tasks.batches, targets)
    lessons = [None, *tasks.lessons]  # the first task is the retrieval
    return MetaTasksDistillation(student, tasks.batches, targets, lessons, seed=seed)


def form_of(settings: FormSettings, objective: Objective) -> ServedForm:
    """The form that `objective`, made by `form_objective`, has trained."""
    if isinstance(objective, ConditionalDistillation):
        return ServedForm(settings, objective.conditional)
    assert isinstance(objective, MultitaskDistillation)
    return ServedForm(settings, objective.model)


def pack_form(form: ServedForm) -> bytes:
    """The form's payload."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in form.model.state_dict().items()}
    settings = canonical_json(form.settings.model_dump(mode="json")).decode()
    return safetensors.torch.save(tensors, {_METADATA: settings})


def unpack_form(payload: bytes, encoder: Encoder) -> ServedForm:
    """The frozen form in a payload, on the encoder's device.

    Raises:
        InvalidPayloadError: not safetensors, settings that are missing, malformed or not for this
            encoder, or other tensors than the settings say.
    """
    try:
        tensors = safetensors.torch.load(payload)
        settings = _SETTINGS.validate_json(metadata_of(payload, _METADATA) or "")
    except (SafetensorError, ValueError, KeyError):  # pydantic's too: it is a ValueError
        raise InvalidPayloadError("payload is not a served form") from None
    try:
        model = settings.new(encoder, seed=0)
    except ConfigError as error:
        raise InvalidPayloadError(f"served form does not fit the encoder: {error}") from None
    expected = {name: (t.dtype, t.shape) for name, t in model.state_dict().items()}
    if {name: (t.dtype, t.shape) for name, t in tensors.items()} != expected:
        raise InvalidPayloadError(f"served form has other tensors than its kind, {settings.kind}")
    if not all(bool(t.isfinite().all()) for t in tensors.values()):
        raise InvalidPayloadError("served form holds a tensor that is not finite")
    model.load_state_dict(tensors)
    if isinstance(model, MultitaskModel):
        model.body.freeze()
    return ServedForm(settings, model.requires_grad_(False))
