"""The tasks of the multi-task benchmark: read, tokenised and cut to the run's size."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adapterdistill.backbone import Encoder
from adapterdistill.bench.tenants import TextRows, open_dataset, read_tenant
from adapterdistill.data.splits import nested_order
from adapterdistill.data.tasks import TaskRow, read_task
from adapterdistill.distill.multitask_kd.students import TaskTexts
from adapterdistill.distill.multitask_kd.task_teachers import task_texts
from adapterdistill.errors import DataError


@dataclass(frozen=True)
class Size:
    """How much of each task, and for how long."""

    max_rows: int | None
    """Training rows of a task; None for all."""
    max_valid: int
    max_test: int
    teacher_epochs: int
    student_epochs: int
    rounds: int
    timed_texts: int
    """Texts of each task that are timed."""


SIZES = {
    "quick": Size(1000, 300, 500, 3, 6, 7, 128),
    "standard": Size(4000, 500, 5000, 3, 5, 9, 256),
    "full": Size(None, 1500, 5000, 5, 12, 15, 512),
}


@dataclass(frozen=True)
class BenchTask:
    """A task, tokenised and cut to the run's size."""

    name: str
    train: TaskTexts
    valid: TaskTexts
    test: TaskTexts


def task_files(data: Path) -> list[Path]:
    """JSON Lines files of `data` and of its folders `domains` and `pairs`: a task each.

    Raises:
        DataError: there is none.
    """
    found = [path for part in ("", "domains", "pairs") for path in (data / part).glob("*.jsonl")]
    if not found:
        raise DataError(
            "benchmark data: no task: expected *.jsonl in the folder, its `domains` or its `pairs`"
        )
    return sorted(found)


def read_bench_task(path: Path, encoder: Encoder, size: Size) -> BenchTask:
    """Raises DataError where the file is not a sound task, or has no test row to measure on."""
    task = read_task(path)
    if not task.test:
        raise DataError(f"{path.name}: holds no test row, and a benchmark needs some")

    def texts(rows: Sequence[TaskRow], limit: int | None) -> TaskTexts:
        order = nested_order([row.id for row in rows], seed=0, tenant=task.name)[:limit]
        return task_texts([rows[i] for i in order], task, encoder)

    return BenchTask(
        task.name,
        texts(task.train, size.max_rows),
        texts(task.valid, size.max_valid),
        texts(task.test, size.max_test),
    )


def read_retrieval_task(folder: Path, workspace: Path, encoder: Encoder, size: Size) -> BenchTask:
    """A tenant's retrieval: its questions and training queries are index and training rows.

    Raises:
        DataError: there is no such tenant, it is unsound, or lacks train, valid or test queries.
    """
    if not folder.is_dir():
        raise DataError(f"benchmark data: tenants/{folder.name} is not there")
    tenant = read_tenant(
        open_dataset(folder, workspace),
        folder.name,
        encoder,
        max_test=size.max_test,
        max_valid=size.max_valid,
    )
    for split, rows in (("train", tenant.train), ("valid", tenant.valid), ("test", tenant.test)):
        if not len(rows):
            raise DataError(f"tenant {folder.name}: has no labelled {split} query: take another")

    def texts(rows: TextRows) -> TaskTexts:
        return TaskTexts(rows.ids, rows.labels, False, encoder.hidden_size, retrieval=True)

    train = tenant.train.select(range(len(tenant.train))[: size.max_rows])
    return BenchTask(
        folder.name, texts(tenant.questions.join(train)), texts(tenant.valid), texts(tenant.test)
    )
