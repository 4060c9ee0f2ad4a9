"""Writes cluster/requirements.lock: what the image installs, each file with its sha256.

pip resolves the project's runtime dependencies within constraints.txt, for the Python and the
platform that runs this (the image's: Python 3.11, Linux, x86-64), and downloads nothing that it
does not need for that. The lock names torch's build for CPUs, so run it where pip finds that one.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "cluster" / "requirements.lock"
TORCH = "torch==2.13.0+cpu"
_HEAD = (
    "# What the image installs: made by `make lock` from pyproject.toml and constraints.txt.\n"
    "# Each line is one file of Python 3.11 on Linux, x86-64, and its sha256.\n"
)


def resolved() -> dict[str, Any]:
    """pip's report of what it would install."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
        command += ["--quiet", "--only-binary=:all:", f"--report={report}"]
        command += [f"--constraint={ROOT / 'constraints.txt'}", TORCH, "setuptools", str(ROOT)]
        subprocess.run(command, check=True)
        found: dict[str, Any] = json.loads(report.read_text("utf-8"))
        return found


def lines(report: dict[str, Any]) -> list[str]:
    """One line for each package but the project itself, sorted by name."""
    found = []
    for one in report["install"]:
        name, version = one["metadata"]["name"], one["metadata"]["version"]
        if name != "adapterdistill":
            digest = one["download_info"]["archive_info"]["hashes"]["sha256"]
            found.append(f"{name.lower()}=={version} --hash=sha256:{digest}\n")
    return sorted(found)


if __name__ == "__main__":
    LOCK.write_text(_HEAD + "".join(lines(resolved())), "utf-8")
