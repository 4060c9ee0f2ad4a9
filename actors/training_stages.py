"""The two training stages: what a run's settings make of them, and what they report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actors.files import write_atomically
from actors.records import Distilled, Extracted
from actors.train_loop import Outcome, train_stage
from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import pack_adapter
from adapterdistill.config import OnboardConfig
from adapterdistill.distill.stage import StageSpec
from adapterdistill.distill.training import Schedule
from adapterdistill.manifest import sha256_hex


def leave_untrained(config: OnboardConfig, encoder: Encoder, adapter: Path) -> Extracted:
    """An adapter near identity, for a tenant with nothing to train on."""
    t = config.training
    untrained = BottleneckAdapter.new(
        encoder.num_layers, encoder.hidden_size, t.bottleneck_size, seed=t.seed
    )
    write_atomically(adapter, pack_adapter(untrained, model_name=encoder.ref.name))
    return Extracted(trained=False)


def extract(config: OnboardConfig, encoder: Encoder, *, rows: Path, adapter: Path) -> Extracted:
    """Stage 1 on the rows in the file `rows`; `adapter` and the folds' beside it are written."""
    t = config.training
    spec = StageSpec(
        rows=str(rows),
        bottleneck_size=t.bottleneck_size,
        schedule=_schedule(config, t.extract_steps, t.extract_learning_rate),
        seed=t.seed,
    )
    outcome = train_stage("extract", spec, encoder, config, adapter=adapter)
    return Extracted(**_told(outcome, adapter))


def distil(
    config: OnboardConfig,
    encoder: Encoder,
    *,
    rows: Path,
    adapter: Path,
    own: Path | None,
    teachers: Mapping[str, Path],
) -> Distilled:
    """Stage 2, started from the adapter `own` if there is one.

    Args:
        teachers: payload files by version name.
    """
    t = config.training
    spec = StageSpec(
        rows=str(rows),
        bottleneck_size=t.bottleneck_size,
        schedule=_schedule(config, t.distil_steps, t.distil_learning_rate),
        seed=t.seed,
        initial=None if own is None else str(own),
        teachers=tuple(map(str, teachers.values())),
        leave_one_out=config.teachers.leave_one_out,
    )
    outcome = train_stage("distil", spec, encoder, config, adapter=adapter)
    return Distilled(
        **_told(outcome, adapter),
        # Where the own adapter was fused too, it comes after the teachers.
        attention=dict(zip(teachers, outcome.attention, strict=False)),
        own_attention=None if own is None else outcome.attention[-1],
        leave_one_out=dict(zip(teachers, outcome.leave_one_out, strict=False)),
    )


def _schedule(config: OnboardConfig, steps: int, learning_rate: float) -> Schedule:
    t = config.training
    return Schedule(
        max_steps=steps,
        learning_rate=learning_rate,
        batch_size=t.batch_size,
        evaluate_every=t.evaluate_every,
        patience=t.patience,
    )


def _told(outcome: Outcome, adapter: Path) -> dict[str, Any]:
    return {
        "trained": True,
        "best_step": outcome.best_step,
        "steps": outcome.steps,
        "held_out_score": outcome.held_out_score,
        "adapter_sha256": sha256_hex(adapter.read_bytes()),
        "training_peak_rss_mb": outcome.peak_rss_mb,
    }
