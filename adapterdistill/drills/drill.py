"""What a drill is, how one is run, and that nothing is left of it."""

import random
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from adapterdistill.errors import AdapterDistillError
from adapterdistill.testbed.processes import GRACE_S, end, marked, processes_of

_TIMEOUTS = (psutil.TimeoutExpired, subprocess.TimeoutExpired)


@dataclass(frozen=True)
class Outcome:
    """What one run found."""

    recovery_s: float | None
    """From the fault, or from its end where somebody must end it, to full service; None: never."""
    findings: tuple[str, ...] = ()
    """What must not be."""
    note: str = ""
    """Which of several ways the fault took."""

    @property
    def passed(self) -> bool:
        return not self.findings


@dataclass(frozen=True)
class Drill:
    """One fault and what must hold in spite of it."""

    name: str
    sentence: str
    run: Callable[[Path, random.Random], Outcome]
    """In a new folder, with the fault at a moment that is drawn. Ends what it starts, and may raise
    AdapterDistillError where the deployment does not serve: that is a finding, too."""


def run_drill(drill: Drill, seed: int) -> Outcome:
    """The drill once, in a folder that is removed afterwards with every process of it, however it
    ends."""
    # A short path: Ray's sockets are in it.
    with tempfile.TemporaryDirectory(prefix="ad-", ignore_cleanup_errors=True) as folder:
        try:
            with marked(folder):
                found = drill.run(Path(folder), random.Random(seed))
        except (AdapterDistillError, AssertionError, *_TIMEOUTS) as error:
            reason = error.reason if isinstance(error, AdapterDistillError) else "FAILED"
            found = Outcome(None, (f"{reason}: {error}",))
        except BaseException:
            end(processes_of(folder), grace_s=1.0)
            raise
        left = end(processes_of(folder), grace_s=GRACE_S)
    still = (f"left running: {one}" for one in left)
    return replace(found, findings=(*found.findings, *still))


def seconds_until(works: Callable[[], object], *, timeout_s: float = 60.0) -> float:
    """Seconds until `works` raises no expected error; raises the last one after `timeout_s`."""
    began = time.monotonic()
    while True:
        try:
            works()
            return time.monotonic() - began
        except AdapterDistillError:
            if time.monotonic() - began > timeout_s:
                raise
            time.sleep(0.02)


def not_refused(call: Callable[[], object], *reasons: str) -> list[str]:
    """A finding unless `call` raises an error with one of these reasons."""
    expected = " or ".join(reasons)
    try:
        call()
    except AdapterDistillError as error:
        wrong = error.reason not in reasons
        return [f"refused with {error.reason}, expected {expected}: {error}"] if wrong else []
    return [f"answered, expected {expected}"]
