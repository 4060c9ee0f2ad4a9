"""The arrivals of `adapterdistill bench transfer`, from folders to the written report."""

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from adapterdistill.backbone.resolve import encoder_folder
from adapterdistill.bench.arrivals.arriving import UNLABELLED, ArrivalBench, Arriving, teacher_of
from adapterdistill.bench.arrivals.findings import Result, Results, findings
from adapterdistill.bench.arrivals.report import markdown
from adapterdistill.bench.arrivals.setfit import Fit, SetFitBench, setfit_version
from adapterdistill.bench.sizes import named_size
from adapterdistill.bench.tenants import BenchTenant, choose_teachers, open_dataset
from adapterdistill.bench.transfer.cells import Cell, open_workbench
from adapterdistill.bench.transfer.sizes import SIZES, Size
from adapterdistill.bench.transfer.study import read_tenants
from adapterdistill.bench.transfer.workers import J, Runner, run_here, worker_processes
from adapterdistill.data import Faq
from adapterdistill.errors import ConfigError
from adapterdistill.testbed.encoder_options import EncoderOptions
from adapterdistill.testbed.environment import environment
from adapterdistill.testbed.progress import phase
from adapterdistill.testbed.reporting import Report, write_report

_MAX_TOKENS = 64
"""Few of the texts are longer. A run's own default is the encoder's length, as its users get it."""


@dataclass(frozen=True)
class Chosen:
    """The part of a size that is run; None: all of it."""

    ks: Sequence[int | None] | None = None
    tenants: Sequence[str] = ()
    """Those that arrive; none named: all. Every tenant teaches the others."""
    seeds: int | None = None


def arrivals_command(
    *,
    data: Path,
    out: Path,
    cache: Path,
    size: str,
    chosen: Chosen,
    encoder: EncoderOptions,
    processes: int,
    time_limit_s: float | None,
    alone: bool = False,
    setfit: Path | None = None,
    training: Mapping[str, int | str] | None = None,
) -> Report:
    """Run every arrival that the cache lacks, and write the report.

    Args:
        alone: also onboard each tenant that has queries while the registry holds no teacher.
        setfit: a Python that has SetFit, for its row of the table; None: no row.
        training: keys of the runs' [training] that differ from the defaults.

    Raises:
        ConfigError: a tenant that is to arrive is none of the size's, or `setfit` has no SetFit.
    """
    version = None if setfit is None else setfit_version(setfit)
    if encoder.device == "cpu":
        torch.set_num_threads(1)
    encoder = replace(encoder, max_tokens=_MAX_TOKENS)
    wanted = named_size(SIZES, size)
    loaded = encoder.load()
    tenants = read_tenants(data, cache / "tenants", loaded, wanted)
    faqs = {name: tuple(open_dataset(data / name, cache / "tenants").faqs()) for name in tenants}
    opened = partial(open_bench, encoder, tenants, faqs, cache, dict(training or {}))
    jobs, bench = plan(wanted, tenants, chosen), opened()
    work: dict[str, Sequence[Arriving | Cell]] = {
        "teachers": [teacher_of(name) for name in sorted(tenants)],
        "arrivals": jobs,
        "arrivals without other tenants": [_alone(job) for job in jobs if job.k != 0]
        if alone
        else [],
    }
    deadline = None if time_limit_s is None else time.monotonic() + time_limit_s
    runner = nullcontext(run_here(bench)) if processes == 1 else worker_processes(opened, processes)
    with runner as run:
        for title, part in work.items():
            _make(run, title, [job for job in part if bench.key(job) not in bench.cache], deadline)
    results = [(job, bench.cache.read(bench.key(job))) for job in jobs]
    made: Results = [(job, result) for job, result in results if result is not None]
    if alone:
        made = [
            (job, _with_alone(result, bench.cache.read(bench.key(_alone(job)))))
            for job, result in made
        ]
    facts = environment(loaded) | {
        "processes": processes,
        "size": size,
        "other tenants in the registry": len(tenants) - 1,
        "method": bench.method,
    }
    if setfit is not None and version is not None:
        fitting = SetFitBench(bench.bench, encoder_folder(encoder.name), setfit, version)
        made = _with_setfit(fitting, made, deadline)
        facts["SetFit"] = version
    found = findings(made, len(jobs), facts)
    return write_report(out, found, markdown(found))


def _alone(job: Arriving) -> Arriving:
    """The same arrival while the registry holds no teacher."""
    return replace(job, teachers=())


def _with_alone(result: Result, alone: Result | None) -> Result:
    """Add the rows of what a tenant has by itself, where that was run."""
    if alone is None or "rows" not in alone or "rows" not in result:
        return result
    own = {"own": alone["rows"]["own"], "alone": alone["rows"]["served"]}
    return {**result, "rows": result["rows"] | own}


def _with_setfit(bench: SetFitBench, made: Results, deadline: float | None) -> Results:
    """Add SetFit's row to each arrival that is served; one that lacks the time has none."""
    jobs = {job: Fit(job.tenant, job.k, job.seed) for job, result in made if "rows" in result}
    missing = [fit for fit in dict.fromkeys(jobs.values()) if bench.key(fit) not in bench.cache]
    _make(run_here(bench), "SetFit", missing, deadline)
    found = {job: bench.cache.read(bench.key(fit)) for job, fit in jobs.items()}
    return [
        (job, {**result, "rows": {**result["rows"], "setfit": row}})
        if (row := found.get(job)) is not None
        else (job, result)
        for job, result in made
    ]


def _make(run: Runner[J], title: str, missing: Sequence[J], deadline: float | None) -> None:
    with phase(title, len(missing)) as step:
        run(missing, lambda _: step(), deadline)


def open_bench(
    encoder: EncoderOptions,
    tenants: Mapping[str, BenchTenant],
    faqs: Mapping[str, tuple[Faq, ...]],
    cache: Path,
    training: Mapping[str, int | str],
) -> ArrivalBench:
    """Load the encoder and open the cache: in every process that runs arrivals."""
    return ArrivalBench(open_workbench(encoder, tenants, cache), encoder, faqs, training)


def plan(size: Size, tenants: Mapping[str, BenchTenant], chosen: Chosen) -> list[Arriving]:
    """All arrivals, seed by seed, each k with no unlabelled queries and then with some."""
    unknown = sorted(set(chosen.tenants) - set(tenants))
    if unknown:
        raise ConfigError(
            f"--tenants names {', '.join(unknown)}: the size's are {', '.join(sorted(tenants))}"
        )
    return [
        Arriving(
            name, k, unlabelled, seed,
            choose_teachers(name, tenants, count=len(tenants) - 1, seed=seed),
        )
        for seed in range(chosen.seeds or size.seeds)
        for k in (size.ks if chosen.ks is None else chosen.ks)
        for unlabelled in ((0,) if k is None else (0, UNLABELLED))
        for name in chosen.tenants or sorted(tenants)
    ]  # fmt: skip
