"""The Meta-KD benchmark end to end on tiny domains, what it refuses, and its figures."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from adapterdistill import cli
from adapterdistill.backbone import Encoder
from adapterdistill.bench.meta import report, study
from adapterdistill.bench.meta.domains import (
    SIZES,
    Size,
    first_of_each_class,
    read_domains,
)
from adapterdistill.bench.meta.report import figures
from adapterdistill.bench.meta.study import FEDERATED, META, MIXED, NONE, OWN, STUDENTS
from adapterdistill.errors import ConfigError, DataError
from tests.task_texts import single_task

TINY = Size(None, (0.0, 0.1), 2, 2, 2)
SECRET = "canary"


def rows_of(domain: str | None, count: int = 30) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{domain}-{i}", "text": f"{SECRET} {'xy'[i % 2]} {domain} {i}",
            "label": "ab"[i % 2], "split": ("train", "valid", "test")[i % 3 if i > 5 else 0],
            "domain": domain,
        }
        for i in range(count)
    ]  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [row for domain in ("a", "b", "c", "films") for row in rows_of(domain)]
    return write(tmp_path / "mood.jsonl", rows)


@pytest.fixture(autouse=True)
def few_public_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "PUBLIC_TEXTS", 6)


def run(data: Path, out: Path, encoder: Path, *options: str) -> int:
    with pytest.raises(SystemExit) as exited:
        cli.main(["bench", "meta", "--data", str(data), "--out", str(out), "--encoder",
                  str(encoder), "--dtype", "float32", "--layers", "1", *options])  # fmt: skip
    assert isinstance(exited.value.code, int)
    return exited.value.code


def test_the_command_reports_every_student_and_goes_on_where_it_was(
    data: Path, tmp_path: Path, tiny_encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SIZES, "quick", TINY)
    out, options = tmp_path / "out", ("--leave-out", "films", "--heads", "2")
    assert run(data, out, tiny_encoder_folder, *options) == 0
    found = json.loads((out / "report.json").read_text())
    assert set(found["domains"]) == {"a", "b", "c"}
    assert [(row["share"], row["student"]) for row in found["figures"]] == [
        (share, kind)
        for share in TINY.shares
        for kind in (STUDENTS if share else (MIXED, META, FEDERATED))
    ]
    for row in found["figures"]:
        assert row["accuracy"] == pytest.approx(sum(row["by_domain"].values()) / 3)
        assert (row["teacher_accuracy"] is None) == (row["student"] == NONE)
    text = (out / "report.md").read_text()
    assert f"| 10% | {META} |" in text and f"over {MIXED}" in text
    assert SECRET not in text and SECRET not in json.dumps(found)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("trained what was there already")

    monkeypatch.setattr(study, "train", refuse)
    assert run(data, out, tiny_encoder_folder, *options) == 0
    assert json.loads((out / "report.json").read_text())["figures"] == found["figures"]


def test_a_run_out_of_time_reports_the_newcomers_that_it_had(
    data: Path, tmp_path: Path, tiny_encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SIZES, "quick", Size(None, (0.1,), 1, 1, 1))
    clock = iter([0.0, *range(100, 200)])  # the first newcomer is begun already late
    monkeypatch.setattr(report, "monotonic", lambda: next(clock))
    out, options = tmp_path / "out", ("--heads", "2", "--time-limit-s", "50")
    assert run(data, out, tiny_encoder_folder, *options) == 0
    assert json.loads((out / "report.json").read_text())["runs"] == [1, 4]
    assert "1 of 4 runs" in (out / "report.md").read_text()
    assert run(data, out, tiny_encoder_folder, "--heads", "2") == 0  # goes on
    clock = iter([0.0, *range(100, 200)])
    assert run(data, out, tiny_encoder_folder, *options) == 0
    assert json.loads((out / "report.json").read_text())["runs"] == [4, 4]


def test_a_student_larger_than_its_teacher_is_refused_before_any_training(
    data: Path, tmp_path: Path, tiny_encoder_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(data, tmp_path / "out", tiny_encoder_folder, "--heads", "16") == 2
    assert "16 attention heads: its teacher has 4" in capsys.readouterr().err


def test_unfit_domains_are_refused_with_what_to_change(
    data: Path, tmp_path: Path, tiny_encoder: Encoder
) -> None:
    with pytest.raises(ConfigError, match=r"2 domain\(s\) are too few"):
        read_domains(data, tiny_encoder, ["films", "c"])
    with pytest.raises(ConfigError, match=r"mood\.jsonl has no domain tv to leave out"):
        read_domains(data, tiny_encoder, ["tv"])
    bare = write(tmp_path / "bare.jsonl", [{**row, "domain": None} for row in rows_of("a")])
    with pytest.raises(DataError, match="field `domain` is missing"):
        read_domains(bare, tiny_encoder, [])
    some = [row for domain in "abc" for row in rows_of(domain)]
    for broken, what in (
        ([row for row in rows_of("d") if row["split"] != "test"], "no test row"),
        ([row for row in rows_of("d") if row["label"] == "a"], "train rows of one class"),
    ):
        path = write(tmp_path / "broken.jsonl", some + broken)
        with pytest.raises(DataError, match=f"domain d has {what}: add some or leave it out"):
            read_domains(path, tiny_encoder, [])
    pairs = [{**row, "text_pair": "x"} for row in some]
    with pytest.raises(DataError, match="pairs of texts"):
        read_domains(write(tmp_path / "pairs.jsonl", pairs), tiny_encoder, [])


def test_a_share_has_rows_of_every_class_and_larger_ones_hold_smaller_ones() -> None:
    texts = single_task(60, classes=3)
    assert first_of_each_class(texts, 0.0) == []
    few, more = first_of_each_class(texts, 0.01), first_of_each_class(texts, 0.1)
    assert sorted(texts.labels[few].tolist()) == [0, 1, 2]
    assert len(more) == 6 and set(few) <= set(more)
    assert first_of_each_class(texts, 1.0) == list(range(60))


def test_figures_are_macro_over_newcomers_and_gains_paired_by_row() -> None:
    def cell(mixed: list[int], own: list[int]) -> dict[str, Any]:
        of = {MIXED: mixed, META: own}
        students = {k: {"0.1": {"valid": h, "test": h}} for k, h in of.items()}
        return {"students": students, "teachers": {}}

    cells = [
        ("a", cell([0, 0, 1, 1], [1, 1, 1, 1])),
        ("a", cell([0, 0, 1, 1], [0, 0, 1, 1])),
        ("b", cell([0, 1], [0, 1])),
    ]
    mixed, ours = figures(cells, (0.1,))
    assert (mixed["student"], ours["student"]) == (MIXED, META)
    assert mixed["accuracy"] == pytest.approx(0.5)
    assert ours["accuracy"] == pytest.approx((0.75 + 0.5) / 2)
    assert ours["over"] == MIXED and ours["gain"]["mean"] == pytest.approx(0.125)
    assert OWN not in (mixed.get("over"), ours.get("over"))
    assert torch.tensor([ours["gain"]["low"], ours["gain"]["high"]]).isfinite().all()
