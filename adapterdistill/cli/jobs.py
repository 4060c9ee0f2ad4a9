"""Onboarding submitted to a cluster of one's own, as a person would with `ray job submit`."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from actors.cluster import OwnCluster

_KEPT_LINES = 20


def submit_onboarding(
    cluster: OwnCluster, config: Path, *, submission_id: str, emit: Callable[[str], None]
) -> tuple[int, list[str]]:
    """Exit status of `ray job submit` and the last lines that it printed, plain.

    Progress is shown through `emit` as it comes. Runs in the project's folder, which is uploaded.
    """
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "job", "submit"),
        f"--address={cluster.dashboard}",
        f"--submission-id={submission_id}",
        "--working-dir=.",
        "--",
        *("python", "-m", "adapterdistill", "onboard", "--config", str(config)),
    ]
    emit(f"$ ray job submit --working-dir . -- {' '.join(command[-6:])}")
    tail: list[str] = []
    with subprocess.Popen(
        command,
        env=os.environ | cluster.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            plain = _plain(line)
            tail = [*tail[-_KEPT_LINES:], plain]
            if line.startswith("[") or "error [" in line or ": step " in line:
                emit(f"   {plain}")
    return process.returncode, tail


def _plain(line: str) -> str:
    """The line without the actor's prefix and colours that Ray adds."""
    uncoloured = re.sub(r"\x1b\[[0-9;]*m", "", line)
    return re.sub(r"^\(\w+ pid=\d+\) ", "", uncoloured).rstrip()
