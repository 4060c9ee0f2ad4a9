"""The documents' commands, run as a newcomer would, session by session.

`tests/unit/documents/pages.py` says which blocks make a session.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.documents.pages import ROOT, Block, blocks, session_blocks

pytestmark = pytest.mark.e2e
_BEGIN = "=== "


def run_session(session: str, home: Path) -> dict[str, str]:
    """Run the session's blocks in one shell; what each has printed, by its place."""
    assert shutil.which("bash")
    found = session_blocks(session)
    script = "".join(f"echo; echo '{_BEGIN}{block}'\n{block.text}" for block in found)
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
    result = subprocess.run(
        ["bash", "-em", "-c", script],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=290,
    )
    assert result.returncode == 0, f"{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    parts = result.stdout.split(f"\n{_BEGIN}")[1:]
    return {part.split("\n", 1)[0]: part.split("\n", 1)[1] for part in parts}


def shape(value: Any) -> Any:
    """A JSON value's keys and types, without its values."""
    if isinstance(value, dict):
        return {key: shape(one) for key, one in value.items()}
    if isinstance(value, list):
        return [shape(one) for one in value]
    return type(value).__name__


def test_one_machine_onboards_answers_and_is_audited(tmp_path: Path) -> None:
    printed = run_session("one machine", tmp_path / "home")
    everything = "".join(printed.values())
    assert "larkhill-vets: adapter faq" in everything
    assert "tenants/larkhill-vets/adapters/faq" in everything.replace("\n", "")
    readme: list[Block] = blocks("README.md")
    [asked] = [block for block in readme if block.session == "one machine"]
    [shown] = [json.loads(block.text) for block in readme if block.language == "json"]
    answer = json.loads(printed[str(asked)])
    assert shape(answer) == shape(shown)
    best = answer["results"][0]["ranked"][0]["faq_id"]
    assert best == shown["results"][0]["ranked"][0]["faq_id"]


@pytest.mark.parametrize("session", ["own data", "certificates", "drills"])
def test_a_session_of_commands_ends_without_an_error(session: str, tmp_path: Path) -> None:
    assert run_session(session, tmp_path / "home")
