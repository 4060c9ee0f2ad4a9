"""Onboarding: the stages in order, each finished once. State is the owner's, on its disk.

Runs as the driver of a Ray job. Killed at any point and submitted again, it continues at the first
stage that has not finished.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from pydantic import Field

from adapterdistill.actors.records import (
    Bundled,
    Decided,
    Distilled,
    Evaluated,
    Extracted,
    Fetched,
    Published,
    StageResult,
    Validated,
    VariantMade,
)
from adapterdistill.actors.stages import ONBOARDING, STAGES, stage_of
from adapterdistill.actors.tracking import Trackers
from adapterdistill.config import OnboardConfig
from adapterdistill.errors import PlacementError
from adapterdistill.files import write_atomically
from adapterdistill.manifest import Record
from adapterdistill.open_cluster import refuse_open_cluster


class OnboardReport(Record):
    """All that is known of an onboarding: numbers, names and digests. One field a stage."""

    tenant: str
    submission_id: str | None
    seconds: float
    """Duration of this submission: stages that an earlier one finished take no time again."""
    validate_stage: Validated
    fetch_teachers: Fetched
    extract: Extracted
    distil: Distilled
    evaluate: Evaluated
    decide: Decided
    publish: Published
    variant: VariantMade = Field(alias="lighten")
    bundle: Bundled

    def stage_seconds(self) -> dict[str, float]:
        """Seconds that each stage took when it ran."""
        return {stage: self.result_of(stage).seconds for stage in STAGES}

    def result_of(self, stage: str) -> StageResult:
        """The record of the stage of that name."""
        results = (value for _, value in self if isinstance(value, StageResult))
        return next(result for result in results if stage_of(type(result)).name == stage)


class StageRunner(Protocol):
    """Runs one stage of one owner, here or elsewhere."""

    def __call__(self, stage: str) -> StageResult: ...


def onboard(
    config: OnboardConfig,
    run: StageRunner,
    *,
    submission_id: str | None = None,
    emit: Callable[[str], None] = lambda line: print(line, flush=True),
) -> OnboardReport:
    """Run all stages with `run` and tell each through `emit`. The caller keeps the report."""
    started = time.perf_counter()
    results: dict[type[StageResult], StageResult] = {}
    for number, stage in enumerate(ONBOARDING, start=1):
        begun = time.perf_counter()
        results[stage.record] = run(stage.name)
        seconds = time.perf_counter() - begun
        told = stage.summary(results[stage.record])
        emit(f"[{number}/{len(ONBOARDING)}] {config.tenant} {stage.name}: {told} ({seconds:.1f} s)")
    fields = OnboardReport.model_fields.items()
    return OnboardReport.model_validate(
        {name: results[f.annotation] for name, f in fields if f.annotation in results}
        | {
            "tenant": config.tenant,
            "submission_id": submission_id,
            "seconds": round(time.perf_counter() - started, 3),
        }
    )


def write_report(config: OnboardConfig, report: OnboardReport) -> Path:
    """Keep the report as JSON in the tenant's workspace."""
    path = Path(config.workspace) / config.tenant / "report.json"
    text = json.dumps(report.model_dump(mode="json"), indent=2)
    write_atomically(path, f"{text}\n".encode())
    return path


def in_process(
    config: OnboardConfig, *, promote: bool = False, trackers: Trackers = ()
) -> StageRunner:
    """Run stages in this process, without Ray: for a laptop and for tests."""
    from adapterdistill.actors.data_owner import DataOwner

    owner = DataOwner(config, promote=promote, trackers=trackers)

    def run(stage: str) -> StageResult:
        result = getattr(owner, stage)()
        assert isinstance(result, StageResult)
        return result

    return run


def on_cluster(
    config: OnboardConfig, *, insecure: bool = False, promote: bool = False
) -> StageRunner:
    """Run stages in a data owner actor on the owner's node of the running Ray cluster.

    Raises:
        ConfigError: the cluster asks for no token, and `insecure` is not set.
        PlacementError: the cluster has no such node.
    """
    from adapterdistill.actors.placement import start_data_owner, wait_for

    connect(insecure=insecure)
    owner: Any = start_data_owner(config, promote=promote)

    def run(stage: str) -> StageResult:
        result = wait_for(getattr(owner, stage).remote(), config.placement)
        assert isinstance(result, StageResult)
        return result

    return run


def connect(*, insecure: bool = False) -> None:
    """Connect to the running Ray cluster.

    Raises:
        ConfigError: it asks for no token, and `insecure` is not set.
        PlacementError: there is none.
    """
    import ray

    try:
        if not ray.is_initialized():
            ray.init(address="auto", log_to_driver=True, logging_level=logging.WARNING)
    except ConnectionError:
        raise PlacementError(
            "no Ray cluster was found: start one and send the run with `adapterdistill submit`, or "
            "run in this process with --local"
        ) from None
    refuse_open_cluster(insecure=insecure)


def submission_id() -> str | None:
    """The id of the Ray job that this process is the entrypoint of, if it is one."""
    try:
        job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    except json.JSONDecodeError:
        print("RAY_JOB_CONFIG_JSON_ENV_VAR is not JSON", file=sys.stderr)
        return None
    found = job.get("metadata", {}).get("job_submission_id")
    return None if found is None else str(found)
