"""The command `adapterdistill bench multitask` and its report."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from adapterdistill.bench.multitask.study import (
    JOINT,
    SINGLE,
    TEACHER,
    TUNED,
    StudentShape,
    measure_multitask,
)
from adapterdistill.bench.multitask.tasks import (
    SIZES,
    read_bench_task,
    read_retrieval_task,
    task_files,
)
from adapterdistill.bench.sizes import named_size
from adapterdistill.evaluation.metrics import paired_bootstrap
from adapterdistill.testbed.encoder_options import EncoderOptions
from adapterdistill.testbed.environment import environment
from adapterdistill.testbed.reporting import (
    Report,
    document,
    listed,
    table,
    table_of,
    write_report,
    yes_or_no,
)

LEAST_SPEED = 5.0
LEAST_KEPT = 0.95


def multitask_command(
    *,
    data: Path,
    tenants: Sequence[str],
    out: Path,
    size: str,
    shape: StudentShape,
    encoder: EncoderOptions,
    threads: int,
    seed: int,
) -> Report:
    """Measure and write the report.

    Args:
        tenants: folders of `data / "tenants"` whose retrieval is a task too.
    """
    torch.set_num_threads(threads)
    loaded, chosen = encoder.load(), named_size(SIZES, size)
    tasks = [read_bench_task(path, loaded, chosen) for path in task_files(data)]
    tasks += [
        read_retrieval_task(data / "tenants" / name, out / "tenants", loaded, chosen)
        for name in tenants
    ]
    found = measure_multitask(loaded, tasks, chosen, shape, seed=seed)
    found = {"benchmark": "multitask", "environment": environment(loaded), **with_aims(found)}
    return write_report(out, found, markdown(found))


def with_aims(found: Mapping[str, Any]) -> dict[str, Any]:
    """The measurement with its aims; rows keep their accuracies and lose their single hits."""
    rows = {(row["model"], row["training"]): row for row in found["rows"]}
    teacher = rows[TEACHER, TEACHER]
    aims = []
    for kind in (kind for kind, training in rows if training == JOINT):
        for training in (JOINT, TUNED):
            ours, single = rows[kind, training]["hits"], rows[kind, SINGLE]["hits"]
            differences = [
                torch.tensor(ours[task]).double() - torch.tensor(single[task]).double()
                for task in ours
            ]
            aims.append(
                {
                    "text": f"{kind}, {training}: at least as accurate as task by task",
                    "difference": asdict(paired_bootstrap(differences)),
                    "met": rows[kind, training]["macro"] >= rows[kind, SINGLE]["macro"],
                }
            )
        best = max((rows[kind, t] for t in (JOINT, TUNED)), key=lambda row: row["valid_macro"])
        speed = found["speed"][kind]["times_teacher_median"]
        kept = best["macro"] / teacher["macro"]
        aims.append(
            {
                "text": f"{kind}, {best['training']}: {LEAST_SPEED:g} times the teacher's texts a "
                f"second at {100 * LEAST_KEPT:g}% of its accuracy",
                "times_teacher": speed,
                "kept": kept,
                "met": speed >= LEAST_SPEED and kept >= LEAST_KEPT,
            }
        )
    plain = [{k: v for k, v in row.items() if k != "hits"} for row in found["rows"]]
    return {**found, "rows": plain, "aims": aims}


def markdown(found: Mapping[str, Any]) -> str:
    """The report for people."""
    tasks, rows, env = found["tasks"], found["rows"], found["environment"]
    shape, teacher = found["shape"], found["rows"][0]["macro"]
    facts = {**found["size"], **env}
    parts = [
        "Multi-task distillation",
        table(
            ("aim", "measured", "met"),
            ((a["text"], _measured(a), yes_or_no(a["met"])) for a in found["aims"]),
        ),
        "The interval is a 95% paired bootstrap over tasks, then test rows: a difference inside it "
        "is noise. Which joint student an aim speaks of was chosen on `valid` rows.",
        "## Accuracy\n\nTest rows, in %.",
        table(
            ("model", "training", *tasks, "macro", "of teacher", "trained", "frozen"),
            (
                (
                    row["model"],
                    row["training"],
                    *(f"{100 * row['accuracy'][task]:.1f}" for task in tasks),
                    f"{100 * row['macro']:.1f}",
                    f"{100 * row['macro'] / teacher:.1f}",
                    _millions(row["parameters"]),
                    _millions(row["frozen_parameters"]),
                )
                for row in rows
            ),
        ),
        "Trained: parameters of all models that the row needs. Frozen: the encoder that the "
        "teacher reads, the word embeddings that a student reads.",
        "## Speed\n\nOne thread, the same texts of all tasks, token ids to logits, models in turn.",
        table_of(
            ({"model": kind, **speed} for kind, speed in found["speed"].items()),
            {
                "model": "{model}",
                "texts/s (best)": "{texts_per_s_best:.0f}",
                "texts/s (median)": "{texts_per_s_median:.0f}",
                "x teacher (best)": "{times_teacher_best:.2f}",
                "x teacher (median)": "{times_teacher_median:.2f}",
                "rounds": "{rounds}",
            },
        ),
        "## How it was run",
        f"Transformer student: {shape['layers']} layers of {shape['heads']} heads, cut out of the "
        f"encoder. BiLSTM: {shape['lstm_size']} units each way, float32. Seed {found['seed']}.",
        table_of(
            ({"task": name, **task} for name, task in tasks.items()),
            {n: f"{{{n}}}" for n in ("task", "input", "classes", "train", "valid", "test")},
        ),
        listed(facts),
    ]
    return document(*parts)


def _measured(aim: Mapping[str, Any]) -> str:
    if "difference" in aim:
        d = aim["difference"]
        return f"{100 * d['mean']:+.1f} points ({100 * d['low']:+.1f} to {100 * d['high']:+.1f})"
    return f"{aim['times_teacher']:.2f} times at {100 * aim['kept']:.1f}%"


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M"
