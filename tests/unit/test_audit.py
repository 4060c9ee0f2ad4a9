"""The audit of pinned packages: what it reports, what it excuses, and when it could not ask."""

import importlib.util
import subprocess
from datetime import date
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TODAY = date(2026, 11, 21)


@pytest.fixture
def audit() -> Any:
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def report(*ids: str) -> dict[str, Any]:
    vulnerabilities = [{"id": i, "fix_versions": ["2.0"], "aliases": [f"CVE-{i}"]} for i in ids]
    packages = [("left", vulnerabilities), ("right", [])]
    return {
        "dependencies": [
            {"name": name, "version": "1.0", "vulns": found} for name, found in packages
        ]
    }


def excuse(identifier: str, until: date, package: str = "left") -> dict[str, Any]:
    return {"package": package, "id": identifier, "until": until, "why": "of no concern here"}


def test_a_vulnerability_is_told_with_what_fixes_it(audit: Any) -> None:
    assert [*audit.faults(report(), [], TODAY)] == []
    assert [*audit.faults(report("A"), [], TODAY)] == ["left 1.0: A; fixed in 2.0"]


def test_an_excuse_holds_for_its_package_until_its_day(audit: Any) -> None:
    for identifier in ("A", "CVE-A"):
        assert [*audit.faults(report("A"), [excuse(identifier, TODAY)], TODAY)] == []
    [told] = audit.faults(report("A"), [excuse("A", date(2026, 11, 20))], TODAY)
    assert "its excuse is over" in told
    told = [*audit.faults(report("A", "B"), [excuse("A", TODAY)], TODAY)]
    assert told == ["left 1.0: B; fixed in 2.0"]
    assert len([*audit.faults(report("A"), [excuse("A", TODAY, "right")], TODAY)]) == 2


def test_an_excuse_that_nothing_needs_must_go(audit: Any) -> None:
    [told] = audit.faults(report(), [excuse("A", TODAY)], TODAY)
    assert "remove its excuse" in told


@pytest.mark.parametrize(
    ("stderr", "passes"),
    [
        ("requests.exceptions.ConnectionError: no such host", True),
        ("pip_audit.ConnectionTimeout: too slow", True),
        ("ERROR: requirement file cannot be parsed", False),
        ("", False),
    ],
)
def test_only_a_database_out_of_reach_lets_it_pass_unchecked(
    audit: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stderr: str,
    passes: bool,
) -> None:
    def failed(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, stdout="", stderr=stderr)

    monkeypatch.setattr(audit.subprocess, "run", failed)
    if passes:
        audit.main()
        assert "out of reach" in capsys.readouterr().out
    else:
        with pytest.raises(SystemExit, match="pip-audit failed"):
            audit.main()


def test_every_shipped_excuse_says_until_when_and_why(audit: Any) -> None:
    import tomllib

    for one in tomllib.loads(audit.ALLOWED.read_text()).get("allowed", []):
        assert one.keys() == {"package", "id", "until", "why"}
        assert isinstance(one["until"], date) and one["why"]
