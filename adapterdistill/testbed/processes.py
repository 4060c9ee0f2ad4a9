"""Processes that are known by the folder in which they keep their temporary files."""

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

_MARK = "TMPDIR"
GRACE_S = 10.0
"""Seconds within which a process should have ended."""


@contextmanager
def marked(folder: str) -> Iterator[None]:
    """Mark all processes that start meanwhile: their temporary files are in the folder."""
    before = os.environ.get(_MARK)
    os.environ[_MARK] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ[_MARK]
        else:
            os.environ[_MARK] = before


def processes_of(folder: str) -> list[psutil.Process]:
    """All processes with this mark, also those whose parents have ended."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it ended, or is another user's
            if process.environ().get(_MARK) == folder and process.pid != os.getpid():
                found.append(process)
    return found


def end(processes: list[psutil.Process], *, grace_s: float) -> list[str]:
    """Kill the processes that do not end by themselves in time; return their names."""
    _, left = psutil.wait_procs(processes, timeout=grace_s)
    names = []
    for process in left:
        with contextlib.suppress(psutil.Error):
            names.append(process.name())
            process.kill()
    psutil.wait_procs(left, timeout=GRACE_S)
    return names
