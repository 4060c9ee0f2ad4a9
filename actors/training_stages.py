"""The training stages: what a run's settings make of them, and what they report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from actors.prototypes import require_shareable
from actors.records import Distilled, Extracted
from actors.train_loop import train_stage
from actors.train_outcome import Outcome
from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import pack_adapter
from adapterdistill.config import OnboardConfig
from adapterdistill.data.tasks import Task
from adapterdistill.distill.forms import ConditionalSettings, FormSettings, LightSettings, TaskHead
from adapterdistill.distill.meta_kd.tasks import domains_of
from adapterdistill.distill.stage import StageSpec
from adapterdistill.distill.task_teachers import TaskSplits, tokenise_task, write_tasks
from adapterdistill.distill.training import Schedule
from adapterdistill.errors import ConfigError
from adapterdistill.files import write_atomically
from adapterdistill.manifest import SharedPrototypes, sha256_hex
from adapterdistill.sections import ConditionalConfig, LightConfig


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
        weights=dict(zip(teachers, outcome.weights, strict=True)),
        # Empty where it was not asked for.
        leave_one_out=dict(zip(teachers, outcome.leave_one_out, strict=False)),
    )


def form_settings(config: OnboardConfig, tasks: Sequence[TaskSplits] = ()) -> FormSettings | None:
    """The form that the run's method makes of the chosen adapter, if it makes one.

    Args:
        tasks: what a light student learns besides retrieval.
    """
    form = config.form
    if form is None:
        return None
    if isinstance(form, ConditionalConfig):
        return ConditionalSettings(
            bottleneck_size=config.training.bottleneck_size, speed=form.speed, to_all=form.to_all
        )
    return LightSettings(
        kind="meta_kd" if config.form_kind == "meta_kd" else "multitask_kd",
        body=form.body,
        layers=form.layers,
        heads=form.heads,
        lstm_size=form.lstm_size,
        tasks=tuple(map(TaskHead.of, tasks)),
    )


def require_possible_form(
    config: OnboardConfig, encoder: Callable[[], Encoder], tasks: Callable[[], Sequence[Task]]
) -> None:
    """Raises ConfigError, before anything is trained, if the form cannot be.

    The encoder may be too small for it, or the tenant's tasks without the domains that it needs.
    """
    form = form_settings(config)
    if form is None:
        return
    try:
        form.new(encoder(), seed=0)
        if form.kind == "meta_kd":
            found = tasks()
            over_domains = [domains_of(task) for task in found]  # each is checked
            if not any(over_domains):
                raise ConfigError(
                    "no task in the tenant's folder tasks names domains: give the rows of one the "
                    'field domain, or set training.method = "multitask_kd"'
                )
            require_shareable(config, encoder(), found)
    except ConfigError as error:
        raise ConfigError(f"method {config.training.method}: {error}") from None


def make_form(
    config: OnboardConfig,
    encoder: Encoder,
    *,
    rows: Path,
    adapter: Path,
    form: Path,
    tasks: Sequence[Task],
    prototypes: Sequence[SharedPrototypes] = (),
) -> dict[str, Any]:
    """Train the run's form towards the frozen `adapter`; `form` and the folds' are written.

    Args:
        tasks: what a light student learns besides retrieval; no other form does.
        prototypes: what the teachers share of their domains.

    Returns:
        The fields of `Trained`, and `tasks`.
    """
    t, made = config.training, config.form
    assert made is not None
    splits = []
    if isinstance(made, LightConfig):
        over_domains = config.form_kind == "meta_kd"
        splits = [
            tokenise_task(task, encoder, domains_of(task, prototypes) if over_domains else None)
            for task in tasks
        ]
        write_tasks(rows.with_name("tasks.safetensors"), splits)
    schedule = _schedule(config, made.steps, made.learning_rate)
    spec = StageSpec(
        rows=str(rows),
        bottleneck_size=t.bottleneck_size,
        # A form starts far from the adapter: its score moves slowly, and not always upwards.
        schedule=replace(schedule, evaluate_every=max(t.evaluate_every, made.steps // 10)),
        seed=t.seed,
        initial=str(adapter),
        form=form_settings(config, splits),
        tasks=str(rows.with_name("tasks.safetensors")) if splits else None,
    )
    outcome = train_stage("lighten", spec, encoder, config, adapter=form)
    return _told(outcome, form) | {"tasks": outcome.tasks}


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
