"""Onboarding: the stages in order, each finished once. State is the owner's, on its disk.

Runs as the driver of a Ray job. Killed at any point and submitted again, it goes on at the first
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

from actors.records import (
    Bundled,
    Decided,
    Distilled,
    Evaluated,
    Extracted,
    Fetched,
    Lightened,
    Published,
    StageResult,
    Validated,
)
from adapterdistill.config import OnboardConfig
from adapterdistill.errors import PlacementError
from adapterdistill.files import write_atomically
from adapterdistill.manifest import Record

STAGES = (
    "validate",
    "extract",
    "fetch_teachers",
    "distil",
    "evaluate",
    "decide",
    "publish",
    "lighten",
    "bundle",
)
"""Methods of `DataOwner`, in order."""


class OnboardReport(Record):
    """All that is known of an onboarding: numbers, names and digests."""

    tenant: str
    submission_id: str | None
    seconds: float
    """Of this submission: stages that an earlier one finished cost nothing again."""
    validate_stage: Validated
    extract: Extracted
    fetch_teachers: Fetched
    distil: Distilled
    evaluate: Evaluated
    decide: Decided
    publish: Published
    lighten: Lightened
    bundle: Bundled

    def stage_seconds(self) -> dict[str, float]:
        """Seconds that each stage took when it ran."""
        return {stage: self.result_of(stage).seconds for stage in STAGES}

    def result_of(self, stage: str) -> StageResult:
        result = getattr(self, _field(stage))
        assert isinstance(result, StageResult)
        return result


def _field(stage: str) -> str:
    return "validate_stage" if stage == "validate" else stage  # pydantic has a `validate`


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
    """Run all stages with `run`, each told through `emit`; the report is the caller's to keep."""
    started = time.perf_counter()
    results: dict[str, StageResult] = {}
    for number, stage in enumerate(STAGES, start=1):
        begun = time.perf_counter()
        results[stage] = run(stage)
        seconds = time.perf_counter() - begun
        told = _summary(results[stage])
        emit(f"[{number}/{len(STAGES)}] {config.tenant} {stage}: {told} ({seconds:.1f} s)")
    return OnboardReport(
        tenant=config.tenant,
        submission_id=submission_id,
        seconds=round(time.perf_counter() - started, 3),
        **{_field(stage): result for stage, result in results.items()},
    )


def _summary(result: StageResult) -> str:
    match result:
        case Validated():
            c = result.counts
            return f"{c['faqs']} FAQs, {c['train']} train, {c['valid']} valid, {c['test']} test"
        case Extracted(trained=False):
            return "no labelled queries, nothing to train on"
        case Distilled(trained=False):
            return "no teachers"
        case Extracted() | Distilled():
            return f"best of {result.steps} steps is {result.best_step}"
        case Fetched():
            refused = f", {len(result.refused)} refused" if result.refused else ""
            mebibytes = result.payload_bytes / 2**20
            of = f"{len(result.teachers)} of {result.listed} teachers"
            return f"{of}, {mebibytes:.1f} MiB{refused}"
        case Evaluated():
            found = result.held_out
            if found is None:
                return "nothing held out"
            by = f", {result.folds} folds" if result.folds else ""
            return f"held-out MRR {found.gain:+.4f} on {found.rows} rows{by}"
        case Decided():
            return f"{result.choice} ({result.reason})"
        case Published():
            waits = ", in quarantine until an operator releases it"
            return result.name + (waits if result.quarantined else "")
        case Lightened():
            return f"{result.form} is served ({result.reason})"
        case Bundled():
            put_up = result.mode if result.share is None else f"{result.mode} of {result.share:g}"
            made = f"{result.bundle[:12]}, {result.index_vectors} vectors, {put_up}"
            return made + _stated_error(result)
        case _:
            raise AssertionError(f"unknown stage result {type(result).__name__}")


def _stated_error(result: Bundled) -> str:
    found = result.calibration
    if found is None:
        return ""
    stated, bound = 100 * found.expected_error, 100 * found.error_bound
    return f", {stated:.1f}% of answers wrong when held out (95% bound {bound:.1f}%)"


def write_report(config: OnboardConfig, report: OnboardReport) -> Path:
    """Keep the report as JSON in the tenant's workspace."""
    path = Path(config.workspace) / config.tenant / "report.json"
    text = json.dumps(report.model_dump(mode="json"), indent=2)
    write_atomically(path, f"{text}\n".encode())
    return path


def in_process(config: OnboardConfig) -> StageRunner:
    """Stages in this process, without Ray: for a laptop and for tests."""
    from actors.data_owner import DataOwner

    owner = DataOwner(config)

    def run(stage: str) -> StageResult:
        result = getattr(owner, stage)()
        assert isinstance(result, StageResult)
        return result

    return run


def on_cluster(config: OnboardConfig) -> StageRunner:
    """Stages in a data owner actor on the owner's node of the Ray cluster at hand.

    Raises:
        PlacementError: the cluster has no such node.
    """
    from actors.placement import start_data_owner, wait_for

    connect()
    owner: Any = start_data_owner(config)

    def run(stage: str) -> StageResult:
        result = wait_for(getattr(owner, stage).remote(), config.placement)
        assert isinstance(result, StageResult)
        return result

    return run


def connect() -> None:
    """To the Ray cluster at hand. Raises PlacementError if there is none."""
    import ray

    if ray.is_initialized():
        return
    try:
        ray.init(address="auto", log_to_driver=True, logging_level=logging.WARNING)
    except ConnectionError:
        raise PlacementError(
            "no Ray cluster was found: submit with `ray job submit` or start one, or run in this "
            "process with --local"
        ) from None


def submission_id() -> str | None:
    """The id of the Ray job that this process is the entrypoint of, if it is one."""
    try:
        job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    except json.JSONDecodeError:
        print("RAY_JOB_CONFIG_JSON_ENV_VAR is not JSON", file=sys.stderr)
        return None
    found = job.get("metadata", {}).get("job_submission_id")
    return None if found is None else str(found)
