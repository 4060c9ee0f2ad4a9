"""Writes a run's report beside its results, for its owner alone."""

import json
from collections.abc import Sequence

from actors.report.findings import FINDINGS_FILE, Findings
from actors.report.page import render
from actors.report.runs import JSON_FILE, PAGE_FILE, read_run, read_runs, version_before
from actors.run_state import RunState
from adapterdistill.files import write_secret

PERHAPS_OUT_OF_SCOPE = "perhaps_out_of_scope.jsonl"
"""File of the tenant's workspace: unlabelled queries that would be turned away."""


def keep_findings(state: RunState, findings: Findings, perhaps_out_of_scope: Sequence[str]) -> None:
    """Keep what was found of the rows, for the owner alone.

    Args:
        perhaps_out_of_scope: queries that the owner may want to label as such, kept one JSON
            object a line.

    Raises:
        ConfigError: they cannot be written.
    """
    write_secret(state.folder / FINDINGS_FILE, findings.canonical_json())
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in perhaps_out_of_scope]
    file = state.folder.parents[1] / PERHAPS_OUT_OF_SCOPE
    write_secret(file, "".join(f"{line}\n" for line in lines).encode())


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
