import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapterdistill.bench.transfer import method_table
from adapterdistill.bench.transfer.cells import Cell, Workbench
from adapterdistill.bench.transfer.command import report
from adapterdistill.bench.transfer.method_table import OURS, OWN, TABLE
from adapterdistill.bench.transfer.methods import Setting
from adapterdistill.bench.transfer.study import TransferRun, run_transfer
from adapterdistill.bench.transfer.workers import run_here
from tests.unit.bench.conftest import TINY


def test_the_report_holds_every_method_k_and_gain(
    bench: Workbench, finished: TransferRun, tmp_path: Path
) -> None:
    _, text = report(bench, finished, tmp_path, processes=1, draw=True)
    found = json.loads((tmp_path / "report.json").read_text())
    assert {row["method"] for row in found["rows"]} == {*TABLE, "verdict"}
    assert {row["teacher_count"] for row in found["rows"] if row["method"] == OURS} == {1, 2}
    assert {(g["over"], g["k"]) for g in found["gains"] if g["method"] == OURS} >= {
        ("frozen", 0), (OWN, 2), ("fusion", 2), ("pooled", 2),
    }  # fmt: skip
    assert found["no_harm"] is True
    assert all(found["environment"][fact] for fact in ("commit", "processor", "dtype", "packages"))
    for plot in ("accuracy_over_k.png", "gain_over_n.png", "gain_by_tenant.png"):
        assert (tmp_path / plot).read_bytes().startswith(b"\x89PNG") and plot in text


def test_the_report_holds_no_text_of_a_tenant_and_no_path(
    bench: Workbench, finished: TransferRun, tmp_path: Path
) -> None:
    _, text = report(bench, finished, tmp_path, processes=1, draw=False)
    text += (tmp_path / "report.json").read_text()
    assert str(tmp_path) not in text and str(Path.home()) + "/" not in text
    for tenant in bench.tenants.values():
        assert not any(query in text for query in tenant.test.texts if len(query) > 12)


def test_a_resumed_run_computes_nothing_and_finds_the_same(
    bench: Workbench, finished: TransferRun
) -> None:
    again = run_transfer(bench, run_here(bench), TINY, processes=1)
    assert finished.computed > 0 and again.computed == 0
    assert again.results == finished.results and again.choices == finished.choices


def test_no_tenant_is_its_own_teacher(finished: TransferRun) -> None:
    assert all(p.cell.tenant not in p.cell.teachers for p in finished.planned)


def test_every_test_row_is_ranked_once_by_every_method(
    bench: Workbench, finished: TransferRun
) -> None:
    for planned, result in zip(finished.planned, finished.results, strict=True):
        tenant = bench.tenants[planned.cell.tenant]
        for scoring in result["scores"].values():
            assert len(scoring["test"]) == len(tenant.test)
            assert all(1 <= rank <= tenant.num_faqs for rank in scoring["test"])


def test_a_run_without_time_says_that_it_is_not_complete(bench: Workbench) -> None:
    longer = replace(TINY, tuning_steps=1)
    found = run_transfer(bench, run_here(bench), longer, processes=1, time_limit_s=1e-9)
    assert not found.complete and found.seeds == () and found.planned == []


@pytest.fixture
def cell(bench: Workbench) -> Cell:
    first, *others = sorted(bench.tenants)
    setting = Setting(1e-3, 2)
    return Cell(OURS, first, 2, 0, setting, tuple(others), own=setting)


def _raised(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = replace(method_table.METHODS[name], version="changed")
    monkeypatch.setitem(method_table.METHODS, name, changed)


def test_a_changed_method_changes_its_own_keys_alone(
    bench: Workbench, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(cell, method="fusion")
    before = bench.key(cell), bench.key(other)
    _raised(OURS, monkeypatch)
    assert bench.key(cell) != before[0]
    assert bench.key(other) == before[1]


def test_a_changed_ingredient_changes_the_keys_of_what_is_made_from_it(
    bench: Workbench, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = bench.key(cell)
    _raised(OWN, monkeypatch)
    assert bench.key(cell) != before


def _changes(cell: Cell) -> list[dict[str, Any]]:
    return [
        {"k": 1},
        {"seed": 1},
        {"tenant": cell.teachers[0], "teachers": cell.teachers[1:]},
        {"teachers": cell.teachers[:1]},
        {"setting": replace(cell.setting, steps=cell.setting.steps + 1)},
        {"own": replace(cell.setting, steps=cell.setting.steps + 1)},
        {"tuning": True},
    ]


def test_whatever_a_result_depends_on_is_in_its_key(bench: Workbench, cell: Cell) -> None:
    keys = [bench.key(replace(cell, **change)) for change in _changes(cell)]
    assert len({bench.key(cell), *keys}) == 1 + len(keys)


def test_a_changed_row_of_the_tenant_changes_the_key(bench: Workbench, cell: Cell) -> None:
    changed = replace(bench.tenants[cell.tenant], digest="0" * 64)
    other = replace(bench, tenants={**bench.tenants, cell.tenant: changed})
    assert other.key(cell) != bench.key(cell)
