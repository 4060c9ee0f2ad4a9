"""The arrivals of `adapterdistill bench transfer`, from folders to the written report."""

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from adapterdistill.bench.arrivals.arriving import UNLABELLED, ArrivalBench, Arriving, teacher_of
from adapterdistill.bench.arrivals.findings import findings
from adapterdistill.bench.arrivals.report import markdown
from adapterdistill.bench.sizes import named_size
from adapterdistill.bench.tenants import BenchTenant, choose_teachers, open_dataset
from adapterdistill.bench.transfer.cells import Cell, open_workbench
from adapterdistill.bench.transfer.sizes import SIZES, Size
from adapterdistill.bench.transfer.study import read_tenants
from adapterdistill.bench.transfer.workers import Runner, run_here, worker_processes
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
    training: Mapping[str, int] | None = None,
) -> Report:
    """Run every arrival that the cache lacks, and write the report.

    Args:
        training: keys of the runs' [training] that differ from the defaults.

    Raises:
        ConfigError: a tenant that is to arrive is none of the size's.
    """
    if encoder.device == "cpu":
        torch.set_num_threads(1)
    encoder = replace(encoder, max_tokens=_MAX_TOKENS)
    wanted = named_size(SIZES, size)
    loaded = encoder.load()
    tenants = read_tenants(data, cache / "tenants", loaded, wanted)
    faqs = {name: tuple(open_dataset(data / name, cache / "tenants").faqs()) for name in tenants}
    opened = partial(open_bench, encoder, tenants, faqs, cache, dict(training or {}))
    jobs, bench = plan(wanted, tenants, chosen), opened()
    deadline = None if time_limit_s is None else time.monotonic() + time_limit_s
    runner = nullcontext(run_here(bench)) if processes == 1 else worker_processes(opened, processes)
    with runner as run:
        _make(bench, run, "teachers", [teacher_of(name) for name in sorted(tenants)], deadline)
        _make(bench, run, "arrivals", jobs, deadline)
    results = [(job, bench.cache.read(bench.key(job))) for job in jobs]
    facts = environment(loaded) | {
        "processes": processes,
        "size": size,
        "other tenants in the registry": len(tenants) - 1,
    }
    made = [(job, result) for job, result in results if result is not None]
    found = findings(made, len(jobs), facts)
    return write_report(out, found, markdown(found))


def _make(
    bench: ArrivalBench,
    run: Runner[Arriving | Cell],
    title: str,
    jobs: Sequence[Arriving | Cell],
    deadline: float | None,
) -> None:
    """Run the jobs that the cache lacks, up to the deadline."""
    missing = [job for job in jobs if bench.key(job) not in bench.cache]
    with phase(title, len(missing)) as step:
        run(missing, lambda _: step(), deadline)


def open_bench(
    encoder: EncoderOptions,
    tenants: Mapping[str, BenchTenant],
    faqs: Mapping[str, tuple[Faq, ...]],
    cache: Path,
    training: Mapping[str, int],
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
