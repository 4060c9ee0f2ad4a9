"""The domains of the Meta-KD benchmark: one task's rows, taken apart by domain and tokenised."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from adapterdistill.backbone import Encoder
from adapterdistill.data.splits import nested_order
from adapterdistill.data.tasks import TaskRow, read_task
from adapterdistill.distill.multitask_kd.students import TaskTexts
from adapterdistill.errors import ConfigError, DataError

SHARES = (0.0, 0.01, 0.1, 1.0)
"""Shares of the newcomer's rows."""


@dataclass(frozen=True)
class Size:
    """How much is run."""

    domains: int | None
    """Domains that take their turn as the newcomer; None for all."""
    shares: tuple[float, ...]
    teacher_steps: int
    owner_steps: int
    """Steps of a teacher of one domain."""
    student_steps: int


SIZES = {
    "quick": Size(2, (0.01, 1.0), 70, 30, 60),
    "standard": Size(None, SHARES, 80, 40, 70),
    "full": Size(None, SHARES, 210, 60, 140),
}


@dataclass(frozen=True)
class Domain:
    """One domain's rows; training rows in sampling order."""

    name: str
    train: TaskTexts
    valid: TaskTexts
    test: TaskTexts


def read_domains(
    path: Path, encoder: Encoder, leave_out: Sequence[str]
) -> tuple[tuple[str, ...], list[Domain]]:
    """The classes, and every domain but those of `leave_out`.

    Raises:
        ConfigError: fewer than three domains are left, or `leave_out` names none that is there.
        DataError: the task is unsound, of pairs or without domains, or a domain lacks rows.
    """
    task = read_task(path)
    if task.pairs:
        raise DataError(f"{path.name}: rows are pairs of texts: Meta-KD takes single texts")
    rows = {"train": task.train, "valid": task.valid, "test": task.test}
    found = {row.domain for part in rows.values() for row in part}
    if None in found:
        raise DataError(f"{path.name}: field `domain` is missing in some row")
    unknown = sorted(set(leave_out) - found)
    if unknown:
        raise ConfigError(f"{path.name} has no domain {', '.join(unknown)} to leave out")
    names = sorted(name for name in found - set(leave_out) if name is not None)
    if len(names) < 3:
        raise ConfigError(
            f"{path.name}: {len(names)} domain(s) are too few: the benchmark learns one from two "
            "others or more"
        )

    def texts(rows: Sequence[TaskRow]) -> TaskTexts:
        labels = torch.tensor([task.classes.index(row.label) for row in rows], dtype=torch.int64)
        ids = tuple(map(tuple, encoder.tokenize([row.text for row in rows])))
        return TaskTexts(ids, labels, False, len(task.classes))

    domains = []
    for name in names:
        of_domain = {part: [row for row in rows[part] if row.domain == name] for part in rows}
        missing = [part for part, there in of_domain.items() if not there]
        if missing or len({row.label for row in of_domain["train"]}) < 2:
            what = f"no {' and no '.join(missing)} row" if missing else "train rows of one class"
            raise DataError(f"{path.name}: domain {name} has {what}: add some or leave it out")
        order = nested_order([row.id for row in of_domain["train"]], seed=0, tenant=name)
        train = texts([of_domain["train"][place] for place in order])
        domains.append(Domain(name, train, texts(of_domain["valid"]), texts(of_domain["test"])))
    return task.classes, domains


def first_of_each_class(texts: TaskTexts, share: float) -> list[int]:
    """Rows of a `share` of every class, rounded up; larger shares hold the rows of smaller ones."""
    kept: list[int] = []
    for label in texts.labels.unique().tolist():
        rows = (texts.labels == label).nonzero().flatten().tolist()
        kept += rows[: math.ceil(share * len(rows))]
    return sorted(kept)


def select(texts: TaskTexts, rows: Sequence[int]) -> TaskTexts:
    """Some of a task's rows."""
    return replace(
        texts, ids=tuple(texts.ids[row] for row in rows), labels=texts.labels[list(rows)]
    )


def join(parts: Sequence[TaskTexts]) -> TaskTexts:
    """Rows of several domains, end to end."""
    ids = tuple(ids for part in parts for ids in part.ids)
    return replace(parts[0], ids=ids, labels=torch.cat([part.labels for part in parts]))
