"""The federation command without its federation: what it needs, prints, and ends with."""

import json
from pathlib import Path
from typing import Any, Self

import pytest

from adapterdistill.cli import main
from adapterdistill.demo.federation import TENANTS, Federation
from adapterdistill.demo.steps import Steps
from adapterdistill.errors import ConfigError

RUNS = Path(__file__).resolve().parents[3] / "cluster" / "federation"


class Told:
    """A story of one step, in which `came` came."""

    came = "2"

    def __init__(self, *_: object, emit: Any, **__: object) -> None:
        self.steps = Steps(emit)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self) -> None:
        self.steps.take("adds", "2", lambda: self.came)


def exit_code_of(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["federation", "--runs", str(RUNS), *arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(("came", "exit_code"), [("2", 0), ("3", 1)])
def test_it_ends_with_1_where_a_step_did_not_end_as_expected(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], came: str, exit_code: int
) -> None:
    monkeypatch.setattr("adapterdistill.demo.federation.Federation", Told)
    monkeypatch.setattr(Told, "came", came)
    assert exit_code_of("--format", "json") == exit_code
    (step,) = json.loads(capsys.readouterr().out)
    assert (step["name"], step["came"], step["passed"]) == ("adds", came, came == "2")
    assert exit_code_of() == exit_code
    assert ("FAIL" in capsys.readouterr().out) == (came == "3")


def test_a_folder_without_the_owners_files_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of("--runs", str(tmp_path)) == ConfigError.exit_code
    assert f"no {TENANTS[0]}.toml" in capsys.readouterr().err


def test_a_folder_that_is_there_already_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ConfigError, match="cannot make a new folder"):
        Federation(lambda owner: None, runs=RUNS, root=tmp_path, emit=print)  # type: ignore[arg-type, return-value]
    assert (tmp_path / "file").read_text() == "kept"
