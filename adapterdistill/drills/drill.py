"""What a drill is, how one is run, and that nothing is left of it."""

import contextlib
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from adapterdistill.errors import AdapterDistillError


@dataclass(frozen=True)
class Outcome:
    """What one run found."""

    recovery_s: float | None
    """From the fault, or from its end where somebody must end it, to full service; None: never."""
    findings: tuple[str, ...] = ()
    """What must not be."""

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
    """The drill once, in a folder that is removed afterwards, however it ends."""
    before = _children()
    # A short path: Ray's sockets are in it.
    with tempfile.TemporaryDirectory(prefix="ad-", ignore_cleanup_errors=True) as folder:
        try:
            found = drill.run(Path(folder), random.Random(seed))
        except AdapterDistillError as error:
            found = Outcome(None, (f"{error.reason}: {error}",))
        finally:
            left = _children() - before
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
    findings = [*found.findings, *(f"left running: process {process.pid}" for process in left)]
    return Outcome(found.recovery_s, tuple(findings))


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


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
