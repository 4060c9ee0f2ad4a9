"""A tenant's runs as they go: what each has finished, from the files that its stages leave."""

import fcntl
import hashlib
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from adapterdistill.actors.records import Bundled, Evaluated, StageResult
from adapterdistill.actors.report.runs import Run
from adapterdistill.actors.report.words import NAMES, verdict
from adapterdistill.actors.run_state import RunState, runs_in
from adapterdistill.actors.stages import ONBOARDING
from adapterdistill.console.training import at_step, size_of
from adapterdistill.manifest import is_name

_JUST_NOW_S = 3.0
"""A run is at work for this long after a stage: between two stages nobody holds its lock."""
State = Literal["running", "finished", "stopped"]


class Step(NamedTuple):
    """A stage of a run."""

    name: str
    state: Literal["done", "at work", "waits", "not done"]
    seconds: float | None
    peak_mb: float | None
    told: str
    """What `onboard` prints of it; of a training that is at work, its gradient step."""


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    tenant: str
    name: str
    state: State
    steps: tuple[Step, ...]
    changed_at: float
    """Unix time of its last stage, or of its beginning."""
    verdict: str
    tracked: int
    """Bytes of the numbers that its trainings have left."""
    top1: str
    """Top-1 of the chosen candidate on held-out rows; empty before they were ranked."""

    @property
    def done(self) -> int:
        """Number of finished stages."""
        return sum(step.state == "done" for step in self.steps)

    @property
    def mark(self) -> str:
        """A digest of what is shown: equal as long as nothing changes."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


def tenants_in(workspace: Path) -> list[str]:
    """List the tenants that have runs in the workspace, sorted."""
    try:
        found = [one.name for one in os.scandir(workspace) if Path(one.path, "runs").is_dir()]
    except OSError:
        return []
    return sorted(name for name in found if is_name(name))


def read_progress(workspace: Path, tenant: str) -> list[Progress]:
    """Read how far each run of the tenant is, those that changed last first."""
    found = [_progress(state, tenant) for state in runs_in(workspace / tenant)]
    return sorted(found, key=lambda one: (-one.changed_at, one.name))


def _progress(state: RunState, tenant: str) -> Progress:
    results: dict[str, StageResult] = {}
    changed_at = state.folder.stat().st_mtime
    for stage in ONBOARDING:
        result = state.result(stage.record)
        if result is not None:
            results[stage.name] = result
            with suppress(FileNotFoundError):
                changed_at = max(changed_at, state.path_of(stage.record).stat().st_mtime)
    run = Run(tenant, state.folder, results, None, datetime.fromtimestamp(changed_at, UTC))
    working: State = "running" if _is_at_work(state, changed_at) else "stopped"
    now: State = "finished" if run.result(Bundled) is not None else working
    return Progress(
        tenant,
        run.name,
        now,
        _steps(results, now, at_step(state.folder) if now == "running" else ""),
        changed_at,
        verdict(run),
        size_of(state.folder),
        _top1(run),
    )


def _steps(results: dict[str, StageResult], now: State, at: str) -> tuple[Step, ...]:
    """
    Args:
        at: how far the training that is at work is.
    """
    steps: list[Step] = []
    for stage in ONBOARDING:
        result = results.get(stage.name)
        if result is not None:
            told = stage.summary(result)
            steps.append(Step(stage.name, "done", result.seconds, result.peak_rss_mb, told))
            continue
        first = all(step.state == "done" for step in steps)
        waiting: Literal["at work", "waits", "not done"] = "at work" if first else "waits"
        shown = waiting if now == "running" else "not done"
        steps.append(Step(stage.name, shown, None, None, at if shown == "at work" else ""))
    return tuple(steps)


def _top1(run: Run) -> str:
    evaluated = run.result(Evaluated)
    if evaluated is None or not evaluated.candidates[evaluated.choice].held_out:
        return ""
    found = evaluated.candidates[evaluated.choice].held_out["top1"]
    return f"{NAMES[evaluated.choice]}: {100 * found.value:.1f}% of {found.count}"


def _is_at_work(state: RunState, changed_at: float) -> bool:
    """Whether a process works on the run: it holds the run's lock, or finished a stage just now."""
    if time.time() - changed_at < _JUST_NOW_S:
        return True
    try:
        descriptor = os.open(state.folder / "lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        # Shared, and given back at once: a process that begins meanwhile waits for microseconds.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
