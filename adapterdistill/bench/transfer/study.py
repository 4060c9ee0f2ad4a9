"""The transfer benchmark from data to report: tune, then seed by seed every cell, then the tables.

Teachers are own adapters of the other tenants on all their rows. The first phase trains them, the
second chooses steps and rates on other tenants' `valid` rows, the rest is scored cells. Every
phase only makes what the cache lacks.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from adapterdistill.backbone import Encoder
from adapterdistill.bench.tenants import (
    BenchTenant,
    open_dataset,
    read_tenant,
    spread,
    tenant_names,
)
from adapterdistill.bench.transfer.cells import Cell, Workbench, all_parts
from adapterdistill.bench.transfer.choices import Choice, choose
from adapterdistill.bench.transfer.method_table import METHODS, OWN, POOL_ROWS_PER_FAQ, TABLE
from adapterdistill.bench.transfer.methods import CHECK_EVERY, Setting
from adapterdistill.bench.transfer.sizes import (
    Choices,
    Planned,
    Size,
    plan,
    setting_of,
    tuning_cells,
)
from adapterdistill.bench.transfer.workers import Runner
from adapterdistill.distill.batches import TrainingRows, make_batch
from adapterdistill.distill.objective import OwnAdapter
from adapterdistill.distill.training import Schedule
from adapterdistill.testbed.progress import phase, say
from adapterdistill.testbed.random_adapters import new_adapter


@dataclass(frozen=True)
class TransferRun:
    """The cells of all complete seeds, and how they were made."""

    size: Size
    planned: list[Planned]
    results: list[Mapping[str, Any]]
    """One a planned cell, in order."""
    choices: Choices
    seeds: tuple[int, ...]
    estimate_s: float
    seconds: float
    computed: int
    """Cells that this run made; the others came from the cache."""
    complete: bool


def read_tenants(
    data: Path, workspace: Path, encoder: Encoder, size: Size
) -> dict[str, BenchTenant]:
    names = spread(tenant_names(data), size.tenants)
    tenants = {}
    with phase("reading tenants", len(names)) as step:
        for name in names:
            dataset = open_dataset(data / name, workspace)
            tenants[name] = read_tenant(
                dataset, name, encoder, max_test=size.max_test, max_valid=size.max_valid
            )
            step()
    return tenants


class _Phases:
    """Runs lists of cells and knows the deadline."""

    def __init__(self, bench: Workbench, run: Runner[Cell], deadline: float | None) -> None:
        self._bench, self._run, self._deadline = bench, run, deadline
        self.computed = 0

    def __call__(self, title: str, cells: Sequence[Cell]) -> bool:
        """Whether all cells are in the cache now."""
        missing = [c for c in dict.fromkeys(cells) if self._bench.key(c) not in self._bench.cache]
        # Long ones first: at the end no process waits for the other.
        missing.sort(key=lambda c: -c.setting.steps * METHODS[c.method].step_cost)
        with phase(title, len(missing)) as step:

            def done(cell: Cell) -> None:
                self.computed += 1
                step()

            return self._run(missing, done, self._deadline)

    def with_parts(self, title: str, cells: Sequence[Cell]) -> bool:
        """The cells after what they are made from."""
        made = all_parts(list(cells))
        inner = all_parts(made)
        return self(f"{title}: parts", [*inner, *made]) and self(title, cells)


def run_transfer(
    bench: Workbench,
    run: Runner[Cell],
    size: Size,
    *,
    processes: int,
    seeds: int | None = None,
    time_limit_s: float | None = None,
) -> TransferRun:
    """Run the benchmark up to the size's seeds, or as many as fit into the limit."""
    started = time.monotonic()
    deadline = None if time_limit_s is None else started + time_limit_s
    wanted = range(seeds or size.seeds)
    estimate_s = _estimate(bench, size, len(wanted), processes)
    phases = _Phases(bench, run, deadline)
    choices = _tune(bench, phases, size)
    finished: list[Planned] = []
    done_seeds: list[int] = []
    seed_s = 0.0
    for seed in wanted if choices is not None else ():
        now = time.monotonic()
        if done_seeds and deadline is not None and now + seed_s > deadline:
            say(f"seed {seed} is left out: the last one took {seed_s:.0f} s, more than is left")
            break
        planned = plan(size, bench.tenants, seed, choices or {})
        if not phases.with_parts(f"seed {seed}", [p.cell for p in planned]):
            say(f"time limit reached within seed {seed}: its cells are kept for a later run")
            break
        finished += planned
        done_seeds.append(seed)
        seed_s = time.monotonic() - now
    results = [bench.cache.read(bench.key(p.cell)) for p in finished]
    return TransferRun(
        size=size,
        planned=finished,
        results=[result for result in results if result is not None],
        choices=choices or {},
        seeds=tuple(done_seeds),
        estimate_s=estimate_s,
        seconds=time.monotonic() - started,
        computed=phases.computed,
        complete=len(done_seeds) == len(wanted),
    )


def _tune(bench: Workbench, phases: _Phases, size: Size) -> dict[Any, Choice] | None:
    """All choices, or None where the time limit came first."""
    choices: dict[tuple[str, int | None, str], Choice] = {}
    # Methods that start from an own adapter are tuned from one setting of it for all tenants.
    own_settings: dict[int | None, Setting] = {}
    for starts_own in (False, True):
        cells = tuning_cells(size, bench.tenants, own_settings if starts_own else {})
        title = "tuning what starts from the own adapter" if starts_own else "tuning"
        if not phases.with_parts(title, cells):
            say("time limit reached while tuning: what was done is kept for a later run")
            return None
        choices |= _chosen(bench, cells)
        if not starts_own:
            nobody = ""
            choices_of_all = _chosen(bench, [c for c in cells if c.method == OWN], but=[nobody])
            own_settings = {
                k: setting_of(choices_of_all, OWN, k, nobody, size) for k in size.tuning_ks
            }
    return choices


def _chosen(
    bench: Workbench, cells: Sequence[Cell], but: Sequence[str] | None = None
) -> dict[tuple[str, int | None, str], Choice]:
    """A choice for each tenant (or for each name of `but`), made without it."""
    watched: dict[tuple[str, int | None], dict[tuple[str, float], Any]] = {}
    for cell in cells:
        result = bench.cache.read(bench.key(cell))
        if result is not None:
            runs = watched.setdefault((cell.method, cell.k), {})
            runs[cell.tenant, cell.setting.learning_rate] = result["checkpoints"]
    return {
        (method, k, name): choose(runs, but=name)
        for (method, k), runs in watched.items()
        for name in (bench.tenants if but is None else but)
    }


def _estimate(bench: Workbench, size: Size, seeds: int, processes: int) -> float:
    """Seconds that the run will take, said before it starts; choices are taken as half the grid."""
    sample = max(bench.tenants.values(), key=lambda tenant: len(tenant.train))
    rate = training_tokens_per_s(bench.encoder, sample.arrival(3, seed=0).training())
    own: dict[int | None, Setting] = {
        k: Setting(0.0, size.tuning_steps // 2) for k in size.tuning_ks
    }
    tuning = [*tuning_cells(size, bench.tenants, {}), *tuning_cells(size, bench.tenants, own)]
    middle: dict[tuple[str, int | None, str], Choice] = {
        (method.name, k, name): Choice(Setting(0.0, size.tuning_steps // 2), "centroid", 0.0)
        for method in TABLE.values()
        for k in size.tuning_ks
        for name in bench.tenants
    }
    scored = [[p.cell for p in plan(size, bench.tenants, s, middle)] for s in range(seeds)]
    parts = [c for c in all_parts([*tuning, *chain.from_iterable(scored)]) if c.keep]
    work = {
        "teachers": remaining_tokens(bench, parts),
        "tuning": remaining_tokens(bench, tuning),
        **{f"seed {i}": remaining_tokens(bench, cells) for i, cells in enumerate(scored)},
    }
    seconds = {name: tokens / rate / processes for name, tokens in work.items()}
    say(
        f"estimate for {size.name}: {sum(seconds.values()) / 60:.1f} min with {processes} "
        f"process(es) at {rate:.0f} training tokens/s each, what the cache holds aside: "
        + ", ".join(f"{name} {s / 60:.1f}" for name, s in seconds.items())
    )
    return sum(seconds.values())


FORWARD_SHARE = 0.3
"""A token's forward without gradients relative to its training step with an own adapter."""


def training_tokens_per_s(encoder: Encoder, rows: TrainingRows, *, repeats: int = 3) -> float:
    """Tokens a second of an own adapter's step on up to 64 of `rows`, the fastest of a few."""
    chosen = list(range(min(64, len(rows.ids))))
    batch = make_batch(rows, chosen, device=encoder.device)
    objective = OwnAdapter(encoder, new_adapter(encoder, 0))
    fastest = float("inf")
    for _ in range(repeats + 1):
        started = time.perf_counter()
        objective(batch).backward()
        fastest = min(fastest, time.perf_counter() - started)
    return batch.total_tokens / fastest


def cost_tokens(bench: Workbench, cell: Cell) -> float:
    """The cell's work in tokens of an own adapter's training step."""
    tenant, method = bench.tenants[cell.tenant], METHODS[cell.method]
    rows = tenant.arrival(cell.k, seed=cell.seed)
    source = rows
    if "pool" in method.needs:
        source = bench.tenants[cell.teachers[0]].arrival(POOL_ROWS_PER_FAQ, seed=cell.seed)
    mean_length = source.tokens / len(source)
    batch = min(len(source), Schedule(max_steps=1).batch_size)
    training = cell.setting.steps * batch * mean_length * method.step_cost
    if cell.keep:
        return training
    held = [tenant.valid] if cell.tuning else [tenant.valid, tenant.test, tenant.out_of_scope]
    scored = FORWARD_SHARE * (rows.tokens + sum(part.tokens for part in held))
    if cell.method == "tfidf":
        scored = 0.0
    times = cell.setting.steps // CHECK_EVERY + 1 if cell.tuning else 1
    return training + scored * times


def remaining_tokens(bench: Workbench, cells: Iterable[Cell]) -> float:
    """The work that the cache does not hold yet."""
    return sum(cost_tokens(bench, c) for c in cells if bench.key(c) not in bench.cache)
