"""What surrounds a drill: its folder, its processes, its verdict, and the command."""

import inspect
import json
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from adapterdistill.cli import drill as cli
from adapterdistill.cli import main
from adapterdistill.drills import drill
from adapterdistill.drills.catalogue import DRILLS, Later
from adapterdistill.drills.drill import Drill, Outcome, not_refused, reported, run_drill
from adapterdistill.errors import NotFoundError, RegistryError, WithdrawnError
from adapterdistill.testbed.reporting import Part

Run = Callable[[Path, random.Random], Outcome]


def sized(name: str, **sizes: float) -> Drill:
    """A drill with other sizes than by default."""
    drill = DRILLS[name]
    assert sizes.keys() <= drill.sizes.keys()
    return replace(drill, sizes={**drill.sizes, **sizes})


def drill_of(run: Run) -> Drill:
    return Drill("made-up", "A drill of a test.", run)


def raises(error: BaseException) -> Run:
    def run(folder: Path, draw: random.Random) -> Outcome:
        raise error

    return run


def test_a_run_without_findings_passes_and_its_folder_is_gone() -> None:
    folders = []

    def run(folder: Path, draw: random.Random) -> Outcome:
        folders.append(folder)
        (folder / "file").write_text(str(draw.random()))
        return Outcome(1.5)

    found = run_drill(drill_of(run), seed=3)
    assert found.passed and found.recovery_s == 1.5
    assert not folders[0].exists()


def test_the_seed_decides_the_moment() -> None:
    def run(folder: Path, draw: random.Random) -> Outcome:
        return Outcome(draw.random())

    first, again, other = (run_drill(drill_of(run), seed).recovery_s for seed in (1, 1, 2))
    assert first == again != other


def test_an_error_of_the_deployment_is_a_finding() -> None:
    found = run_drill(drill_of(raises(RegistryError("it does not start"))), seed=0)
    assert not found.passed and found.recovery_s is None
    assert found.findings == ("REGISTRY_ERROR: it does not start",)


def test_a_process_that_is_left_is_ended_and_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drill, "GRACE_S", 0.1)
    started = []

    def run(folder: Path, draw: random.Random) -> Outcome:
        command = [sys.executable, "-c", "import time; time.sleep(60)"]
        started.append(subprocess.Popen(command))
        return Outcome(0.0)

    found = run_drill(drill_of(run), seed=0)
    assert len(found.findings) == 1 and found.findings[0].startswith("left running: python")
    assert not psutil.pid_exists(started[0].pid)
    started[0].wait()


def test_ctrl_c_leaves_neither_folder_nor_process() -> None:
    folders, started = [], []

    def run(folder: Path, draw: random.Random) -> Outcome:
        folders.append(folder)
        command = [sys.executable, "-c", "import time; time.sleep(60)"]
        started.append(subprocess.Popen(command))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_drill(drill_of(run), seed=0)
    assert not folders[0].exists() and not psutil.pid_exists(started[0].pid)
    started[0].wait()


def test_what_must_be_refused_must_be_so_for_its_reason() -> None:
    refusal = raises(NotFoundError("gone"))

    def call() -> None:
        refusal(Path(), random.Random())

    assert not_refused(call, "WITHDRAWN", "NOT_FOUND") == []
    assert "expected WITHDRAWN" in not_refused(call, "WITHDRAWN")[0]
    assert not_refused(lambda: None, WithdrawnError.reason) == ["answered, expected WITHDRAWN"]


def run_command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["drill", *arguments])
    out, err = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> dict[str, Drill]:
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)  # this process goes on
    drills = {
        "sound": Drill("sound", "Passes.", lambda folder, draw: Outcome(draw.random())),
        "broken": Drill("broken", "Fails.", lambda folder, draw: Outcome(None, ("a lost blob",))),
    }
    monkeypatch.setattr(cli, "DRILLS", drills)
    return drills


def test_the_list_names_each_drill(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ((), ("list",)):
        status, out, _ = run_command(capsys, *arguments)
        assert status == 0 and all(name in out for name in DRILLS)
    status, out, _ = run_command(capsys, "list", "--format", "json")
    assert [row["name"] for row in json.loads(out)] == list(DRILLS)


def test_runs_that_pass_are_summed_up(
    capsys: pytest.CaptureFixture[str], made_up: dict[str, Drill]
) -> None:
    arguments = ("sound", "--runs", "3", "--seed", "5", "--format", "json")
    status, out, err = run_command(capsys, *arguments)
    (row,) = json.loads(out)
    assert status == 0 and row["passed"]
    assert [run["seed"] for run in row["runs"]] == [5, 6, 7]
    seconds = sorted(run["recovery_s"] for run in row["runs"])
    assert row["recovery_s"] == {"median": round(seconds[1], 3), "max": round(seconds[2], 3)}
    assert "sound 3/3: pass" in err


def test_a_finding_is_told_and_fails_the_command(
    capsys: pytest.CaptureFixture[str], made_up: dict[str, Drill]
) -> None:
    status, out, err = run_command(capsys, "all")
    assert status == 1
    assert "1 of 1" in out and "0 of 1" in out and "a lost blob" in out
    assert "broken 1/1: FAIL" in err


def test_an_unknown_drill_is_a_wrong_setting(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run_command(capsys, "kill-moon")
    assert status == 2 and "no such drill: kill-moon" in err and "kill-registry" in err


def test_sizes_reach_the_drills_that_have_them(
    capsys: pytest.CaptureFixture[str], made_up: dict[str, Drill]
) -> None:
    def run(folder: Path, draw: random.Random, *, calls: int) -> Outcome:
        return Outcome(None, note=f"{calls} calls")

    made_up["calling"] = Drill("calling", "Calls.", run, {"calls": 5})
    for options, calls in (((), 5), (("--calls", "7"), 7)):
        status, _, err = run_command(capsys, "calling", "sound", *options)
        assert status == 0 and f"calling 1/1: pass ({calls} calls)" in err


def test_a_size_of_no_drill_that_is_run_is_a_wrong_setting(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, _, err = run_command(capsys, "kill-registry", "--calls", "3")
    assert status == 2 and "--calls is a size of fuzz-registry" in " ".join(err.split())


def test_the_list_names_the_sizes_of_a_drill(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run_command(capsys, "list", "--format", "json")
    sizes = {row["name"]: row["sizes"] for row in json.loads(out)}
    assert sizes["soak"] == {"minutes": 30.0, "rate": 20.0} and sizes["drop-rpc"] == {}


def test_the_report_of_a_drill_is_kept_where_it_is_asked_for(tmp_path: Path) -> None:
    part = Part("work", lambda: {"done": 3}, lambda found: ["## Work"], lambda found: ["a fault"])

    def run(folder: Path, draw: random.Random) -> Outcome:
        return reported(folder, "Made up", part)[1]

    found = run_drill(drill_of(run), seed=0, keep=tmp_path / "kept")
    assert found.findings == ("a fault",)
    figures = json.loads((tmp_path / "kept" / "report.json").read_text())
    assert figures["work"] == {"done": 3} and figures["faults"] == ["a fault"]
    text = (tmp_path / "kept" / "report.md").read_text()
    assert "# Made up" in text and "**1 faults**" in text and "## Work" in text


@pytest.mark.parametrize("name", DRILLS)
def test_the_function_of_each_drill_is_there_and_takes_its_sizes(name: str) -> None:
    run = DRILLS[name].run
    assert isinstance(run, Later)
    parameters = inspect.signature(run.function()).parameters
    assert [*parameters][:2] == ["folder", "draw"]
    assert [*parameters][2:] == [*DRILLS[name].sizes]
