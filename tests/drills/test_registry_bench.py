"""The registry's benchmark and its fuzzer, at their smallest, on real registry processes."""

import json
from pathlib import Path

import pytest

from adapterdistill.bench.registry.command import SIZES, registry_command
from adapterdistill.cli import main
from adapterdistill.drills.drill import run_drill
from adapterdistill.drills.registry import fuzz
from tests.unit.drills.test_drill import sized


def test_the_registry_shows_no_fault_under_load(tmp_path: Path) -> None:
    found, report = registry_command(out=tmp_path, size=SIZES["tiny"])
    assert found["faults"] == []
    assert json.loads((tmp_path / "report.json").read_text()) == found
    load = found["load"]
    assert load["adapters"] == SIZES["tiny"].adapters
    assert all(row["p99_ms"] >= row["p50_ms"] > 0 for row in load["latency"].values())
    assert all(row["publish_to_copy"] > 0 for row in load["speed"])
    assert load["mixed"]["calls"] > 0
    assert load["memory"]["peak"] >= load["memory"]["at_start"] > 0
    assert (tmp_path / "report.md").read_text() == report
    assert "No fault found" in report and "64 clients at once" in report


def test_the_registry_shows_no_fault_under_fuzz(tmp_path: Path) -> None:
    outcome = run_drill(sized("fuzz-registry", calls=300), seed=0, keep=tmp_path)
    assert outcome.findings == ()
    found = json.loads((tmp_path / "report.json").read_text())["fuzz"]
    assert sum(row["cases"] for row in found["outcomes"]) == 300
    assert found["accepted"] > 0
    assert "300 mutated calls" in (tmp_path / "report.md").read_text()


def test_accepting_what_must_be_refused_is_a_fault_and_is_shrunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judge(name: str, manifest_json: bytes, payload: bytes) -> str | None:
        return "a planted fault" if b'"seed":' in manifest_json else None

    monkeypatch.setattr(fuzz, "fault_of", judge)
    outcome = run_drill(sized("fuzz-registry", calls=100), seed=0, keep=tmp_path)
    assert any("a planted fault" in finding for finding in outcome.findings)
    found = json.loads((tmp_path / "report.json").read_text())["fuzz"]
    assert found["smallest"][0]["fault"] in found["wrongly_accepted"]
    assert "The smallest cases" in (tmp_path / "report.md").read_text()


def test_the_former_options_of_the_benchmark_run_the_drills_and_name_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--adapters", "0", "--fuzz", "30", "--kills", "1", "--seed", "2")
    with pytest.raises(SystemExit) as ended:
        main(["bench", "registry", "--out", str(tmp_path), *options, "--format", "json"])
    out, err = capsys.readouterr()
    assert ended.value.code == 0, err
    assert "adapterdistill drill fuzz-registry --calls 30" in err
    assert "adapterdistill drill kill-registry --kills 1" in err
    found = json.loads(out)
    assert found["fuzz"]["cases"] == 30 and found["fuzz"]["seed"] == 2
    assert found["kills"]["kills"] == 1 and found["faults"] == []
    assert json.loads((tmp_path / "report.json").read_text()) == found
