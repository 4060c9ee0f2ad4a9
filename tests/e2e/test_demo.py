"""The demo as a newcomer runs it, on two sample tenants."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
TENANTS = ("larkhill-vets", "pedal-and-spoke")
pytestmark = pytest.mark.e2e


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Ray's sockets live under it, and their paths end at 107 characters."""
    folder = Path(tempfile.mkdtemp(prefix=""))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def processes_under(folder: Path) -> list[str]:
    """Command lines that name the folder, or that run with it as their TMPDIR."""
    found = []
    for process in psutil.process_iter():
        try:
            command = " ".join(process.cmdline())
            if str(folder) in command or process.environ().get("TMPDIR") == str(folder):
                found.append(command)
        except psutil.Error:
            continue  # it ended, or is not ours
    return found


def test_the_demo_onboards_serves_answers_and_leaves_nothing(short_folder: Path) -> None:
    result = short_folder / "result.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "adapterdistill", "demo"),
            *("--tenants", ",".join(TENANTS), "--output", str(result)),
        ],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(short_folder), "COLUMNS": "200"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    deadline = time.monotonic() + 10
    while left := processes_under(short_folder):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)
    # What torch and multiprocessing cache in TMPDIR is theirs; the demo's own folder is gone.
    assert not list(short_folder.glob("ad-*"))
    files = [path for path in short_folder.rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix in (".parquet", ".safetensors", ".toml")]

    found = json.loads(result.read_text())
    first, second = found["reports"]
    assert (first["tenant"], second["tenant"]) == TENANTS
    assert first["submission_id"] == f"onboard-{TENANTS[0]}"
    assert first["fetch_teachers"]["teachers"] == []
    assert second["fetch_teachers"]["teachers"] == [first["publish"]["name"]]
    assert second["distil"]["trained"]
    versions = {r["tenant"]: r["publish"]["name"].rsplit("/", 1)[1] for r in found["reports"]}
    assert {answer["tenant"] for answer in found["answers"]} == set(TENANTS)
    for answer in found["answers"]:
        assert answer["version"] == versions[answer["tenant"]]
    assert found["peak_rss_mb"]["training"] <= 2000
    assert found["peak_rss_mb"]["registry"] <= 250
    assert found["peak_rss_mb"]["replica"] <= 1200
    for tenant in TENANTS:
        assert f"{tenant} bundle:" in done.stdout
    assert "Answers over HTTP" in done.stdout and "Seconds by stage" in done.stdout
