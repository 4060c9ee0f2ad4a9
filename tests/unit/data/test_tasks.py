"""Tasks: what is read, what is held out, and every fault by file, row and field."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapterdistill.data.tasks import read_task
from adapterdistill.errors import DataError

SECRET = "canary zebra 7719"
Rows = list[dict[str, Any]]


def sound(*, valid: bool = True) -> Rows:
    """Forty train rows, four of each other split, two classes in turn."""
    splits = ["train"] * 40 + ["valid"] * (4 if valid else 0) + ["test"] * 4
    return [
        {"id": f"r{i}", "text": f"{SECRET} {i}", "label": "ab"[i % 2], "split": split}
        for i, split in enumerate(splits)
    ]


def write(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_task_is_read_with_its_splits_and_classes(tmp_path: Path) -> None:
    rows = [{**row, "domain": "books", "other": 1} for row in sound()]
    task = read_task(write(tmp_path / "reviews.jsonl", rows))
    assert (task.name, task.classes, task.pairs) == ("reviews", ("a", "b"), False)
    assert [len(part) for part in (task.train, task.valid, task.test)] == [40, 4, 4]
    assert (task.test[0].id, task.test[0].text_pair, task.test[0].domain) == ("r44", None, "books")


def test_without_valid_rows_some_train_rows_are_held_out_by_their_text(tmp_path: Path) -> None:
    rows = [{**row, "text_pair": f"pair {i}"} for i, row in enumerate(sound(valid=False))]
    for i in range(40):
        rows[i]["text"] = f"shared {i // 2}"
    rows[7]["text_pair"] = ""
    path = write(tmp_path / "pairs.jsonl", rows)
    task, again, other = read_task(path), read_task(path), read_task(path, seed=1)
    assert task.pairs and task == again and task.valid != other.valid
    assert len(task.train) + len(task.valid) == 40 and 1 <= len(task.valid) <= 14
    assert not {row.text for row in task.train} & {row.text for row in task.valid}


def put(row: int, **values: object) -> Callable[[Rows], None]:
    return lambda rows: rows[row].update(values)


def drop(row: int, field: str) -> Callable[[Rows], None]:
    return lambda rows: rows[row].pop(field)


def every(of: str, /, **values: object) -> Callable[[Rows], None]:
    def change(rows: Rows) -> None:
        for row in rows:
            if row["split"] == of:
                row.update(values)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop(3, "text"), "t.jsonl, row 3, column text: is missing or null"),
        (put(3, id=None), "row 3, column id: is missing or null"),
        (put(3, label=7), "row 3, column label: is not text"),
        (put(3, text="  "), "row 3, column text: is empty or only white space"),
        (put(3, text_pair=7), "row 3, column text_pair: is not text"),
        (put(3, text_pair=""), "row 3, column text_pair: must be there in all rows or in none"),
        (put(3, text_pair=SECRET), "row 3, column text_pair: must be there in all rows or in none"),
        (put(3, split="dev"), "row 3, column split: is not one of train, valid, test"),
        (put(3, id="r1"), "row 3, column id: repeats the id of an earlier row"),
        (put(45, label="c"), "row 45, column label: is a class that no train row has"),
        (every("train", label="a"), "t.jsonl, column label: train rows are of one class only"),
        (every("train", split="test"), "t.jsonl: holds no train row"),
        (list.clear, "t.jsonl: holds no train row"),
    ],
)
def test_a_fault_names_file_row_and_field_and_quotes_nothing(
    tmp_path: Path, change: Callable[[Rows], None], message: str
) -> None:
    rows = sound()
    change(rows)
    with pytest.raises(DataError) as caught:
        read_task(write(tmp_path / "t.jsonl", rows))
    assert message in str(caught.value)
    assert SECRET not in str(caught.value)


def test_too_few_rows_to_hold_some_out_are_refused(tmp_path: Path) -> None:
    rows = sound(valid=False)[39:]
    rows[1]["split"] = "train"
    with pytest.raises(DataError, match="no valid row, and too few train rows"):
        read_task(write(tmp_path / "t.jsonl", rows))


def test_a_broken_line_an_absent_file_and_another_format_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", sound())
    path.write_text(path.read_text() + "{" + SECRET + "\n")
    with pytest.raises(DataError, match="row 48: is not a line of JSON") as caught:
        read_task(path)
    assert SECRET not in str(caught.value)
    with pytest.raises(DataError, match=r"no\.jsonl: does not exist"):
        read_task(tmp_path / "no.jsonl")
    with pytest.raises(DataError, match=r"named \*\.jsonl"):
        read_task(tmp_path / "t.csv")
