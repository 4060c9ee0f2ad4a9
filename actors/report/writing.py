"""Writes a run's report beside its results, for its owner alone."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from adapterdistill.actors.report.findings import FINDINGS_FILE, Findings
from adapterdistill.actors.report.page import render
from adapterdistill.actors.report.runs import (
    JSON_FILE,
    PAGE_FILE,
    read_run,
    read_runs,
    version_before,
)
from adapterdistill.actors.run_state import RunState
from adapterdistill.errors import NotServedError
from adapterdistill.files import write_secret


def keep_findings(state: RunState, findings: Findings) -> None:
    """Keep what was found of the rows, for the owner alone.

    Raises:
        ConfigError: they cannot be written.
    """
    write_secret(state.folder / FINDINGS_FILE, findings.canonical_json())


@contextmanager
def reported_if_refused(state: RunState, tenant: str) -> Iterator[None]:
    """Write the report of a run that is not served: it says which queries fail."""
    try:
        yield
    except NotServedError:
        write_report(state, tenant)
        raise


def write_report(state: RunState, tenant: str) -> None:
    """Write report.json and report.html of a run, and the page once more as the tenant's newest.

    Raises:
        ConfigError: they cannot be written.
    """
    run = read_run(state, tenant)
    of_tenant = state.folder.parents[1]
    runs = read_runs(of_tenant.parent, tenant)
    page = render(run, before=version_before(run, runs), runs=runs)
    write_secret(run.folder / JSON_FILE, f"{json.dumps(run.figures(), indent=2)}\n".encode())
    write_secret(run.folder / PAGE_FILE, page.encode())
    write_secret(of_tenant / PAGE_FILE, page.encode())
