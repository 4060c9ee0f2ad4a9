"""The multi-task benchmark end to end on two tiny tasks, and what it refuses."""

import json
import shutil
from pathlib import Path

import pytest

from adapterdistill import cli
from adapterdistill.backbone import Encoder
from adapterdistill.bench.multitask import report
from adapterdistill.bench.multitask.study import JOINT, PLAIN, SINGLE, TEACHER, TUNED
from adapterdistill.bench.multitask.tasks import (
    Size,
    read_bench_task,
    read_retrieval_task,
    task_files,
)
from adapterdistill.errors import DataError
from tests.unit.bench.conftest import SAMPLES

TINY = Size(24, 8, 12, 1, 1, 7, 12)
SECRET = "canary"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A task of single texts and one of pairs, 36 rows each."""
    for part, name, pairs in (("domains", "mood", False), ("pairs", "same", True)):
        folder = tmp_path / "data" / part
        folder.mkdir(parents=True)
        rows = [
            {
                "id": str(i), "text": f"{SECRET} {'xy'[i % 2]} {i}", "label": "ab"[i % 2],
                "split": ("train", "valid", "test")[i % 3 if i > 5 else 0],
                **({"text_pair": f"{SECRET} x"} if pairs else {}),
            }
            for i in range(36)
        ]  # fmt: skip
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tmp_path / "data"


def run(data: Path, out: Path, encoder: Path, *options: str) -> int:
    with pytest.raises(SystemExit) as exited:
        cli.main(["bench", "multitask", "--data", str(data), "--out", str(out),
                  "--encoder", str(encoder), "--dtype", "float32", *options])  # fmt: skip
    assert isinstance(exited.value.code, int)
    return exited.value.code


def test_the_command_reports_every_model_training_task_and_aim(
    data: Path, tmp_path: Path, tiny_encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(report.SIZES, "quick", TINY)
    out = tmp_path / "out"
    tenant = "larkhill-vets"
    shutil.copytree(SAMPLES / tenant, data / "tenants" / tenant)
    small = ("--tenants", tenant, "--layers", "1", "--heads", "2", "--lstm-size", "6")
    assert run(data, out, tiny_encoder_folder, *small) == 0
    found = json.loads((out / "report.json").read_text())
    trained = {(row["model"], row["training"]) for row in found["rows"]}
    students = {(m, t) for m in ("transformer", "bilstm") for t in (JOINT, TUNED, SINGLE, PLAIN)}
    assert trained == {(TEACHER, TEACHER), *students}
    for row in found["rows"]:
        assert set(row["accuracy"]) == {"mood", "same", tenant}
        assert row["macro"] == pytest.approx(sum(row["accuracy"].values()) / 3)
    assert set(found["speed"]) == {TEACHER, "transformer", "bilstm"}
    assert found["speed"][TEACHER]["times_teacher_best"] == 1.0
    assert len(found["aims"]) == 6 and all(isinstance(a["met"], bool) for a in found["aims"])
    text = (out / "report.md").read_text()
    assert f"| bilstm | {SINGLE} |" in text and "| same | pairs | 2 |" in text
    assert SECRET not in text and SECRET not in json.dumps(found)


def test_a_student_larger_than_its_teacher_is_refused_before_any_training(
    data: Path, tmp_path: Path, tiny_encoder_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(data, tmp_path / "out", tiny_encoder_folder, "--heads", "16") == 2
    assert "16 attention heads: its teacher has 4" in capsys.readouterr().err
    assert run(data, tmp_path / "out", tiny_encoder_folder, "--layers", "9") == 2
    assert "9 layers" in capsys.readouterr().err


def test_data_without_tasks_or_test_rows_are_refused(
    data: Path, tmp_path: Path, tiny_encoder: Encoder
) -> None:
    with pytest.raises(DataError, match="benchmark data: no task"):
        task_files(tmp_path / "nothing")
    path = data / "domains" / "mood.jsonl"
    path.write_text(path.read_text().replace('"test"', '"valid"'))
    with pytest.raises(DataError, match=r"mood\.jsonl: holds no test row"):
        read_bench_task(path, tiny_encoder, TINY)
    with pytest.raises(DataError, match="tenants/nobody is not there"):
        read_retrieval_task(data / "tenants" / "nobody", tmp_path, tiny_encoder, TINY)
    tenant = shutil.copytree(SAMPLES / "larkhill-vets", data / "tenants" / "larkhill-vets")
    queries = tenant / "queries.jsonl"
    queries.write_text(queries.read_text().replace('"valid"', '"train"'))
    with pytest.raises(DataError, match="has no labelled valid query"):
        read_retrieval_task(tenant, tmp_path, tiny_encoder, TINY)
