"""Classification tasks of single texts or pairs: one JSON Lines file each, read and checked whole.

A row has `id`, `text`, `label`, `split` (train, valid or test) and, where it has them, `text_pair`
and `domain`. Other fields are ignored. A pair's second text may be empty, its first may not.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from adapterdistill.data.reading import Cell, Defect, UnreadableTableError, read_table
from adapterdistill.data.schema import Fault, faults_message
from adapterdistill.data.splits import held_out
from adapterdistill.errors import DataError

COLUMNS = ("id", "text", "text_pair", "label", "domain", "split")
OPTIONAL = frozenset({"text_pair", "domain"})
TASK_SPLITS = ("train", "valid", "test")
HELD_OUT_FRACTION = 0.1


@dataclass(frozen=True)
class TaskRow:
    """One labelled text, or pair of texts."""

    id: str
    text: str
    text_pair: str | None
    label: str
    domain: str | None


@dataclass(frozen=True)
class Task:
    """A sound task. Every class has training rows, and `valid` is never empty."""

    name: str
    classes: tuple[str, ...]
    """Sorted alphabetically."""
    pairs: bool
    """Whether the rows are pairs of texts; either all are, or none."""
    train: tuple[TaskRow, ...]
    valid: tuple[TaskRow, ...]
    test: tuple[TaskRow, ...]


def read_task(path: Path, *, seed: int = 0) -> Task:
    """Read the task of a JSON Lines file; it is named like the file.

    If there is no `valid` row, about a tenth of the training rows become valid rows. Rows with the
    same `text` stay together, because pairs that share a text reveal each other's labels.

    Raises:
        DataError: the file has faults; the message lists the first by file, row and field.
    """
    if path.suffix != ".jsonl":
        raise DataError(f"{path.name}: a task is a JSON Lines file, named *.jsonl")
    found = check_task(path, seed=seed)
    if isinstance(found, Task):
        return found
    raise DataError(faults_message(path.parent, found))


def check_task(path: Path, *, seed: int = 0) -> Task | list[Fault]:
    """Read the task like `read_task`, or return its faults."""
    rows: dict[str, list[TaskRow]] = {split: [] for split in TASK_SPLITS}
    places: dict[str, list[int]] = {split: [] for split in TASK_SPLITS}
    faults: list[Fault] = []
    try:
        for place, cells, broken in _records(path):
            found = _faults_of(path.name, place, cells, broken)
            faults += found
            if not found:
                split = str(cells["split"])
                rows[split].append(_row(cells))
                places[split].append(place)
    except UnreadableTableError as error:
        return [*faults, *error.faults]
    faults += _faults_between(path.name, rows, places)
    if not faults and not rows["valid"]:
        rows = _with_held_out(rows, seed)
        faults += _faults_of_held_out(path.name, rows)
    if faults:
        return faults
    train = rows["train"]
    return Task(
        name=path.stem,
        classes=tuple(sorted({row.label for row in train})),
        pairs=train[0].text_pair is not None,
        train=tuple(train),
        valid=tuple(rows["valid"]),
        test=tuple(rows["test"]),
    )


def _records(path: Path) -> Iterator[tuple[int, dict[str, Cell], str | None]]:
    """Yield each row's number, its cells by field, and why it could not be split, if so."""
    for batch in read_table(path, COLUMNS, optional=OPTIONAL):
        for place, cells in batch.rows():
            yield place, dict(zip(COLUMNS, cells, strict=True)), batch.broken.get(place)


def _faults_of(file: str, place: int, cells: dict[str, Cell], broken: str | None) -> list[Fault]:
    """Find the faults of one row by itself."""
    if broken is not None:
        return [Fault(file, place, None, broken)]
    faults = []
    for column, cell in cells.items():
        if cell is None or cell is Defect.ABSENT:
            if column not in OPTIONAL:
                faults.append(Fault(file, place, column, "is missing or null"))
        elif isinstance(cell, Defect):
            faults.append(Fault(file, place, column, cell.value))
        elif not cell.strip() and column != "text_pair":
            faults.append(Fault(file, place, column, "is empty or only white space"))
    if isinstance(cells["split"], str) and cells["split"] not in TASK_SPLITS:
        faults.append(Fault(file, place, "split", f"is not one of {', '.join(TASK_SPLITS)}"))
    return faults


def _row(cells: dict[str, Cell]) -> TaskRow:
    """Make a row of sound cells."""
    pair, domain = (
        cell if isinstance(cell, str) else None for cell in (cells["text_pair"], cells["domain"])
    )
    return TaskRow(str(cells["id"]), str(cells["text"]), pair, str(cells["label"]), domain)


def _faults_between(
    file: str, rows: dict[str, list[TaskRow]], places: dict[str, list[int]]
) -> list[Fault]:
    """Find the faults that show only when rows are compared."""
    train = rows["train"]
    if not train:
        return [Fault(file, None, None, "holds no train row")]
    classes = {row.label for row in train}
    faults = []
    if len(classes) < 2:
        faults.append(Fault(file, None, "label", "train rows are of one class only"))
    pairs = train[0].text_pair is not None
    seen: set[str] = set()
    by_place = {
        place: row
        for split in TASK_SPLITS
        for place, row in zip(places[split], rows[split], strict=True)
    }
    for place, row in sorted(by_place.items(), key=lambda item: item[0]):
        if row.id in seen:
            faults.append(Fault(file, place, "id", "repeats the id of an earlier row"))
        seen.add(row.id)
        if (row.text_pair is not None) != pairs:
            problem = "must be there in all rows or in none"
            faults.append(Fault(file, place, "text_pair", problem))
        if row.label not in classes:
            faults.append(Fault(file, place, "label", "is a class that no train row has"))
    return faults


def _with_held_out(rows: dict[str, list[TaskRow]], seed: int) -> dict[str, list[TaskRow]]:
    """Turn some training rows into valid rows."""
    split: dict[str, list[TaskRow]] = {"train": [], "valid": [], "test": rows["test"]}
    for row in rows["train"]:
        valid = held_out(row.text, seed=seed, fraction=HELD_OUT_FRACTION)
        split["valid" if valid else "train"].append(row)
    return split


def _faults_of_held_out(file: str, rows: dict[str, list[TaskRow]]) -> list[Fault]:
    classes = {row.label for row in rows["train"]}
    if rows["valid"] and len(classes) > 1 and classes >= {row.label for row in rows["valid"]}:
        return []
    return [Fault(file, None, "split", "has no valid row, and too few train rows to hold some out")]
