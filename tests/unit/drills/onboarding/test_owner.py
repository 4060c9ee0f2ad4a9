"""What a fault changed of an onboarding is found out."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adapterdistill.drills.onboarding import owner
from adapterdistill.drills.onboarding.owner import Made, Run, differences

ANOTHER = "is another than that of a run without the fault"


@pytest.fixture(autouse=True)
def _sound_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "fsck_findings", lambda root: [])


def report(name: str = "v1", **more: Any) -> Any:
    told = {"publish": {"name": name}, "seconds": 2.5, "extract": {"peak_rss_mb": 9, "steps": 3}}
    return SimpleNamespace(publish=SimpleNamespace(name=name), model_dump=lambda **_: told | more)


def made(**other: Any) -> Made:
    files = {"owners/acme/report.json", "serving/live/acme.json"}
    # The manifest is only compared: None stands for one.
    return replace(Made(report(), (None, b"payload"), 1, files), **other)  # type: ignore[arg-type]


def found(tmp_path: Path, one: Made) -> list[str]:
    return [*differences(Run(tmp_path), one, made())]


def test_only_times_may_differ(tmp_path: Path) -> None:
    assert found(tmp_path, made(report=report(seconds=7.5, extract={"steps": 3}))) == []


@pytest.mark.parametrize(
    ("other", "findings"),
    [
        ({"report": report(extract={"steps": 4})}, [f"the report {ANOTHER}"]),
        ({"report": report("v2")}, [f"the adapter {ANOTHER}", f"the report {ANOTHER}"]),
        ({"published": (None, b"other")}, [f"the adapter's manifest {ANOTHER}"]),
        ({"versions": 2}, ["2 versions were published, expected one"]),
        (
            {"left": {"owners/acme/report.json", "serving/live/.staged-acme.json"}},
            ["left behind: serving/live/.staged-acme.json", "not there: serving/live/acme.json"],
        ),
    ],
)
def test_what_differs_is_named(tmp_path: Path, other: dict[str, Any], findings: list[str]) -> None:
    assert found(tmp_path, made(**other)) == findings
