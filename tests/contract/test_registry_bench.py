"""The registry's benchmark, at its smallest, on real registry processes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from adapterdistill.bench.registry.command import SIZES, registry_command
from adapterdistill.drills.registry import fuzz


def test_the_registry_shows_no_fault_under_load_and_under_fuzz(tmp_path: Path) -> None:
    found = registry_command(out=tmp_path, size=SIZES["tiny"], seed=0)
    assert found["faults"] == []
    assert json.loads((tmp_path / "report.json").read_text()) == found
    load, fuzz = found["load"], found["fuzz"]
    assert load["adapters"] == SIZES["tiny"].adapters
    assert all(row["p99_ms"] >= row["p50_ms"] > 0 for row in load["latency"].values())
    assert all(row["publish_to_copy"] > 0 for row in load["speed"])
    assert load["mixed"]["calls"] > 0
    assert load["memory"]["peak"] >= load["memory"]["at_start"] > 0
    assert sum(row["cases"] for row in fuzz["outcomes"]) == SIZES["tiny"].fuzz
    assert fuzz["accepted"] > 0
    report = (tmp_path / "report.md").read_text()
    assert "No fault found" in report and "64 clients at once" in report


def test_accepting_what_must_be_refused_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, "fault_of", lambda *_: "a planted fault")
    size = replace(SIZES["tiny"], adapters=0, kills=0, fuzz=100)
    found = registry_command(out=tmp_path, size=size, seed=0)
    assert any("a planted fault" in fault for fault in found["faults"])
    assert "faults**" in (tmp_path / "report.md").read_text()
