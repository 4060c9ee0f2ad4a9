"""Accuracy of few teachers chosen by fingerprint, against random ones and against all.

Every tenant arrives once among the others' trained adapters. There are two collections: the tenants
as they are, few of which share a subject, and the halves of each tenant with own FAQs, so that
every arrival has a sibling of its subject in the registry. What was chosen in this project was
judged on training rows beyond those of any arrival here; test rows are reported beside them.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

import torch

from adapterdistill.bench.cache import ResultCache, content_key
from adapterdistill.bench.tenants import BenchTenant, TextRows, related
from adapterdistill.bench.transfer.cells import Cell, Workbench, all_parts, parts
from adapterdistill.bench.transfer.method_table import METHODS, OURS, OWN
from adapterdistill.bench.transfer.methods import Setting
from adapterdistill.bench.transfer.scoring import scores
from adapterdistill.checkpoint import unpack_adapter
from adapterdistill.data import nested_order
from adapterdistill.evaluation.metrics import Interval, gold_ranks, paired_bootstrap
from adapterdistill.selection import Probes, by_relevance
from adapterdistill.testbed.progress import phase

SEED = 0
CENTROID = "centroid"
UNSEEN_BEYOND = 5
"""Training queries an FAQ that no arrival here has more of."""
MAX_JUDGED = 200
SETTINGS = {OWN: Setting(5e-4, 20), "fusion": Setting(2e-4, 20), OURS: Setting(2e-3, 20)}
"""Short, and the same for every set of teachers: only these are compared."""


@dataclass(frozen=True)
class Trial:
    """One method at one k, with chosen, random and all teachers."""

    method: str
    k: int
    counts: tuple[int, ...]
    draws: int
    """Random sets beside the chosen one."""


@dataclass(frozen=True)
class Size:
    """How much is run."""

    tenants: int | None
    of_tenants: tuple[Trial, ...]
    of_halves: tuple[Trial, ...]


def _means(counts: tuple[int, ...], draws: int) -> tuple[Trial, ...]:
    return tuple(Trial("mean", k, counts, draws) for k in (0, 3))


def _trained(counts: tuple[int, ...], draws: int) -> tuple[Trial, ...]:
    return tuple(Trial(method, 3, counts, draws) for method in ("fusion", OURS))


_COUNTS = (2, 4, 8, 16)
SIZES = {
    "quick": Size(None, _means((4, 8), 2), ()),
    "standard": Size(None, (*_means((2, 4, 8), 5), *_trained((4,), 2)), _means((4, 8, 16), 2)),
    "full": Size(
        None,
        (*_means(_COUNTS, 5), *_trained(_COUNTS, 5)),
        (*_means(_COUNTS, 5), *_trained((4, 8), 2)),
    ),
}


def halves(tenant: BenchTenant) -> list[BenchTenant]:
    """Two tenants with every other FAQ each, in hash order; rows follow their FAQ."""
    order = nested_order(tenant.questions.texts, seed=SEED, tenant=tenant.name)
    return [_part(tenant, sorted(order[side::2]), f"{tenant.name}/{side}") for side in (0, 1)]


def _part(tenant: BenchTenant, faqs: Sequence[int], name: str) -> BenchTenant:
    place = torch.full((tenant.num_faqs,), -1)
    place[list(faqs)] = torch.arange(len(faqs))

    def rows(all_rows: TextRows) -> TextRows:
        kept = all_rows.select((place[all_rows.labels] >= 0).nonzero().flatten().tolist())
        return replace(kept, labels=place[kept.labels])

    return replace(
        tenant,
        name=name,
        digest=content_key([tenant.digest, list(faqs)]),
        questions=rows(tenant.questions),
        train=rows(tenant.train),
        valid=rows(tenant.valid),
        test=rows(tenant.test),
        out_of_scope=tenant.out_of_scope.select([]),
    )


def judged_rows(tenant: BenchTenant) -> TextRows:
    """Training rows that no arrival has, with `valid` where they are few; never a test row."""
    first = set(tenant.first(UNSEEN_BEYOND, seed=SEED).texts)
    beyond = [row for row, text in enumerate(tenant.train.texts) if text not in first]
    rows = tenant.train.select(beyond)
    if len(rows) < MAX_JUDGED:
        rows = rows.join(tenant.valid)
    order = nested_order(rows.texts, seed=SEED, tenant=tenant.name)
    return rows.select(order[:MAX_JUDGED])


def measure_accuracy(bench: Workbench, size: Size) -> dict[str, Any]:
    """Both collections, from a workbench with the whole tenants."""
    cut = [half for tenant in bench.tenants.values() for half in halves(tenant)]
    of_halves = replace(bench, tenants={half.name: half for half in cut if half.num_faqs > 1})
    return {
        "settings": {name: list(vars(s).values()) for name, s in SETTINGS.items()},
        "collections": [
            {"name": name, "tenants": len(part.tenants), **_collection(part, trials)}
            for name, part, trials in (
                ("tenants", bench, size.of_tenants),
                ("halves", of_halves, size.of_halves),
            )
            if trials
        ],
    }


def akin(first: str, second: str) -> bool:
    """Whether two share their subject: as tenants, or as halves of one."""
    if "/" in first:
        return first.rsplit("/", 1)[0] == second.rsplit("/", 1)[0]
    return related(first, second)


def _collection(bench: Workbench, trials: Sequence[Trial]) -> dict[str, Any]:
    names = sorted(bench.tenants)
    fingerprints = _fingerprints(bench)
    orders = {
        (name, k): _order(bench, name, k, fingerprints)
        for name in names
        for k in {trial.k for trial in trials}
    }
    table = []
    for trial in trials:
        counts = sorted({min(count, len(names) - 1) for count in trial.counts})
        sets = {n: _sets(n, orders[n, trial.k], counts, trial.draws) for n in names}
        work = [(name, chosen) for name in names for chosen in sets[name].values()]
        correct: dict[tuple[str, tuple[str, ...]], dict[str, list[int]]] = {}
        with phase(f"{trial.method} at k = {trial.k}", len(work)) as done:
            for name, chosen in work:
                correct[name, chosen] = _correct(bench, trial, name, chosen)
                done()
        for count in counts:
            table.append(
                {"method": trial.method, "k": trial.k, "teachers": count, "draws": trial.draws}
                | _figures(sets, correct, count, trial.draws)
            )
    return {"table": table, "related": [_found(k, orders) for k in sorted({t.k for t in trials})]}


def _fingerprints(bench: Workbench) -> dict[str, Any]:
    """The fingerprint of every tenant's teacher, which is trained if the cache lacks it."""
    probes, fingerprints = Probes(bench.encoder), {}
    with phase("teachers", len(bench.tenants)) as done:
        for name in bench.tenants:
            (teacher,) = parts(Cell("mean", name, 0, SEED, teachers=(name,)), "teachers")
            bench.run(teacher)
            payload = bench.cache.read_payload(bench.key(teacher))
            fingerprints[name] = probes.fingerprint(unpack_adapter(payload))
            done()
    return fingerprints


def _order(bench: Workbench, name: str, k: int, fingerprints: Mapping[str, Any]) -> tuple[str, ...]:
    """The other tenants, the likeliest teacher first."""
    others = [other for other in sorted(fingerprints) if other != name]
    profile = Probes(bench.encoder).profile(bench.tenants[name].arrival(k, seed=SEED).ids)
    return tuple(others[i] for i in by_relevance(profile, [fingerprints[o] for o in others]))


Sets = dict[tuple[int, int], tuple[str, ...]]
"""(teachers, draw) to their names; draw -1 is the chosen set, and 0 teachers stands for all."""


def _sets(name: str, order: Sequence[str], counts: Sequence[int], draws: int) -> Sets:
    others = sorted(order)
    sets: Sets = {(0, -1): tuple(others)}
    for count in counts:
        sets[count, -1] = tuple(sorted(order[:count]))
        for draw in range(draws):
            drawn = random.Random(f"{draw}|{name}").sample(others, count)
            sets[count, draw] = tuple(sorted(drawn))
    return sets


def _correct(
    bench: Workbench, trial: Trial, name: str, teachers: tuple[str, ...]
) -> dict[str, list[int]]:
    """1 for every row that is ranked first, else 0; judged rows and test rows."""
    setting = SETTINGS.get(trial.method, Setting(0.0, 0))
    own = SETTINGS[OWN] if "own" in METHODS[trial.method].needs else None
    cell = Cell(trial.method, name, trial.k, SEED, setting, teachers, own=own)
    cache: ResultCache = bench.cache
    key = content_key(["selection", 1, bench.key(cell)])
    kept = cache.read(key)
    if kept is None:
        for part in all_parts([cell]):
            bench.run(part)
        arrival = bench.arrival(cell)
        embed = METHODS[trial.method].run(arrival, setting, None).embed
        tenant, entries = arrival.tenant, embed(arrival.rows)
        kept = {}
        for part_name, rows in (("judged", judged_rows(tenant)), ("test", tenant.test)):
            found = scores(CENTROID, embed(rows), entries, arrival.rows.labels, tenant.num_faqs)
            kept[part_name] = (gold_ranks(found, rows.labels) == 1).int().tolist()
        cache.write(key, kept)
    return kept


def _figures(
    sets: Mapping[str, Sets],
    correct: Mapping[tuple[str, tuple[str, ...]], Mapping[str, list[int]]],
    count: int,
    draws: int,
) -> dict[str, Any]:
    """Macro top-1 and paired differences in points, on judged and on test rows."""
    figures = {}
    for part in ("judged", "test"):

        def rows(name: str, teachers: int, draw: int, part: str = part) -> torch.Tensor:
            return 100.0 * torch.tensor(correct[name, sets[name][teachers, draw]][part]).double()

        chosen = {name: rows(name, count, -1) for name in sets}
        everyone = {name: rows(name, 0, -1) for name in sets}
        drawn = {
            name: torch.stack([rows(name, count, draw) for draw in range(draws)]) for name in sets
        }
        by_draw = torch.stack([r.mean(1) for r in drawn.values()]).mean(0)
        figures[part] = {
            "chosen": _macro(chosen),
            "random": _macro({name: r.mean(0) for name, r in drawn.items()}),
            "random_lowest": float(by_draw.min()),
            "random_highest": float(by_draw.max()),
            "all": _macro(everyone),
            "over_random": _interval(chosen[name] - drawn[name].mean(0) for name in sets),
            "over_all": _interval(chosen[name] - everyone[name] for name in sets),
        }
    return figures


def _macro(rows: Mapping[str, torch.Tensor]) -> float:
    return mean(float(r.mean()) for r in rows.values())


def _interval(differences: Iterator[torch.Tensor]) -> dict[str, float]:
    found: Interval = paired_bootstrap(list(differences))
    return vars(found)


def _found(k: int, orders: Mapping[tuple[str, int], Sequence[str]]) -> dict[str, Any]:
    """Ranks of relatives in the order of choice, over the arrivals that have any."""
    ranks: list[list[int]] = []
    for (name, at), order in orders.items():
        places = [i for i, other in enumerate(order, start=1) if akin(name, other)]
        if at == k and places:
            ranks.append(places)
    listed = len(next(iter(orders.values())))
    return {
        "k": k,
        "listed": listed,
        "arrivals": len(ranks),
        "mean_rank": mean(mean(places) for places in ranks) if ranks else None,
        "mean_rank_by_chance": (listed + 1) / 2,
        "first_is_related": mean(places[0] == 1 for places in ranks) if ranks else None,
        "first_four_hold_one": mean(places[0] <= 4 for places in ranks) if ranks else None,
    }
