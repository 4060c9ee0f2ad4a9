"""The command line in a process that kills itself, as kill -9 does, amid its Nth change of files.

    python -m adapterdistill.drills.onboarding.doomed FOLDER N COMMAND...

Changes below FOLDER count: a file that is opened to be written, what is renamed or removed. With
N 0 it lives. It says "begun" once it has loaded what takes long.
"""

import os
import runpy
import signal
import sys
from typing import Any

from adapterdistill.actors import data_owner  # noqa: F401  # loaded before anything counts

BEGUN = "begun"
_CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir"}
_WRITING = os.O_WRONLY | os.O_RDWR


def _changes(event: str, details: tuple[Any, ...], folder: str) -> bool:
    if event == "open":
        path, _, flags = details
        if isinstance(path, int) or not flags & _WRITING:
            return False
    elif event not in _CHANGES:
        return False
    return os.fsdecode(details[0]).startswith(folder)


def _die_at(number: int, folder: str) -> None:
    left = number

    def strike(event: str, details: tuple[Any, ...]) -> None:
        nonlocal left
        if _changes(event, details, folder):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(strike)


if __name__ == "__main__":
    _die_at(int(sys.argv[2]), sys.argv[1])
    print(BEGUN, flush=True)
    sys.argv[1:] = sys.argv[3:]
    runpy.run_module("adapterdistill", run_name="__main__")
