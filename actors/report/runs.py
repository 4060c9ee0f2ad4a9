"""A tenant's runs as they lie in its workspace: results of stages, and what was found of the rows.

WORKSPACE/TENANT/runs/RUN/stages/*.json     one file a finished stage
                          findings.json     `Findings`: with texts, for the owner alone
                          report.json       the same figures as one file; no text
                          report.html       with texts, for the owner alone
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from adapterdistill.actors.records import Bundled, Evaluated, StageResult
from adapterdistill.actors.report.findings import FINDINGS_FILE, Findings
from adapterdistill.actors.run_state import RunState, runs_in
from adapterdistill.actors.stages import ONBOARDING
from adapterdistill.errors import ConfigError

R = TypeVar("R", bound=StageResult)
JSON_FILE, PAGE_FILE = "report.json", "report.html"
PAGE_WITHOUT_TEXTS_FILE = "report-without-texts.html"


@dataclass(frozen=True)
class Run:
    """One run: the records of the stages that it has finished."""

    tenant: str
    folder: Path
    stages: dict[str, StageResult]
    findings: Findings | None
    """None before the stage `evaluate`, and for runs of earlier releases."""
    judged_at: datetime | None
    """Time at which its candidates were judged: runs are ordered by it. None: not yet."""

    @property
    def name(self) -> str:
        return self.folder.name

    def result(self, kind: type[R]) -> R | None:
        """The record of a stage, None if the stage has not finished."""
        return next((one for one in self.stages.values() if isinstance(one, kind)), None)

    def figures(self) -> dict[str, object]:
        """What report.json holds: numbers, names and digests."""
        return {
            "tenant": self.tenant,
            "run": self.name,
            "judged_at": self.judged_at and self.judged_at.isoformat(timespec="seconds"),
            "stages": {name: one.model_dump(mode="json") for name, one in self.stages.items()},
        }


def read_run(state: RunState, tenant: str) -> Run:
    """Read the run of this state."""
    results = {stage.name: state.result(stage.record) for stage in ONBOARDING}
    judged = state.path_of(Evaluated)
    at = datetime.fromtimestamp(judged.stat().st_mtime, UTC) if judged.exists() else None
    return Run(
        tenant,
        state.folder,
        {name: one for name, one in results.items() if one is not None},
        _findings(state.folder / FINDINGS_FILE),
        at,
    )


def read_runs(workspace: Path, tenant: str) -> list[Run]:
    """Read the tenant's runs, those that were judged last first."""
    runs = [read_run(state, tenant) for state in runs_in(workspace / tenant)]
    first = datetime.min.replace(tzinfo=UTC)
    return sorted(runs, key=lambda run: (run.judged_at or first, run.name), reverse=True)


def find_run(runs: Sequence[Run], name: str) -> Run:
    """The one run whose name begins so.

    Raises:
        ConfigError: none or several do.
    """
    found = [run for run in runs if run.name.startswith(name)]
    if len(found) != 1 or not name:
        names = ", ".join(run.name for run in runs) or "none"
        many = f"{len(found)} runs match" if found and name else "no run matches"
        raise ConfigError(f"{many} {name!r}: there are {names}")
    return found[0]


def version_before(run: Run, runs: Sequence[Run]) -> Run | None:
    """The last run before this one that was put into service."""
    earlier = (
        one for one in runs if one.judged_at and run.judged_at and one.judged_at < run.judged_at
    )
    return next((one for one in earlier if one.result(Bundled) is not None), None)


def _findings(file: Path) -> Findings | None:
    try:
        return Findings.model_validate_json(file.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None  # of a run that has none, or of another release
