"""Another library in an environment of its own, talked to in JSON lines."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapterdistill.testbed.progress import say

_INSTALL_TIMEOUT_S = 1800.0


@dataclass(frozen=True)
class Library:
    """A library to compare with, and the script beside this file that calls it."""

    module: str
    version: str
    requirements: tuple[str, ...]
    script: str


ADAPTERS = Library(
    "adapters",
    "1.3.0",
    ("torch==2.13.0", "transformers==4.57.6", "adapters==1.3.0"),
    "peer_script.py",
)
SENTENCES = Library(
    "sentence_transformers",
    "6.2.0",
    ("torch==2.13.0", "sentence-transformers==6.2.0"),
    "sentence_script.py",
)


class PeerUnavailableError(Exception):
    """The library cannot be used here; says why in a few words."""


def set_up(folder: Path, library: Library) -> Path:
    """The Python of the peer's environment, made with pip if it is not there.

    Raises:
        PeerUnavailableError: it cannot be made, for example without a package index.
    """
    python = folder / "bin" / "python"
    if python.exists() and _works(python, library):
        return python
    say(f"setting up the peer's environment: {', '.join(library.requirements)}")
    try:
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=300)
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", *library.requirements],
            check=True, timeout=_INSTALL_TIMEOUT_S, capture_output=True, text=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise PeerUnavailableError(
            f"its environment could not be installed ({type(error).__name__})"
        ) from error
    if not _works(python, library):
        raise PeerUnavailableError("its environment was installed but does not import")
    return python


def _works(python: Path, library: Library) -> bool:
    check = f"import {library.module} as m, sys; sys.exit(m.__version__ != {library.version!r})"
    done = subprocess.run([str(python), "-I", "-c", check], capture_output=True, env=_environment())
    return done.returncode == 0


def _environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


class Peer:
    """A running peer process."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def ask(self, do: str, **values: Any) -> dict[str, Any]:
        """Send one command and wait for its answer.

        Raises:
            PeerUnavailableError: the process ended without an answer.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **values}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise PeerUnavailableError(f"its process ended before {do!r}") from None
        for line in self._process.stdout:
            if line.startswith("answer "):
                answer: dict[str, Any] = json.loads(line.removeprefix("answer "))
                return answer
        raise PeerUnavailableError(f"its process ended during {do!r}")


@contextmanager
def running(python: Path, library: Library, log: Path) -> Iterator[Peer]:
    """The peer process for the length of a `with`; what it prints to stderr goes to `log`."""
    with log.open("w") as errors:
        process = subprocess.Popen(
            # Isolated: the script's own folder holds modules named like the standard library's.
            [str(python), "-I", str(Path(__file__).with_name(library.script))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            env=_environment(), cwd=log.parent,
        )  # fmt: skip
        try:
            yield Peer(process)
        finally:
            if process.stdin is not None:
                process.stdin.close()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
