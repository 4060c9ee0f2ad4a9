"""Sizes of a run, and the cells of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adapterdistill.bench.tenants import BenchTenant, choose_teachers, related, spread
from adapterdistill.bench.transfer.cells import NO_TRAINING, Cell
from adapterdistill.bench.transfer.choices import Choice
from adapterdistill.bench.transfer.method_table import OWN, REFERENCES, TABLE
from adapterdistill.bench.transfer.methods import Method, Setting


@dataclass(frozen=True)
class Size:
    """One size of the transfer benchmark. k is None for all training rows."""

    name: str
    tenants: int | None
    seeds: int
    ks: tuple[int | None, ...]
    teacher_counts: tuple[int, ...]
    reference_ks: tuple[int | None, ...]
    """Values of k at which the costly references are run (seed 0 only)."""
    control_ks: tuple[int | None, ...]
    unrelated_ks: tuple[int | None, ...]
    """Values of k at which tenants are run again without related ones among the teachers."""
    tuning_tenants: int
    tuning_ks: tuple[int, ...]
    tuning_rates: int
    tuning_steps: int
    max_test: int
    max_valid: int


SIZES = {
    "quick": Size(
        "quick", tenants=6, seeds=1, ks=(0, 3), teacher_counts=(5,), reference_ks=(3,),
        control_ks=(3,), unrelated_ks=(), tuning_tenants=3, tuning_ks=(0, 3), tuning_rates=1,
        tuning_steps=40, max_test=200, max_valid=100,
    ),
    "standard": Size(
        "standard", tenants=None, seeds=5, ks=(0, 1, 3, 5, 10), teacher_counts=(4, 16),
        reference_ks=(3, None), control_ks=(3,), unrelated_ks=(3,), tuning_tenants=5,
        tuning_ks=(0, 1, 3, 10), tuning_rates=3, tuning_steps=60, max_test=400, max_valid=150,
    ),
    "full": Size(
        "full", tenants=None, seeds=5, ks=(0, 1, 3, 5, 10, None),
        teacher_counts=(1, 2, 4, 8, 16), reference_ks=(1, 3, 5, 10, None), control_ks=(0, 3, 10),
        unrelated_ks=(0, 3, 10), tuning_tenants=14, tuning_ks=(0, 1, 3, 5, 10), tuning_rates=3,
        tuning_steps=100, max_test=2000, max_valid=300,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Planned:
    """A cell and its place in the report."""

    cell: Cell
    teacher_count: int
    """The number that was asked for; 0 where the method uses no teachers."""
    unrelated: bool = False
    """Whether related tenants were kept from the teachers on purpose."""


def teacher_counts(size: Size, tenants: Mapping[str, BenchTenant]) -> tuple[int, ...]:
    """The size's N, none above the number of other tenants."""
    return tuple(sorted({min(n, len(tenants) - 1) for n in size.teacher_counts}))


def grid(method: Method, size: Size) -> list[float]:
    """The rates that the size tries: all, or those around the middle one."""
    middle = len(method.rates) // 2
    start = max(0, middle - size.tuning_rates // 2)
    return list(method.rates[start : start + size.tuning_rates])


def runs_at(method: Method, k: int | None, seed: int, size: Size) -> bool:
    """Whether the method has cells at this k and seed."""
    if k == 0 and method.needs_queries:
        return False
    if method.name in REFERENCES:
        return k in size.reference_ks and seed == 0
    return not (method.control or method.ablation) or k in size.control_ks


def tuning_cells(
    size: Size, tenants: Mapping[str, BenchTenant], own: Mapping[int | None, Setting]
) -> list[Cell]:
    """One watched run for each method, rate, tuning tenant and k that has a choice to make.

    Args:
        own: the own adapter's setting by k, for methods that start from it; methods that need one
            are left out where it is missing, so the own adapter is tuned first.
    """
    candidates = spread([name for name, t in tenants.items() if len(t.valid)], size.tuning_tenants)
    count = teacher_counts(size, tenants)[-1]
    cells = []
    for method in TABLE.values():
        for k in size.tuning_ks:
            wanted = k in size.ks and runs_at(method, k, 0, size) and method.rates
            starts_own = "own" in method.needs
            if not wanted or starts_own != bool(own) or (starts_own and k and k not in own):
                continue
            for name in candidates:
                teachers = choose_teachers(name, tenants, count=count, seed=0)
                for rate in grid(method, size):
                    setting = Setting(rate, min(size.tuning_steps, method.max_steps))
                    cells.append(
                        Cell(
                            method.name, name, k, 0, setting,
                            teachers=teachers if method.needs - {"own"} else (),
                            own=own.get(k) if starts_own else None,
                            tuning=True,
                        )
                    )  # fmt: skip
    return cells


Choices = Mapping[tuple[str, int | None, str], Choice]
"""(method, k, tenant) to what was chosen for it."""


def plan(
    size: Size, tenants: Mapping[str, BenchTenant], seed: int, choices: Choices
) -> list[Planned]:
    """Every scored cell of one seed."""
    ks = [*size.ks, *(k for k in size.reference_ks if k not in size.ks and seed == 0)]
    counts = teacher_counts(size, tenants)
    planned: list[Planned] = []
    for name in sorted(tenants):
        has_related = any(related(name, other) for other in tenants)
        for k in ks:
            for method in TABLE.values():
                if not runs_at(method, k, seed, size):
                    continue
                few = method.control or method.name in REFERENCES or k not in size.ks
                uses = bool(method.needs - {"own"})
                for count in (counts[-1:] if few else counts) if uses else (0,):
                    teachers = choose_teachers(name, tenants, count=count, seed=seed)
                    planned.append(
                        Planned(_cell(method, name, k, seed, teachers, choices, size), count)
                    )
                if uses and not few and has_related and k in size.unrelated_ks:
                    teachers = choose_teachers(
                        name, tenants, count=counts[-1], seed=seed, unrelated=True
                    )
                    if teachers:
                        cell = _cell(method, name, k, seed, teachers, choices, size)
                        planned.append(Planned(cell, counts[-1], unrelated=True))
    return planned


def _cell(
    method: Method,
    tenant: str,
    k: int | None,
    seed: int,
    teachers: Sequence[str],
    choices: Choices,
    size: Size,
) -> Cell:
    tuned = method.tuned_as or method.name
    setting = setting_of(choices, tuned, k, tenant, size) if TABLE[tuned].rates else NO_TRAINING
    starts_own = "own" in method.needs and k != 0
    return Cell(
        method.name, tenant, k, seed, setting,
        teachers=tuple(teachers),
        own=setting_of(choices, OWN, k, tenant, size) if starts_own else None,
    )  # fmt: skip


def setting_of(choices: Choices, method: str, k: int | None, tenant: str, size: Size) -> Setting:
    """The choice at this k, or at the nearest tuned k below (else above) it.

    With all training rows, and where no tenant has `valid` rows to tune on: the middle rate, and
    all steps or 30.
    """
    tuned = sorted(
        at for name, at, who in choices if name == method and who == tenant and at is not None
    )
    rates = TABLE[method].rates
    middle = rates[len(rates) // 2]
    if k is None:
        return Setting(middle, TABLE[method].max_steps)
    if not tuned:
        return Setting(middle, min(30, size.tuning_steps))
    nearest = max((at for at in tuned if at <= k), default=tuned[0])
    return choices[method, nearest, tenant].setting
