"""The processes of a Ray, found among the children of what started it."""

import time

import psutil


def ray_processes(name: str, started_by: int | None = None) -> list[psutil.Process]:
    """Live Ray workers whose title holds `name`, such as an actor's class.

    `started_by` is the id of the process that started Ray, this one by default.
    """
    found = []
    for process in psutil.Process(started_by).children(recursive=True):
        try:
            title = " ".join(process.cmdline())
        except psutil.Error:
            continue  # it ended
        if title.startswith("ray::") and name in title:
            found.append(process)
    return found


def kill_one(name: str, *, timeout_s: float = 60) -> int:
    """SIGKILL the first such worker as soon as there is one; returns its pid."""
    deadline = time.monotonic() + timeout_s
    while not (found := ray_processes(name)):
        assert time.monotonic() < deadline, f"no process of {name}"
        time.sleep(0.05)
    found[0].kill()
    found[0].wait(timeout=10)
    return found[0].pid
