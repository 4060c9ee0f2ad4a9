"""Seconds of both training stages of a small tenant, all steps run, and where the time goes."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from adapterdistill.backbone import Encoder
from adapterdistill.bench.tenants import BenchTenant, TextRows
from adapterdistill.distill.batches import TrainingRows
from adapterdistill.distill.folds import assign_folds, fold_file
from adapterdistill.distill.rows import StageRows, write_rows
from adapterdistill.distill.stage import (
    StageSpec,
    TrainedStage,
    build_objective,
    run_stage,
    texts_of,
)
from adapterdistill.distill.training import Schedule, train
from adapterdistill.distill.variants import pack_trained
from adapterdistill.sections import TrainingConfig
from adapterdistill.testbed.random_adapters import random_adapters

FAQS = 15
QUERIES = 5
TEACHERS = 16
_PROFILED_STEPS = 5
_PARTS = (
    ("matrix products", ("mm", "linear", "matmul")),
    ("attention", ("attention", "softmax")),
    ("activation", ("gelu", "relu", "silu")),
    ("layer norms", ("norm",)),
    ("copies and casts", ("copy", "cat", "clone", "_to_")),
    ("optimiser", ("adam",)),
)


def small_rows(tenants: Sequence[BenchTenant]) -> TextRows:
    """15 FAQs' questions and 5 queries of each, of the first tenant with as many, or the most."""
    tenant = max(tenants, key=lambda t: min(FAQS, t.num_faqs))
    rows = tenant.arrival(QUERIES, seed=0)
    return rows.select((rows.labels < FAQS).nonzero().flatten().tolist())


def measure_stages(encoder: Encoder, rows: TextRows, folder: Path) -> dict[str, Any]:
    """Train an own adapter and distil 16 teachers into it, cross-validated as onboarding does.

    Args:
        rows: the questions, in order, then the queries.
        folder: for the stages' files.
    """
    t, stage = TrainingConfig(), _cross_validated(rows)
    write_rows(folder / "rows", stage)
    own = StageSpec(
        rows=str(folder / "rows"),
        bottleneck_size=t.bottleneck_size,
        schedule=_all_steps(t, t.extract_steps, t.extract_learning_rate),
        seed=t.seed,
    )
    seconds, trained = _timed(own, encoder)
    files = [folder / f"{n}.teacher" for n in range(TEACHERS)]
    teachers = random_adapters(encoder, TEACHERS, bottleneck_size=t.bottleneck_size)
    for file, teacher in zip(files, teachers, strict=True):
        file.write_bytes(pack_trained(teacher, encoder))
    (folder / "own").write_bytes(pack_trained(trained.student, encoder))
    for number, fold in enumerate(trained.folds):
        fold_file(folder / "own", number).write_bytes(pack_trained(fold, encoder))
    distil = replace(
        own,
        schedule=_all_steps(t, t.distil_steps, t.distil_learning_rate),
        method="adapter_distillation",
        initial=str(folder / "own"),
        teachers=tuple(map(str, files)),
    )
    found = {"own adapter": (own, seconds), "distillation": (distil, _timed(distil, encoder)[0])}
    return {
        "faqs": stage.num_faqs,
        "queries": len(stage.train.ids) - stage.num_faqs,
        "teachers": TEACHERS,
        "dtype": str(encoder.dtype).removeprefix("torch."),
        "stages": [
            {
                "stage": name,
                "seconds": round(seconds, 1),
                "steps": spec.schedule.max_steps,
                "shares": _shares(spec, encoder, stage),
            }
            for name, (spec, seconds) in found.items()
        ],
    }


def _cross_validated(rows: TextRows) -> StageRows:
    num_faqs = int(rows.labels.max()) + 1
    questions, queries = (
        rows.select(range(num_faqs)),
        rows.select(range(num_faqs, len(rows))),
    )
    folds = assign_folds(questions.training(), queries.training(), queries.texts, seed=0)
    none = TrainingRows([], rows.labels[:0])
    in_none = torch.full((num_faqs,), -1)
    return StageRows(rows.training(), none, none, num_faqs, torch.cat([in_none, folds]))


def _all_steps(t: TrainingConfig, steps: int, learning_rate: float) -> Schedule:
    return Schedule(
        max_steps=steps,
        learning_rate=learning_rate,
        batch_size=t.batch_size,
        evaluate_every=t.evaluate_every,
        patience=steps + 1,
    )


def _timed(spec: StageSpec, encoder: Encoder) -> tuple[float, TrainedStage]:
    started = time.perf_counter()
    trained = run_stage(spec, encoder)
    return time.perf_counter() - started, trained


def _shares(spec: StageSpec, encoder: Encoder, rows: StageRows) -> dict[str, float]:
    """Each part's share of the processor time of a few steps."""
    objective = build_objective(spec, encoder, rows.train)
    texts = texts_of(spec, encoder, rows).rows
    schedule = replace(spec.schedule, max_steps=_PROFILED_STEPS)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        train(objective, texts, schedule, seed=spec.seed, device=encoder.device)
    times: Counter[str] = Counter()
    for event in profiled.key_averages():
        name = event.key.lower()
        part = next((p for p, words in _PARTS if any(w in name for w in words)), "the rest")
        times[part] += event.self_cpu_time_total
    whole = sum(times.values())
    return {part: round(spent / whole, 3) for part, spent in times.most_common()}
