"""The methods of the table: each turns an arrival and a setting into a way to embed texts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adapterdistill.adapters import AdapterStack, BottleneckAdapter, Fusion
from adapterdistill.backbone import Embedder, Encoder
from adapterdistill.bench.tenants import BenchTenant, TextRows
from adapterdistill.bench.transfer.baselines import FullTuning, TfIdf, train_in_turn
from adapterdistill.bench.transfer.scoring import Embed
from adapterdistill.distill.adapter_distillation import (
    AdapterDistillation,
    distillation_of,
    imitation_rows,
)
from adapterdistill.distill.adapter_fusion import AdapterFusion
from adapterdistill.distill.attention_distillation import attention_distillation_of
from adapterdistill.distill.batches import TrainingRows
from adapterdistill.distill.objective import Objective, OwnAdapter
from adapterdistill.distill.training import Schedule, train
from adapterdistill.testbed.random_adapters import BOTTLENECK_SIZE, new_adapter

CHECK_EVERY = 10
"""Steps between the scores that choices are made on."""


@dataclass(frozen=True)
class Setting:
    """The values that are tuned."""

    learning_rate: float
    steps: int


@dataclass(frozen=True)
class Arrival:
    """A tenant that arrives with k queries an FAQ, and what the registry holds then."""

    encoder: Encoder
    tenant: BenchTenant
    k: int | None
    seed: int
    rows: TextRows
    """The questions, in order, then the k training queries: to train on and to index."""
    teachers: tuple[BottleneckAdapter, ...] = ()
    own: BottleneckAdapter | None = None
    """The tenant's own adapter; None at k = 0, where nothing can train one."""
    pool: tuple[TextRows, ...] = ()
    """Other tenants' rows, for the reference that privacy forbids."""
    base: BottleneckAdapter | None = None
    """An adapter to start from, for methods that name one."""

    def stack(self) -> AdapterStack:
        return AdapterStack.of(self.teachers, dtype=self.encoder.dtype, device=self.encoder.device)

    def fresh(self) -> BottleneckAdapter:
        return new_adapter(self.encoder, self.seed)


Monitor = Callable[[Embed], float]
"""Sees the model at every checkpoint of a tuning run."""


@dataclass(frozen=True)
class Trained:
    """A way to embed, and the adapter if the method leaves nothing else."""

    embed: Embed
    adapter: BottleneckAdapter | None = None


Run = Callable[[Arrival, Setting, Monitor | None], Trained]


@dataclass(frozen=True)
class Method:
    """One row of the table.

    `version` is part of every result's key: raise it when the method's results change.
    """

    name: str
    label: str
    version: str
    run: Run
    needs: frozenset[str] = frozenset()
    """Any of "teachers", "own", "base", "pool"."""
    rates: tuple[float, ...] = ()
    """Learning rates to choose from; none: nothing is tuned."""
    max_steps: int = 0
    step_cost: float = 0.0
    """A training step relative to an own adapter's, for the estimate."""
    ablation: bool = False
    """Run only where the controls are."""
    needs_queries: bool = True
    """Whether it needs a training query, so that k = 0 is not for it."""
    control: bool = False
    tuned_as: str | None = None
    """The method whose choices this one takes over."""


def embed_with(encoder: Encoder, delta: Embedder | None) -> Embed:
    return lambda rows: encoder.embed_ids(rows.ids, delta, batch_size=128)


def _fit(
    objective: Objective,
    rows: TrainingRows,
    setting: Setting,
    arrival: Arrival,
    monitor: Monitor | None,
    embed: Embed | None = None,
) -> Embed:
    """Train for the setting's steps; a monitor only watches. Returns the trained embedding."""
    trained = embed or embed_with(arrival.encoder, objective.deployed())
    schedule = Schedule(
        max_steps=setting.steps,
        learning_rate=setting.learning_rate,
        evaluate_every=CHECK_EVERY,
        patience=setting.steps + 1,
    )
    # The loop keeps the best-scored step; a rising score keeps the last, as without a monitor.
    seen: list[float] = []

    def watch(_: Embedder) -> float:
        assert monitor is not None
        seen.append(monitor(trained))
        return float(len(seen))

    train(
        objective,
        rows,
        schedule,
        seed=arrival.seed,
        device=arrival.encoder.device,
        held_out=watch if monitor else None,
    )
    return trained


def tfidf(arrival: Arrival, setting: Setting, monitor: Monitor | None) -> Trained:
    vectors = TfIdf(arrival.rows.texts)
    return Trained(lambda rows: vectors(rows.texts))


def frozen(arrival: Arrival, setting: Setting, monitor: Monitor | None) -> Trained:
    return Trained(embed_with(arrival.encoder, None))


def own_adapter(arrival: Arrival, setting: Setting, monitor: Monitor | None) -> Trained:
    """Stage 1: the tenant's rows alone."""
    objective = OwnAdapter(arrival.encoder, arrival.fresh())
    embed = _fit(objective, arrival.rows.training(), setting, arrival, monitor)
    return Trained(embed, objective.student)


def permuted_labels(arrival: Arrival, setting: Setting, monitor: Monitor | None) -> Trained:
    """Stage 1 on labels that say nothing: what the control's teachers are."""
    generator = torch.Generator().manual_seed(arrival.seed)
    labels = arrival.rows.labels[torch.randperm(len(arrival.rows), generator=generator)]
    return own_adapter(
        replace(arrival, rows=replace(arrival.rows, labels=labels)), setting, monitor
    )


def teachers_mean(arrival: Arrival, setting: Setting, monitor: Monitor | None) -> Trained:
    return Trained(embed_with(arrival.encoder, arrival.stack().mean()))


def weight_average(arrival: Arrival, setting: Setting, monitor: Monitor | None) -> Trained:
    adapter = average(arrival.teachers)
    return Trained(embed_with(arrival.encoder, adapter), adapter)


def adapter_fusion(arrival: Arrival, setting: Setting, monitor: Monitor | None) -> Trained:
    """Q, K, V trained over teachers and own adapter; all of them are kept at serving."""
    encoder = arrival.encoder
    adapters = [*arrival.teachers, *([arrival.own] if arrival.own is not None else [])]
    stack = AdapterStack.of(adapters, dtype=encoder.dtype, device=encoder.device)
    fusion = Fusion.new(encoder.num_layers, encoder.hidden_size, seed=arrival.seed)
    objective = AdapterFusion(encoder, stack, fusion.to(encoder.device))
    return Trained(_fit(objective, arrival.rows.training(), setting, arrival, monitor))


def composition(arrival: Arrival, setting: Setting, monitor: Monitor | None) -> Trained:
    """The composition that the student of stage 2 imitates, kept at serving."""
    return Trained(embed_with(arrival.encoder, _distillation(arrival).composition))


def adapter_distillation(arrival: Arrival, setting: Setting, monitor: Monitor | None) -> Trained:
    """Stage 2: the student, started as the own adapter, imitates that composition."""
    objective = _distillation(arrival)
    texts, _ = imitation_rows(arrival.encoder, arrival.rows.training())
    return Trained(_fit(objective, texts, setting, arrival, monitor), objective.student)


def _distillation(arrival: Arrival) -> AdapterDistillation:
    return distillation_of(
        arrival.encoder,
        arrival.teachers,
        arrival.rows.training(),
        own=arrival.own,
        bottleneck_size=BOTTLENECK_SIZE,
        seed=arrival.seed,
    )


def attention_distillation(arrival: Arrival, setting: Setting, monitor: Monitor | None) -> Trained:
    """The paper's figure: Q, K, V and the student trained together, on the own rows."""
    objective = attention_distillation_of(
        arrival.encoder,
        arrival.teachers,
        own=arrival.own,
        student=arrival.own.copy() if arrival.own is not None else arrival.fresh(),
        seed=arrival.seed,
    )
    embed = _fit(objective, arrival.rows.training(), setting, arrival, monitor)
    return Trained(embed, objective.student)


def shuffled_teachers(arrival: Arrival, setting: Setting, monitor: Monitor | None) -> Trained:
    """Control: teachers' weights in random order, of the same size without the knowledge."""
    generator = torch.Generator().manual_seed(arrival.seed)
    noise = tuple(shuffled(adapter, generator) for adapter in arrival.teachers)
    return adapter_distillation(replace(arrival, teachers=noise), setting, monitor)


def full_tuning(arrival: Arrival, setting: Setting, monitor: Monitor | None) -> Trained:
    """Every weight of the encoder trained on the tenant's rows."""
    objective = FullTuning(arrival.encoder)
    rows = arrival.rows.training()
    return Trained(_fit(objective, rows, setting, arrival, monitor, objective.embed_rows))


def pooled_base(arrival: Arrival, setting: Setting, monitor: Monitor | None) -> Trained:
    """One adapter on everybody else's rows, a batch of each tenant in turn."""
    objective = OwnAdapter(arrival.encoder, arrival.fresh())
    train_in_turn(
        objective,
        [rows.training() for rows in arrival.pool],
        Schedule(max_steps=setting.steps, learning_rate=setting.learning_rate),
        seed=arrival.seed,
    )
    return Trained(embed_with(arrival.encoder, objective.student), objective.student)


def pooled_data(arrival: Arrival, setting: Setting, monitor: Monitor | None) -> Trained:
    """The adapter of everybody's pooled rows, then the tenant's own: what privacy forbids."""
    start = arrival.base.copy() if arrival.base is not None else arrival.fresh()
    objective = OwnAdapter(arrival.encoder, start.to(arrival.encoder.device))
    embed = _fit(objective, arrival.rows.training(), setting, arrival, monitor)
    return Trained(embed, objective.student)


@torch.no_grad()
def average(adapters: Sequence[BottleneckAdapter]) -> BottleneckAdapter:
    """The adapter whose every weight is the mean of the adapters' weights."""
    parts = zip(*(adapter.parameters() for adapter in adapters), strict=True)
    return BottleneckAdapter(*(torch.stack(list(part)).mean(0) for part in parts))


@torch.no_grad()
def shuffled(adapter: BottleneckAdapter, generator: torch.Generator) -> BottleneckAdapter:
    """Each tensor's values in random order."""

    def permute(part: Tensor) -> Tensor:
        order = torch.randperm(part.numel(), generator=generator)
        return part.detach().cpu().flatten()[order].view_as(part).to(part.device)

    return BottleneckAdapter(*(permute(part) for part in adapter.parameters()))
