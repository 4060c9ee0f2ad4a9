"""Commands of benchmarks: sizes that they have, and former names of drills."""

from pathlib import Path
from typing import Any

import pytest

from adapterdistill.bench.endpoint import command
from adapterdistill.cli import drill, main
from adapterdistill.drills.soak import command as soak
from adapterdistill.errors import ServingError
from adapterdistill.testbed.reporting import Report


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["bench", *arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_a_size_that_a_benchmark_lacks_is_refused_with_those_that_it_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", str(tmp_path))
    assert run("registry", *out, "--size", "full") == 2
    assert "no size full: take tiny, quick, standard" in capsys.readouterr().err


@pytest.mark.parametrize(("met", "exit_code"), [(True, 0), (False, ServingError.exit_code)])
def test_the_former_name_of_the_soak_runs_it_and_names_the_drill(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    met: bool,
    exit_code: int,
) -> None:
    def soaked(*, out: Path, minutes: float, rate_per_s: float) -> Report:
        return Report({"aims": [{"met": met}]}, f"{minutes:g} minutes at {rate_per_s:g}")

    monkeypatch.setattr(soak, "soak_command", soaked)
    monkeypatch.setattr(drill, "end_orderly", lambda: None)
    assert run("soak", "--out", str(tmp_path), "--minutes", "0.5") == exit_code
    out, err = capsys.readouterr()
    assert "adapterdistill drill soak --minutes 0.5 --rate 20" in err
    assert "0.5 minutes at 20" in out


@pytest.mark.parametrize(
    ("options", "drills"),
    [
        ((), ["isolation --requests 20000", "kill-serve-replica --seconds 40"]),
        (("--isolation-only", "--requests", "9"), ["isolation --requests 9"]),
        (("--fairness-only",), []),
    ],
)
def test_the_former_parts_of_the_benchmark_over_http_name_their_drills(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    drills: list[str],
) -> None:
    def measured(*, more: list[Any], size: command.Size, **_: Any) -> Report:
        return Report({"faults": []}, f"{len(more)} more, {size.rounds} rounds")

    monkeypatch.setattr(command, "http_command", measured)
    assert run("serving", "--http", "--out", str(tmp_path), *options) == 0
    out, err = capsys.readouterr()
    assert err.count("this is a drill now") == len(drills)
    assert all(f"adapterdistill drill {name}" in err for name in drills)
    assert f"{len(drills)} more, {0 if options else 3} rounds" in out
