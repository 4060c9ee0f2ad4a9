"""A tenant's further tasks: checked, read and digested with the rest of its folder."""

import json
from pathlib import Path

import pytest

from adapterdistill.data import TenantDataset, find_faults
from adapterdistill.data.dataset import refuse_to_replace
from adapterdistill.errors import DataError
from tests.owner_runs import write_shop, write_task

SECRET = "canary zebra 7719"


def test_a_task_is_read_and_part_of_the_digest(tmp_path: Path) -> None:
    folder = write_shop(tmp_path / "acme")
    plain = TenantDataset.open(folder)
    digest = plain.digest()
    (folder / "tasks").mkdir()
    assert plain.tasks() == [] and plain.digest() == digest
    path = write_task(folder, "mood")
    tenant = TenantDataset.open(folder)
    assert [task.name for task in tenant.tasks()] == ["mood"]
    with_task = tenant.digest()
    path.write_text(path.read_text().replace("glad", "happy"))
    changed = TenantDataset.open(folder).digest()
    path.rename(path.with_name("mode.jsonl"))
    assert len({digest, with_task, changed, TenantDataset.open(folder).digest()}) == 4


def test_a_tenant_with_tasks_is_not_replaced(tmp_path: Path) -> None:
    folder = write_shop(tmp_path / "acme")
    task = write_task(folder, "mood")
    with pytest.raises(DataError, match="holds tasks, which would be lost: move them"):
        refuse_to_replace(folder, overwrite=True)
    assert task.exists()


def test_faults_of_tasks_are_named_by_file_row_and_field(tmp_path: Path) -> None:
    folder = write_shop(tmp_path / "acme")
    rows = [json.loads(line) for line in write_task(folder, "mood").read_text().splitlines()]
    rows[3]["label"], rows[4]["text"] = "other", None
    write_task(folder, "mood", rows=[*rows, {"id": SECRET}])
    write_task(folder, "one_class", rows=[row | {"label": "glad"} for row in rows[:3]])
    write_task(folder, "empty", rows=[])
    (folder / "tasks" / f"{SECRET}.jsonl").write_text("")
    said = [str(fault) for fault in find_faults(folder)]
    for expected in (
        "tasks: holds a file whose name is not up to 40 of a-z, 0-9 and _",
        "tasks/empty.jsonl: holds no train row",
        "tasks/mood.jsonl, row 4, column text: is missing or null",
        "tasks/one_class.jsonl, column label: train rows are of one class only",
    ):
        assert expected in said
    assert SECRET not in "".join(said)
    with pytest.raises(DataError, match="tasks/mood"):
        TenantDataset.open(folder)
