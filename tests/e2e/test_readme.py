"""The README's commands, run as a newcomer would."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _by_hand() -> str:
    readme = (ROOT / "README.md").read_text("utf-8")
    found = re.search(r"run by tests/e2e/test_readme\.py -->\n```sh\n(.*?)```", readme, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.e2e
def test_the_commands_by_hand_run_and_a_question_is_answered(tmp_path: Path) -> None:
    assert shutil.which("bash")
    environment = {**os.environ, "ADAPTERDISTILL_HOME": str(tmp_path / "home")}
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        environment.pop(name, None)
    result = subprocess.run(
        ["bash", "-em", "-c", f"{_by_hand()}wait"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert result.returncode == 0, f"{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    assert "larkhill-vets: adapter faq" in result.stdout
    assert "tenants/larkhill-vets/adapters/faq" in result.stdout.replace("\n", "")
