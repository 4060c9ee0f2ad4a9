"""The command `adapterdistill bench transfer`, from folders to the written report."""

from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch

from adapterdistill.bench.cache import ResultCache
from adapterdistill.bench.sizes import named_size
from adapterdistill.bench.transfer.cells import Workbench, open_workbench
from adapterdistill.bench.transfer.findings import findings
from adapterdistill.bench.transfer.plots import write_plots
from adapterdistill.bench.transfer.report import markdown
from adapterdistill.bench.transfer.sizes import SIZES
from adapterdistill.bench.transfer.study import TransferRun, read_tenants, run_transfer
from adapterdistill.bench.transfer.workers import run_here, worker_processes
from adapterdistill.testbed.encoder_options import EncoderOptions
from adapterdistill.testbed.environment import environment
from adapterdistill.testbed.reporting import Report, write_report


def transfer_command(
    *,
    data: Path,
    out: Path,
    cache: Path,
    size: str,
    encoder: EncoderOptions,
    processes: int,
    seeds: int | None,
    time_limit_s: float | None,
    draw: bool,
) -> Report:
    """Run every cell that the cache lacks, and write the report."""
    # One thread in every process that computes: see `workers`.
    if encoder.device == "cpu":
        torch.set_num_threads(1)
    loaded, chosen = encoder.load(), named_size(SIZES, size)
    tenants = read_tenants(data, cache / "tenants", loaded, chosen)
    bench = Workbench(loaded, tenants, ResultCache(cache))
    runner = (
        nullcontext(run_here(bench))
        if processes == 1
        else worker_processes(partial(open_workbench, encoder, tenants, cache), processes)
    )
    with runner as run:
        found = run_transfer(
            bench, run, chosen, processes=processes, seeds=seeds, time_limit_s=time_limit_s
        )
    return report(bench, found, out, processes=processes, draw=draw)


def report(bench: Workbench, run: TransferRun, out: Path, *, processes: int, draw: bool) -> Report:
    """Write the report and the plots of a finished run."""
    facts = environment(bench.encoder) | {"processes": processes}
    found = findings(run, bench.tenants, facts)
    plots = write_plots(out, found) if draw and run.planned else []
    return write_report(out, found, markdown(found, plots))
