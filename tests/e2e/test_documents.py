"""The documents' commands, run as a newcomer would, session by session.

`tests/unit/documents/pages.py` says which blocks make a session.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.unit.documents.pages import ROOT, Block, blocks, session_blocks

pytestmark = pytest.mark.e2e
_BEGIN = "=== "
_PORT = "8017"
"""The port that the documents name; a test takes a free one."""


def run_session(session: str, home: Path, *, timeout_s: float = 280) -> dict[str, str]:
    """Run the session's blocks in one shell; what each has printed, by its place."""
    assert shutil.which("bash")
    blocks_run = session_blocks(session)
    script = "".join(f"echo; echo '{_BEGIN}{block}'\n{block.text}" for block in blocks_run)
    # Whatever was started in the background ends with the session, also where a command fails.
    script = f"trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n{script}"
    environment = {
        **os.environ,
        "ADAPTERDISTILL_HOME": str(home),
        "COLUMNS": "200",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        environment.pop(name, None)
    with subprocess.Popen(
        ["bash", "-em", "-c", script.replace(_PORT, str(free_port()))],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as shell:
        try:
            stdout, stderr = shell.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            for process in psutil.Process(shell.pid).children(recursive=True):
                process.kill()
            stdout, stderr = shell.communicate()
    assert shell.returncode == 0, f"{stdout[-3000:]}\n{stderr[-3000:]}"
    parts = stdout.split(f"\n{_BEGIN}")[1:]
    return {part.split("\n", 1)[0]: part.split("\n", 1)[1] for part in parts}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def shape(value: Any) -> Any:
    """A JSON value's keys and types, without its values."""
    if isinstance(value, dict):
        return {key: shape(one) for key, one in value.items()}
    if isinstance(value, list):
        return [shape(one) for one in value]
    return type(value).__name__


@pytest.mark.timeout(560)  # two onboardings, a Ray cluster and twenty commands
def test_one_machine_onboards_answers_and_is_audited(tmp_path: Path) -> None:
    printed = run_session("one machine", tmp_path / "home", timeout_s=540)
    everything = "".join(printed.values())
    assert "larkhill-vets: adapter faq" in everything
    assert "tenants/larkhill-vets/adapters/faq" in everything.replace("\n", "")
    readme: list[Block] = blocks("README.md")
    [asked] = [block for block in readme if block.session == "one machine"]
    [shown] = [json.loads(block.text) for block in readme if block.language == "json"]
    # `serve`, in the background, may say at any time that it serves.
    answer = json.loads(printed[str(asked)].splitlines()[-1])
    assert shape(answer) == shape(shown)
    best = answer["results"][0]["ranked"][0]["faq_id"]
    assert best == shown["results"][0]["ranked"][0]["faq_id"]


@pytest.mark.parametrize("session", ["own data", "certificates", "drills"])
def test_a_session_of_commands_ends_without_an_error(session: str, tmp_path: Path) -> None:
    assert run_session(session, tmp_path / "home")
