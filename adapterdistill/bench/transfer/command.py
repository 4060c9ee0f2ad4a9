"""What `adapterdistill bench transfer` does, from folders to the written report."""

from pathlib import Path

import torch

from adapterdistill.bench.cache import ResultCache
from adapterdistill.bench.encoder_options import Crew
from adapterdistill.bench.transfer.cells import Workbench
from adapterdistill.bench.transfer.findings import findings
from adapterdistill.bench.transfer.plots import write_plots
from adapterdistill.bench.transfer.report import write_report
from adapterdistill.bench.transfer.sizes import SIZES, Size
from adapterdistill.bench.transfer.study import TransferRun, read_tenants, run_transfer
from adapterdistill.bench.transfer.workers import processes, run_here
from adapterdistill.testbed.environment import environment


def transfer_command(
    *,
    data: Path,
    out: Path,
    cache: Path,
    size: str,
    crew: Crew,
    seeds: int | None,
    time_limit_s: float | None,
    draw: bool,
) -> str:
    """Run, write the report, and return its Markdown."""
    # One thread in every process that computes: see `workers`.
    if crew.device == "cpu":
        torch.set_num_threads(1)
    encoder, chosen = crew.load(), SIZES[size]
    tenants = read_tenants(data, cache / "tenants", encoder, chosen)
    bench = Workbench(encoder, tenants, ResultCache(cache))
    if crew.processes == 1:
        found = run_transfer(
            bench, run_here(bench), chosen, processes=1, seeds=seeds, time_limit_s=time_limit_s
        )
    else:
        with processes(crew, tenants, cache) as run:
            found = run_transfer(
                bench, run, chosen,
                processes=crew.processes, seeds=seeds, time_limit_s=time_limit_s,
            )  # fmt: skip
    return report(bench, found, out, processes=crew.processes, draw=draw)


def report(bench: Workbench, run: TransferRun, out: Path, *, processes: int, draw: bool) -> str:
    """Write report.json, report.md and the plots of a finished run."""
    facts = environment(bench.encoder) | {"processes": processes}
    found = findings(run, bench.tenants, facts)
    plots = write_plots(out, found) if draw and run.planned else []
    write_report(out, found, plots)
    return (out / "report.md").read_text()


__all__ = ["Size", "report", "transfer_command"]
