"""Drills, and the run of one so that nothing is left of it."""

import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from adapterdistill.errors import AdapterDistillError
from adapterdistill.testbed.processes import GRACE_S, end, marked, processes_of
from adapterdistill.testbed.reporting import Part, measure_parts

_TIMEOUTS = (psutil.TimeoutExpired, subprocess.TimeoutExpired)
REPORT = "report"
"""The folder, within a drill's own, whose files can be kept."""


@dataclass(frozen=True)
class Outcome:
    """The result of one run."""

    recovery_s: float | None
    """Seconds from the fault, or from its end where somebody must end it, to full service."""
    findings: tuple[str, ...] = ()
    """Whatever must not be."""
    note: str = ""
    """Which of several ways the fault took, or with which seed it was drawn."""

    @property
    def passed(self) -> bool:
        return not self.findings


@dataclass(frozen=True)
class Drill:
    """One fault, and what must hold nevertheless."""

    name: str
    sentence: str
    run: Callable[..., Outcome]
    """Takes a new folder, a source of random moments, and the sizes by name. It ends what it
    starts. It may raise AdapterDistillError where the deployment does not serve, which is a finding
    too."""
    sizes: Mapping[str, Any] = field(default_factory=dict)
    """Amounts of work by default, by the name of the option."""


def run_drill(drill: Drill, seed: int, *, keep: Path | None = None) -> Outcome:
    """Run the drill once, in a folder that is removed with every process of it, however it ends.

    Args:
        keep: a folder that takes the files of the drill's report.
    """
    # A short path: Ray's sockets are in it.
    with tempfile.TemporaryDirectory(prefix="ad-", ignore_cleanup_errors=True) as folder:
        try:
            with marked(folder):
                found = drill.run(Path(folder), random.Random(seed), **drill.sizes)
        except (AdapterDistillError, AssertionError, *_TIMEOUTS) as error:
            reason = error.reason if isinstance(error, AdapterDistillError) else "FAILED"
            found = Outcome(None, (f"{reason}: {error}",))
        except BaseException:
            end(processes_of(folder), grace_s=1.0)
            raise
        left = end(processes_of(folder), grace_s=GRACE_S)
        if keep is not None and (Path(folder) / REPORT).is_dir():
            shutil.copytree(Path(folder) / REPORT, keep, dirs_exist_ok=True)
    still = (f"left running: {one}" for one in left)
    return replace(found, findings=(*found.findings, *still))


def reported(folder: Path, title: str, part: Part, **facts: Any) -> tuple[dict[str, Any], Outcome]:
    """Measure a part as a drill: write its report, and make its faults the findings."""
    from adapterdistill.testbed.environment import environment  # takes torch

    figures = {"drill": title, "environment": environment(), **facts}
    report = measure_parts(folder / REPORT, title, figures, [part])
    return report.figures[part.name], Outcome(None, tuple(report.figures["faults"]))


def seconds_until(works: Callable[[], object], *, timeout_s: float = 60.0) -> float:
    """Seconds until `works` raises no expected error. Raises the last one after `timeout_s`."""
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
