"""The training stages: their specs, made from a run's settings, and what they report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from adapterdistill.actors.prototypes import require_shareable
from adapterdistill.actors.records import Distilled, Extracted
from adapterdistill.actors.training.loop import train_stage
from adapterdistill.actors.training.outcome import TrainingOutcome
from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import pack_adapter
from adapterdistill.config import OnboardConfig
from adapterdistill.data.tasks import Task
from adapterdistill.distill.averaging import averaged_teachers
from adapterdistill.distill.batches import TrainingRows
from adapterdistill.distill.method import VariantSettings
from adapterdistill.distill.methods import METHODS
from adapterdistill.distill.stage import StageSpec, choice, load_payload
from adapterdistill.distill.training import Schedule
from adapterdistill.errors import ConfigError
from adapterdistill.evaluation.arrival import MANY_TEACHERS
from adapterdistill.evaluation.report import Choice
from adapterdistill.manifest import Initialisation, SharedPrototypes, sha256_hex


def untrained(config: OnboardConfig, encoder: Encoder) -> BottleneckAdapter:
    """An adapter near identity, which leaves the encoder as it is."""
    t = config.training
    return BottleneckAdapter.new(
        encoder.num_layers, encoder.hidden_size, t.bottleneck_size, seed=t.seed
    )


def public_initialisation(config: OnboardConfig, encoder: Encoder) -> Initialisation:
    """The initialisation of a run's own adapter, which its seed and its size alone decide."""
    adapter, seed = untrained(config, encoder), config.training.seed
    size = f"{adapter.num_layers}x{adapter.hidden_size}x{adapter.bottleneck_size}"
    return Initialisation(
        name=f"near-identity/{size}/seed-{seed}",
        sha256=sha256_hex(pack_adapter(adapter, model_name="")),
    )


def initialisation(
    config: OnboardConfig, encoder: Encoder, choice: Choice, teachers: Initialisation | None
) -> Initialisation | None:
    """The initialisation that a candidate goes back to.

    Args:
        teachers: that of all teachers.
    """
    from_average = METHODS[config.student_method].starts_from_average
    if choice == "averaged" or (choice == "distilled" and from_average):
        return teachers
    return public_initialisation(config, encoder)


def average(
    encoder: Encoder, teachers: Mapping[str, Path], rows: TrainingRows, *, secret: str | None
) -> tuple[BottleneckAdapter, dict[str, float]]:
    """The average of the teachers for a tenant with these rows, and each teacher's share of it.

    Args:
        teachers: payload files by version name.
        secret: draws the rows that decide; None: the public seed does.
    """
    loaded = [load_payload(file).to(encoder.device) for file in teachers.values()]
    adapter, shares = averaged_teachers(encoder, loaded, rows, choose=choice(secret))
    return adapter, dict(zip(teachers, shares.tolist(), strict=True))


FEW_ROWS_STEPS = 20
"""Steps of an own adapter at most, where rows are so few that folds hold them out: held-out scores
of a few rows would choose the number by chance, at times ruinously (docs/methods.md)."""


def replaces_own_adapter(config: OnboardConfig, *, teachers: int) -> bool:
    """Whether so many teachers make an own adapter of few rows superfluous.

    It would take half of the run's time. Many teachers' average, moved by the same rows, ranks
    better for nearly every tenant, and a few held-out rows cannot tell the exceptions.
    """
    return METHODS[config.student_method].starts_from_average and teachers >= MANY_TEACHERS


def extract(
    config: OnboardConfig,
    encoder: Encoder,
    *,
    rows: Path,
    adapter: Path,
    few: bool,
    secret: str | None,
) -> Extracted:
    """Stage 1 on the rows in the file `rows`; `adapter` and the folds' beside it are written.

    Args:
        few: whether folds hold the rows out: then the steps are fixed.
        secret: draws the rows of each step; None: the public seed does.
    """
    t = config.training
    schedule = _schedule(config, t.extract_steps, t.extract_learning_rate)
    if few:
        steps = min(t.extract_steps, FEW_ROWS_STEPS)
        schedule = replace(schedule, max_steps=steps, evaluate_every=steps, fixed=True)
    spec = StageSpec(
        rows=str(rows),
        bottleneck_size=t.bottleneck_size,
        schedule=schedule,
        seed=t.seed,
        secret=secret,
    )
    outcome = train_stage("extract", spec, encoder, config, adapter=adapter)
    return Extracted(**_trained(outcome, adapter))


def distil(
    config: OnboardConfig,
    encoder: Encoder,
    *,
    rows: Path,
    adapter: Path,
    own: Path | None,
    labelled: bool,
    average: Path,
    shares: Mapping[str, float],
    teachers: Mapping[str, Path],
    secret: str | None,
) -> Distilled:
    """Stage 2, started from the teachers' average or from the own adapter, as its method says.

    Args:
        own: the own adapter, if it was trained.
        labelled: whether training queries are labelled.
        average: the teachers' average.
        shares: each teacher's share of the average.
        teachers: payload files by version name.
        secret: draws the rows of each step; None: the public seed does.
    """
    t, name = config.training, config.student_method
    initial = average if METHODS[name].starts_from_average else own
    spec = StageSpec(
        rows=str(rows),
        bottleneck_size=t.bottleneck_size,
        schedule=METHODS[name].schedule(
            _schedule(config, t.distil_steps, t.distil_learning_rate), labelled=labelled
        ),
        seed=t.seed,
        method=name,
        sections=config.sections.model_dump(mode="json") if name == t.method else {},
        initial=None if initial is None else str(initial),
        teachers=tuple(map(str, teachers.values())),
        leave_one_out=config.teachers.leave_one_out,
        secret=secret,
    )
    outcome = train_stage("distil", spec, encoder, config, adapter=adapter)
    return Distilled(
        **_trained(outcome, adapter),
        # Empty if the method cannot say, or was not asked.
        weights=dict(shares)
        if METHODS[name].starts_from_average
        else dict(zip(teachers, outcome.weights, strict=False)),
        leave_one_out=dict(zip(teachers, outcome.leave_one_out, strict=False)),
    )


def require_possible(
    config: OnboardConfig, encoder: Callable[[], Encoder], tasks: Callable[[], Sequence[Task]]
) -> None:
    """Check, before anything is trained, that the run's method can do its work.

    Raises:
        ConfigError: the encoder is too small for the method's variant, or the tenant's tasks are
            not those that the method needs.
    """
    settings = variant_settings(config, config.training.bottleneck_size)
    try:
        if settings is not None:
            settings.new(encoder(), seed=0)
        config.method.check_tasks(tasks)
        if config.noise is not None:
            require_shareable(encoder(), tasks())
    except ConfigError as error:
        raise ConfigError(f"method {config.training.method}: {error}") from None


def variant_settings(config: OnboardConfig, bottleneck_size: int) -> VariantSettings | None:
    """Settings of the variant that the run's method makes, before its tasks are known.

    Args:
        bottleneck_size: of the adapter that it is made of.
    """
    if config.method.variant is None:
        return None
    return config.method.variant_settings(config.sections, bottleneck_size=bottleneck_size)


def make_variant(
    config: OnboardConfig,
    encoder: Encoder,
    *,
    rows: Path,
    adapter: Path,
    variant: Path,
    tasks: Sequence[Task],
    prototypes: Sequence[SharedPrototypes] = (),
) -> dict[str, Any]:
    """Train the run's variant of the frozen `adapter`; `variant` and the folds' are written.

    Args:
        tasks: the tenant's further tasks.
        prototypes: those that the teachers publish.

    Returns:
        The fields of `Trained`, and `tasks`.
    """
    t, chosen = config.training, config.variant
    size = load_payload(adapter).bottleneck_size
    settings = variant_settings(config, size)
    assert chosen is not None and settings is not None
    tasks_file = rows.with_name("tasks.safetensors")
    tasks_file.unlink(missing_ok=True)
    settings = config.method.prepare(settings, encoder, tasks, prototypes, tasks_file=tasks_file)
    schedule = _schedule(config, chosen.steps, chosen.learning_rate)
    spec = StageSpec(
        rows=str(rows),
        bottleneck_size=size,
        # A variant starts far from the adapter: its score moves slowly, and not always upwards.
        schedule=replace(schedule, evaluate_every=max(t.evaluate_every, chosen.steps // 10)),
        seed=t.seed,
        method=t.method,
        initial=str(adapter),
        sections=config.sections.model_dump(mode="json"),
        variant=settings.model_dump(mode="json"),
        tasks=str(tasks_file) if tasks_file.exists() else None,
    )
    outcome = train_stage("variant", spec, encoder, config, adapter=variant)
    return _trained(outcome, variant) | {"tasks": outcome.tasks}


def _schedule(config: OnboardConfig, steps: int, learning_rate: float) -> Schedule:
    t = config.training
    return Schedule(
        max_steps=steps,
        learning_rate=learning_rate,
        batch_size=t.batch_size,
        evaluate_every=t.evaluate_every,
        patience=t.patience,
    )


def _trained(outcome: TrainingOutcome, adapter: Path) -> dict[str, Any]:
    return {
        "trained": True,
        "best_step": outcome.best_step,
        "steps": outcome.steps,
        "held_out_score": outcome.held_out_score,
        "adapter_sha256": sha256_hex(adapter.read_bytes()),
        "training_peak_rss_mb": outcome.peak_rss_mb,
    }
