"""`adapterdistill bench feedback`: what do labels bring, chosen by the loop or at random?"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from adapterdistill.bench.arrivals.arriving import Arriving, teacher_of
from adapterdistill.bench.arrivals.command import open_bench
from adapterdistill.bench.feedback.year import Year, YearBench
from adapterdistill.bench.sizes import named_size
from adapterdistill.bench.tenants import BenchTenant, choose_teachers, open_dataset, spread
from adapterdistill.bench.transfer.cells import Cell
from adapterdistill.bench.transfer.sizes import SIZES
from adapterdistill.bench.transfer.statistics import gain_of
from adapterdistill.bench.transfer.study import read_tenants
from adapterdistill.bench.transfer.workers import run_here, worker_processes
from adapterdistill.data import Faq
from adapterdistill.errors import ConfigError
from adapterdistill.testbed.encoder_options import EncoderOptions
from adapterdistill.testbed.environment import environment
from adapterdistill.testbed.progress import phase
from adapterdistill.testbed.reporting import Report, document, percent, setting, table, write_report

_MAX_TOKENS = 64
_TENANTS = 3


@dataclass(frozen=True)
class Loop:
    """What the owner of each tenant does."""

    k: int = 1
    """Queries of each FAQ at the start."""
    months: int = 12
    questions: int = 100
    """Questions of a month at most."""
    labels: int = 10
    """Labels of a month."""


Result = tuple[Year, Mapping[str, Any]]


def feedback_command(
    *,
    data: Path,
    out: Path,
    cache: Path,
    size: str,
    tenants: Sequence[str],
    seeds: int,
    loop: Loop,
    encoder: EncoderOptions,
    processes: int,
    training: Mapping[str, int | str] | None = None,
) -> Report:
    """Run every year that the cache lacks, and write the report.

    Args:
        tenants: those measured; none named: three that have out-of-scope queries.
        training: keys of the runs' [training] that differ from the defaults.

    Raises:
        ConfigError: a tenant is none of the size's.
    """
    torch.set_num_threads(1)
    encoder = replace(encoder, max_tokens=_MAX_TOKENS)
    loaded = encoder.load()
    found = read_tenants(data, cache / "tenants", loaded, named_size(SIZES, size))
    unknown = sorted(set(tenants) - set(found))
    if unknown:
        raise ConfigError(f"--tenants names {', '.join(unknown)}: there are {', '.join(found)}")
    names = tuple(tenants) or spread(
        [name for name, tenant in found.items() if len(tenant.out_of_scope)], _TENANTS
    )
    faqs = {name: tuple(open_dataset(data / name, cache / "tenants").faqs()) for name in found}
    opened = partial(_open, encoder, found, faqs, cache, dict(training or {}))
    bench, jobs = opened(), _plan(names, found, seeds, loop)
    runner = nullcontext(run_here(bench)) if processes == 1 else worker_processes(opened, processes)
    work: dict[str, Sequence[Year | Cell]] = {
        "teachers": [teacher_of(name) for name in sorted(found)],
        "years": jobs,
    }
    with runner as run:
        for title, part in work.items():
            missing = [job for job in part if bench.key(job) not in bench.cache]
            with phase(title, len(missing)) as step:
                run(missing, lambda _: step(), None)
    made = [(job, result) for job in jobs if (result := bench.cache.read(bench.key(job)))]
    figures = findings(made, environment(loaded) | asdict(loop) | {"size": size})
    return write_report(out, figures, _markdown(figures))


def _open(
    encoder: EncoderOptions,
    tenants: Mapping[str, BenchTenant],
    faqs: Mapping[str, tuple[Faq, ...]],
    cache: Path,
    training: Mapping[str, int | str],
) -> YearBench:
    return YearBench(open_bench(encoder, tenants, faqs, cache, training))


def _plan(
    names: Iterable[str], tenants: Mapping[str, BenchTenant], seeds: int, loop: Loop
) -> list[Year]:
    return [
        Year(
            Arriving(
                name, loop.k, 0, seed,
                choose_teachers(name, tenants, count=len(tenants) - 1, seed=seed),
            ),
            chosen, loop.months, loop.questions, loop.labels,
        )
        for seed in range(seeds)
        for name in names
        for chosen in (True, False)
    ]  # fmt: skip


def findings(results: Sequence[Result], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that report.json holds; no text of any tenant."""
    months = min((len(result["months"]) for _, result in results), default=0)
    return {
        "benchmark": "feedback",
        "environment": dict(facts),
        "tenants": sorted({job.arrival.tenant for job, _ in results}),
        "seeds": sorted({job.arrival.seed for job, _ in results}),
        "months": [_month(results, month) for month in range(months)],
    }


def _month(results: Sequence[Result], month: int) -> dict[str, Any]:
    arms = {}
    for chosen in (True, False):
        rows = [_shares(result["months"][month]) for job, result in results if job.chosen is chosen]
        arms["chosen" if chosen else "random"] = {
            name: sum(row[name] for row in rows) / len(rows) for name in rows[0]
        }
    start = {(job.arrival, job.chosen): result["months"][0] for job, result in results}
    at = {(job.arrival, job.chosen): result["months"][month] for job, result in results}
    pairs = {
        "over_random": [(at[one, True], at[one, False], one) for one, arm in at if arm],
        "over_start": [(at[one, True], start[one, True], one) for one, arm in at if arm],
    }
    return {"month": month, **arms, **{name: _gain(found) for name, found in pairs.items()}}


def _shares(served: Mapping[str, Any]) -> dict[str, float]:
    """Top-1, and what becomes of test queries at the served threshold."""
    first = [rank == 1 for rank in served["ranks"]]
    answered = [not flag for flag in served["abstained"]]
    outside = served["abstained_out_of_scope"]
    return {
        "labels": served["labels"],
        "top1": sum(first) / len(first),
        "answered_right": sum(a and b for a, b in zip(first, answered, strict=True)) / len(first),
        "answered_wrong": sum(b and not a for a, b in zip(first, answered, strict=True))
        / len(first),
        "turned_away_out_of_scope": sum(outside) / len(outside) if outside else 0.0,
    }


def _gain(pairs: Iterable[tuple[Mapping[str, Any], Mapping[str, Any], Arriving]]) -> Any:
    """Top-1 of the first over the second, with a 95% interval over tenants and queries."""
    differences = defaultdict(list)
    for first, second, arrival in pairs:
        hits = [(torch.tensor(one["ranks"]) == 1).double() for one in (first, second)]
        differences[arrival.tenant].append(hits[0] - hits[1])
    found = gain_of(differences)
    return None if found is None else asdict(found.interval)


def _markdown(found: Mapping[str, Any]) -> str:
    return document(
        "What labels bring in a year",
        f"Tenants: {', '.join(found['tenants'])}; seeds {', '.join(map(str, found['seeds']))}. "
        "Top-1 in percent of all answerable test queries; the other shares are at the served "
        "threshold.",
        table(
            ("month", "labels", "top-1, chosen", "top-1, random", "chosen over random (95%)",
             "chosen over the start (95%)", "answered right, chosen / random",
             "answered wrong", "out of scope turned away"),
            (_row(month) for month in found["months"]),
        ),
        setting(found["environment"]),
    )  # fmt: skip


def _row(month: Mapping[str, Any]) -> list[str]:
    chosen, random = month["chosen"], month["random"]

    def both(name: str) -> str:
        return f"{percent(chosen[name])} / {percent(random[name])}"

    return [
        str(month["month"]),
        f"{chosen['labels']:.0f} / {random['labels']:.0f}",
        percent(chosen["top1"]),
        percent(random["top1"]),
        _points(month["over_random"]),
        _points(month["over_start"]),
        both("answered_right"),
        both("answered_wrong"),
        both("turned_away_out_of_scope"),
    ]


def _points(found: Mapping[str, float] | None) -> str:
    if found is None:
        return ""
    mean, low, high = (100 * found[key] for key in ("mean", "low", "high"))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
