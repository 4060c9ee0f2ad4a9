"""Estimates a run before it starts: seconds by stage, and bytes on disk and wire.

Seconds are the run's work in tokens at the speed that one training step has now on this machine.
The estimate assumes that all steps are run; training ends earlier if held-out scores no longer
rise.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from adapterdistill.actors.publishing import build_manifest
from adapterdistill.actors.training.stages import replaces_own_adapter, variant_settings
from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import pack_adapter, probe_sentences
from adapterdistill.config import OnboardConfig
from adapterdistill.distill.adapter_distillation import imitation_rows
from adapterdistill.distill.averaging import SAMPLED_ROWS
from adapterdistill.distill.batches import TrainingRows, make_batch
from adapterdistill.distill.method import Cost, Variant
from adapterdistill.distill.methods import METHODS
from adapterdistill.distill.objective import OwnAdapter
from adapterdistill.distill.rows import TenantRows
from adapterdistill.distill.variants import pack_variant
from adapterdistill.manifest import Record

_TIMED_ROWS = 64
_WORKERS_START_S = 18.0
"""Duration of an empty loop of Ray Train with workers, measured on 2 cores."""
_NGRAM_BYTES = 48
"""The scorer's n-grams, for each token of the tenant's questions and queries."""
_SUMMARY_BYTES = 430
"""Size of a listed adapter on the wire: 43 KiB a hundred."""


class Estimate(Record):
    """Time and space that a run will take."""

    stage_seconds: dict[str, float]
    bytes_out: int
    """Sent to the registry: the adapter and its manifest, at most."""
    bytes_in: int
    """Received from the registry: its list, and teachers as large as the own adapter."""
    workspace_bytes: int
    serving_bytes: int

    @property
    def seconds(self) -> float:
        return sum(self.stage_seconds.values())


@dataclass(frozen=True)
class Speed:
    """Speed of this machine, measured."""

    step_s: float
    """Time of a token in an own adapter's training step."""
    forward_s: float
    """Time of a token through the encoder and an adapter, without gradients."""
    describe_s: float
    """Time to make an adapter's manifest."""
    prove_s: float
    """Time to prove a teacher: the probe sentences, with it and without."""


@dataclass(frozen=True)
class Listed:
    """The registry's list of adapters."""

    adapters: int
    """Adapters of other tenants on this encoder."""
    tenants: int
    """Tenants that own them: the newest adapter of each may teach."""
    seconds: float
    """Time to list them."""


def tokens(rows: TrainingRows) -> int:
    return sum(map(len, rows.ids))


def estimate(
    config: OnboardConfig,
    encoder: Encoder,
    rows: TenantRows,
    *,
    validate_s: float,
    texts_bytes: int,
    listed: Listed,
) -> Estimate:
    """Time one step and one forward, and multiply by the run's tokens.

    Args:
        validate_s: time that opening the data and the encoder took just now.
        texts_bytes: size of the tenant's FAQs, which the bundle holds.
    """
    shape = (encoder.num_layers, encoder.hidden_size, config.training.bottleneck_size)
    adapter = BottleneckAdapter.new(*shape, seed=config.training.seed).to(encoder.device)
    payload = pack_adapter(adapter, model_name=encoder.ref.name)
    teachers = min(config.teachers.max_teachers, listed.tenants)
    manifest_bytes, describe_s = _described(config, encoder, payload, teachers)
    step_s, forward_s = _token_seconds(encoder, adapter, rows)
    probes = sum(map(len, encoder.tokenize(probe_sentences(), "probe")))
    speed = Speed(step_s, forward_s, describe_s, prove_s=2 * probes * forward_s)
    variant = variant_settings(config, config.training.bottleneck_size)
    copies = 1 + rows.num_folds
    variant_bytes = 0
    if variant is not None:
        variant_bytes = len(pack_variant(Variant(variant, variant.new(encoder, seed=0))))
    # A checkpoint holds parameters, their best, and two moments of AdamW, for each fold.
    kept = (2 * copies + 4 * max(1, rows.num_folds) + teachers) * len(payload)
    return Estimate(
        stage_seconds=_seconds(config, encoder, rows, speed, validate_s, teachers, listed),
        bytes_out=len(payload) + manifest_bytes,
        bytes_in=bool(teachers) * listed.adapters * _SUMMARY_BYTES + teachers * len(payload),
        workspace_bytes=kept + 5 * copies * variant_bytes + 8 * tokens(rows.stage().train),
        serving_bytes=len(payload)
        + variant_bytes
        + texts_bytes
        + rows.num_faqs * (4 * encoder.embedding_size + 8)
        + rows.num_faqs * 8 * encoder.embedding_size  # the scorer's prototypes and head
        + _NGRAM_BYTES * tokens(rows.index()),
    )


def _seconds(
    config: OnboardConfig,
    encoder: Encoder,
    rows: TenantRows,
    speed: Speed,
    validate_s: float,
    teachers: int,
    listed: Listed,
) -> dict[str, float]:
    t, folds, stage = config.training, rows.num_folds, rows.stage()
    parts = stage.splits() or [stage]
    scored = sum(
        tokens(part.held_index) + tokens(part.held_queries)
        for part in parts
        if part.held_queries.ids
    )

    def batch_tokens(texts: TrainingRows) -> float:
        return min(t.batch_size, len(texts.ids)) * tokens(texts) / max(1, len(texts.ids))

    def training(
        texts: TrainingRows, steps: int, cost: Cost, every: int = t.evaluate_every
    ) -> float:
        trainings = 1 + max(0, folds - 1)  # each fold sees the others' rows; then all are seen
        token_s = cost.step * speed.step_s + cost.forward * speed.forward_s
        trained = trainings * steps * batch_tokens(texts) * token_s / max(1, t.num_workers)
        before = (1 + folds) * cost.before * batch_tokens(stage.train) * speed.step_s
        scores = (steps // every + 1) * scored * speed.forward_s
        return (_WORKERS_START_S if t.num_workers else 0.0) + before + trained + scores

    texts, _ = imitation_rows(encoder, stage.train)
    student = METHODS[config.student_method].cost
    sampled = min(SAMPLED_ROWS, len(stage.train.ids)) * tokens(stage.train)
    averaged_s = 2 * teachers * sampled / max(1, len(stage.train.ids)) * speed.forward_s
    own = rows.train.ids and not (folds and replaces_own_adapter(config, teachers=teachers))
    judged = tokens(rows.index()) * (1 + folds) + tokens(rows.held) + tokens(rows.test)
    seconds = {
        "validate": validate_s,
        "fetch_teachers": listed.seconds + speed.describe_s + teachers * speed.prove_s,
        "extract": training(stage.train, t.extract_steps, Cost()) if own else 0.0,
        "distil": averaged_s + training(texts, t.distil_steps, student) if teachers else 0.0,
        "evaluate": (1 + bool(teachers)) * judged * speed.forward_s,
        "decide": 0.0,
        "publish": 2 * speed.describe_s + listed.seconds,
        "variant": 0.0,
        "bundle": tokens(rows.index()) * speed.forward_s + speed.describe_s,
    }
    if (variant := config.variant) is not None and scored:
        every = max(t.evaluate_every, variant.steps // 10)
        seconds["variant"] = training(texts, variant.steps, config.method.cost, every)
    return {name: round(value, 3) for name, value in seconds.items()}


def _token_seconds(
    encoder: Encoder, adapter: BottleneckAdapter, rows: TenantRows
) -> tuple[float, float]:
    """Seconds a token of one training step and of one forward, each after a warm-up."""
    texts = rows.stage().train
    batch = make_batch(texts, list(range(min(_TIMED_ROWS, len(texts.ids)))), device=encoder.device)
    objective = OwnAdapter(encoder, adapter)

    def forward() -> None:
        with torch.no_grad():
            encoder.embed(batch.tokens, adapter)

    step_s = _timed(lambda: objective(batch).backward())
    return step_s / batch.total_tokens, _timed(forward) / batch.total_tokens


def _timed(work: Callable[[], object]) -> float:
    work()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _described(
    config: OnboardConfig, encoder: Encoder, payload: bytes, teachers: int
) -> tuple[int, float]:
    """Bytes of the manifest, without prototypes, and the seconds that it took to make."""
    teacher = f"tenants/{'t' * 20}/adapters/{config.adapter}/versions/{'0' * 64}"
    started = time.perf_counter()
    manifest = build_manifest(
        config,
        encoder,
        payload,
        choice="distilled",
        metrics={},
        teachers=tuple(f"{teacher[:-3]}{number:03d}" for number in range(teachers)),
    )
    return len(manifest.canonical_json()), time.perf_counter() - started
