"""Starting a run from the console: its command, its log, and one run of a tenant at a time."""

import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from adapterdistill.console import starting
from adapterdistill.console.owner import Owner
from tests.unit.console.conftest import Browser, browser_of, text_of

WAITS = """
import pathlib, sys, time
print("asked:", *sys.argv[1:], flush=True)
[run] = [pathlib.Path(one) for one in sys.argv if one.endswith(".toml")]
while not run.with_name("go-on").exists():
    time.sleep(0.02)
print("<b>done</b>", file=sys.stderr)
"""


def toml(file: Path, tenant: str, home: Path, **places: str) -> Path:
    values = {
        "tenant": tenant,
        "data": str(home / "data"),
        "workspace": str(home / "owners"),
        "serving_store": str(home / "serving"),
    } | places
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(f'{key} = "{value}"\n' for key, value in values.items()))
    return file


@pytest.fixture
def able(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> Owner:
    """The owner with a run file and a folder of others, and a command that waits."""
    monkeypatch.setattr(starting, "_COMMAND", (sys.executable, "-c", WAITS))
    home = owner.workspace.parent
    runs = home / "runs"
    toml(runs / "brook.toml", "brook", home)
    toml(runs / "elsewhere.toml", "acme", home, workspace=str(home / "other"))
    (runs / "torn.toml").write_text("tenant = ")
    return replace(owner, config=toml(home / "run.toml", "acme", home), runs=runs)


def until(browser: Browser, text: str) -> str:
    for _ in range(500):
        shown = text_of(browser.get("/runs"))
        if text in shown:
            return shown
        time.sleep(0.02)
    raise AssertionError(shown)


def test_a_run_is_started_followed_and_started_once_at_a_time(able: Owner) -> None:
    browser = browser_of(able)
    shown = text_of(browser.get("/runs"))
    assert "run.toml (tenant acme)" in shown and "brook.toml (tenant brook)" in shown
    assert "elsewhere.toml cannot be started here: it has another workspace" in shown
    assert "torn.toml cannot be started here" in shown and "started here at" not in shown
    assert browser.post("/runs/start", file="run.toml").status_code == 200  # it sends to /runs
    shown = until(browser, "asked:")
    command = f"onboard --local --config {able.config}"
    assert f"$ adapterdistill {command}" in shown and f"asked: {command}" in shown
    assert "at work" in shown
    twice = browser.post("/runs/start", file="run.toml")
    assert twice.status_code == 422 and "is at work: wait for its end" in text_of(twice)
    (able.workspace.parent / "go-on").touch()
    until(browser_of(able), "ended")  # another console sees the same
    assert "&lt;b&gt;done&lt;/b&gt;" in browser.get("/runs").text
    log = able.workspace / "acme" / starting.LOG
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_run_goes_to_the_cluster_that_was_named(able: Owner) -> None:
    (able.workspace.parent / "go-on").touch()
    browser = browser_of(replace(able, cluster="http://127.0.0.1:8265"))
    assert "on the Ray cluster http://127.0.0.1:8265" in text_of(browser.get("/runs"))
    browser.post("/runs/start", file="run.toml")
    until(browser, f"asked: submit --config {able.config} --address http://127.0.0.1:8265")
    until(browser, "ended")


def test_what_is_not_offered_is_not_started(able: Owner) -> None:
    browser = browser_of(able)
    for file in ("elsewhere.toml", "torn.toml", "../run.toml", "none.toml", ""):
        assert browser.post("/runs/start", file=file).status_code == 422
    only = browser_of(replace(able, tenant="acme"))
    assert "brook.toml cannot be started here: it is another tenant" in text_of(only.get("/runs"))
    assert only.post("/runs/start", file="brook.toml").status_code == 422
    refused = browser.client.post("/runs/start", data={"file": "run.toml"})
    assert refused.status_code == 403  # it has no CSRF token
    assert not [*able.workspace.rglob(starting.LOG)]
    assert (
        "Start the run" not in browser_of(replace(able, config=None, runs=None)).get("/runs").text
    )
