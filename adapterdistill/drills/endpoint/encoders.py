"""Mixed requests to an engine of two encoders, each answer checked, while tenants move.

Every tenant has a bundle on each encoder. Both encoders have the same shape, so that the wrong one
would answer all the same, and with another score. The engine runs without HTTP and without Ray: its
memory holds a third of the bundles, so that they are loaded and evicted all the while.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from adapterdistill.backbone import Encoder, load_encoder
from adapterdistill.drills.drill import Outcome, reported
from adapterdistill.drills.endpoint.hazards import Timeline
from adapterdistill.errors import AdapterDistillError
from adapterdistill.serve.engine.engine import Engine
from adapterdistill.serve.engine.items import SearchAnswer, SearchItem
from adapterdistill.serve.engine.live import Alias, LiveTenant
from adapterdistill.store.bundle import read_bundle
from adapterdistill.store.release import (
    drop,
    live_bundle,
    promote,
    put_up,
    read_release,
    roll_back,
    set_live,
)
from adapterdistill.testbed.answers import THRESHOLD, TOP_K, Alone, version_of
from adapterdistill.testbed.endpoint import banks_folder
from adapterdistill.testbed.faq_banks import Bank, fill_store, read_banks
from adapterdistill.testbed.random_adapters import random_adapters
from adapterdistill.testbed.reporting import Part, counts, table
from adapterdistill.testbed.tiny_encoder import make_tiny_encoder

STRENGTH = 0.5
"""Strength of the adapters: weaker ones move a tiny encoder's scores too little to tell apart."""
_THREADS = 2
_MOST_ITEMS = 16
_STEPS = ("swap", "shadow", "promote", "roll back", "drop")
_FORGED = 200


@dataclass
class Moving:
    """Tenants with a bundle on each of two encoders, and the answers that are right."""

    encoders: Sequence[Encoder]
    engine: Engine
    store: Path
    bundles: dict[str, tuple[str, str]]
    """Tenant to the ids of its bundles on the first and on the second encoder."""
    alone: dict[tuple[str, str], Alone]
    """(tenant, version) to what that version answers alone, on its own encoder."""
    texts: dict[str, list[str]]
    timeline: Timeline = field(default_factory=Timeline)
    steps: Counter[str] = field(default_factory=Counter)
    changing: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, encoders: Sequence[Encoder], banks: Sequence[Bank], store: Path) -> "Moving":
        """Fill the store, and load the first encoder only; `Engine` loads the second one."""
        bundles: dict[str, tuple[str, ...]] = {}
        alone: dict[tuple[str, str], Alone] = {}
        texts = {bank.tenant: [faq.question for faq in bank.faqs][:8] for bank in banks}
        for seed, encoder in enumerate(encoders):
            adapters = random_adapters(encoder, len(banks) * (1 + seed), strength=STRENGTH)
            fill_store(store, banks, encoder, adapters[-len(banks) :], threshold=THRESHOLD)
            for bank in banks:
                bundle_id = live_bundle(store, bank.tenant)
                bundles[bank.tenant] = (*bundles.get(bank.tenant, ()), bundle_id)
                bundle = read_bundle(store, bank.tenant, bundle_id)
                alone[bank.tenant, version_of(bundle_id)] = Alone(
                    encoder, bundle, texts[bank.tenant]
                )
        for place, (tenant, both) in enumerate(bundles.items()):
            set_live(store, tenant, both[place % 2])
        first, second = encoders
        engine = Engine(
            first,
            store,
            others={second.ref.name: lambda: second},
            capacity=1,
            max_slots=max(2 * _THREADS, len(banks) // 3),
            load_threads=2,
        )
        pairs = {tenant: (one, two) for tenant, (one, two) in bundles.items()}
        moving = cls(encoders, engine, store, pairs, alone, texts)
        engine.refresh()
        for tenant in pairs:
            moving._note(tenant, moving._outcomes(tenant))
        return moving

    def step(self, draw: random.Random) -> None:
        """Change one tenant's release, and let the engine follow."""
        tenant = draw.choice(list(self.bundles))
        name, change = draw.choice(self._possible(tenant))
        before = self._outcomes(tenant)
        change()
        after = self._outcomes(tenant)
        self._note(tenant, {alias: before[alias] | after[alias] for alias in before})
        self.engine.refresh()
        self._note(tenant, after)
        self.steps[name] += 1

    def _possible(self, tenant: str) -> list[tuple[str, Callable[[], object]]]:
        release = read_release(self.store, tenant)
        [other] = {*self.bundles[tenant]} - {release.bundle}
        of = partial(partial, store=self.store, tenant=tenant)
        possible: list[tuple[str, Callable[[], object]]] = [("swap", of(set_live, bundle_id=other))]
        if release.candidate is None:
            possible.append(("shadow", of(put_up, bundle_id=other, mode="shadow", share=1)))
        else:
            possible += [("promote", of(promote)), ("drop", of(drop))]
        if release.before is not None:
            possible.append(("roll back", of(roll_back)))
        return possible

    def _outcomes(self, tenant: str) -> dict[Alias, frozenset[str]]:
        release = read_release(self.store, tenant)
        candidate = version_of(release.candidate.bundle) if release.candidate else "none"
        return {
            "live": frozenset([version_of(release.bundle)]),
            "canary": frozenset([candidate]),
        }

    def _note(self, tenant: str, outcomes: Mapping[Alias, frozenset[str]]) -> None:
        with self.changing:
            for alias, allowed in outcomes.items():
                self.timeline.begin(f"{tenant} {alias}", allowed, time.perf_counter())

    def fault(self, item: SearchItem, answer: SearchAnswer, sent: float) -> str | None:
        """The fault of an answer, without its text; None: it is right."""
        if (answer.tenant, answer.alias) != (item.tenant, item.alias):
            return "names another tenant"
        alone = self.alone.get((item.tenant, answer.version))
        if alone is None:
            return "comes from another tenant's adapter"
        if fault := alone.fault(item.text, _result(answer)):
            return fault
        with self.changing:
            late_s = self.timeline.late_s(
                f"{item.tenant} {item.alias}", answer.version, sent, time.perf_counter()
            )
        return "comes from a bundle that is not released" if late_s else None


class Asker(threading.Thread):
    """Asks mixed batches until it is stopped; half of the items hold their tenants beforehand."""

    def __init__(self, moving: Moving, seed: int, stopping: threading.Event) -> None:
        super().__init__(name=f"asker-{seed}")
        self.wrong: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        """Answers by the encoder that the answer's version is on."""
        self.not_answered: Counter[str] = Counter()
        self._moving, self._draw, self._stopping = moving, random.Random(seed), stopping

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._ask()
            except Exception as error:  # else nobody would learn of it
                self.wrong[f"{type(error).__name__}: {error}"] += 1
                return

    def _ask(self) -> None:
        draw, moving = self._draw, self._moving
        asked: list[tuple[SearchItem, float]] = []
        for _ in range(draw.randint(1, _MOST_ITEMS)):
            tenant = draw.choice(list(moving.bundles))
            alias: Alias = draw.choice(("live", "live", "canary"))
            text, sent = draw.choice(moving.texts[tenant]), time.perf_counter()
            # Few are held at once: requests that hold all of the memory would wait for each other.
            held = self._hold(tenant, alias) if len(asked) < 2 and draw.random() < 0.5 else None
            if isinstance(held, str):
                self.not_answered[held] += 1
                continue
            asked.append((SearchItem(tenant, text, TOP_K, held, alias), sent))
        outcomes = moving.engine.search([item for item, _ in asked])
        for (item, sent), outcome in zip(asked, outcomes, strict=True):
            if isinstance(outcome, SearchAnswer):
                place = moving.bundles[item.tenant][0].startswith(outcome.version)
                self.answered[moving.encoders[0 if place else 1].ref.name] += 1
                if fault := moving.fault(item, outcome, sent):
                    self.wrong[fault] += 1
            else:
                self.not_answered[outcome.reason] += 1

    def _hold(self, tenant: str, alias: Alias) -> LiveTenant | str:
        """The tenant in memory, or the reason why not."""
        found = None
        try:
            found = self._moving.engine.admit(tenant, alias)
            return found.result(30) if isinstance(found, Future) else found
        except AdapterDistillError as error:
            return error.reason
        finally:
            del found  # else an error would keep what is held in memory


def measure_encoders(moving: Moving, requests: int, draw: random.Random) -> dict[str, Any]:
    """Ask until `requests` are answered and each step was taken; then forge answers."""
    stopping = threading.Event()
    askers = [Asker(moving, draw.randrange(1 << 30), stopping) for _ in range(_THREADS)]
    began = time.perf_counter()
    for asker in askers:
        asker.start()
    try:
        while any(asker.is_alive() for asker in askers) and (
            sum(asker.answered.total() for asker in askers) < requests
            or any(not moving.steps[step] for step in _STEPS)
        ):
            moving.step(draw)
    finally:
        stopping.set()
        for asker in askers:
            asker.join()
    paging = moving.engine.paging
    found = {
        "answers": sum((asker.answered for asker in askers), Counter()),
        "wrong": sum((asker.wrong for asker in askers), Counter()),
        "not_answered": sum((asker.not_answered for asker in askers), Counter()),
        "steps": moving.steps,
        "seconds": round(time.perf_counter() - began, 1),
        "loads": paging.loads,
        "evictions": paging.evictions,
        "encoders": [vars(one) for one in moving.engine.encoders],
        "control": _control(moving),
        "forged": _forged(moving, draw),
    }
    moving.engine.close()
    return found


def _control(moving: Moving) -> dict[str, dict[str, int]]:
    """Answers made wrong: how many there are, and how many the check notices, by kind."""
    found: dict[str, dict[str, int]] = {}
    for tenant, both in moving.bundles.items():
        for own, bundle_id in enumerate(both):
            alone = moving.alone[tenant, version_of(bundle_id)]
            second = moving.alone[tenant, version_of(both[1 - own])]
            bundle = read_bundle(moving.store, tenant, bundle_id)
            elsewhere = Alone(moving.encoders[1 - own], bundle, moving.texts[tenant])
            for text in moving.texts[tenant]:
                for kind, result in (
                    ("right", alone.result(text)),
                    ("by its adapter on the other encoder", alone.result(text, elsewhere)),
                    ("by the bundle on the other encoder", second.result(text)),
                    ("embedded by the other bundle", alone.result(text, second)),
                ):
                    made = found.setdefault(kind, {"made": 0, "noticed": 0})
                    made["made"] += 1
                    made["noticed"] += alone.fault(text, result) is not None
    return found


def _forged(moving: Moving, draw: random.Random) -> dict[str, int]:
    """Exchange the encoders of the engine's banks, and count the answers that the check notices."""
    engine, found = moving.engine, {"made": 0, "noticed": 0}
    first, second = engine.banks.loaded
    first.encoder, second.encoder = second.encoder, first.encoder
    resident = [key for key in engine.snapshot.tenants if key in moving.bundles]
    for _ in range(_FORGED):
        tenant = draw.choice(resident)
        item = SearchItem(tenant, draw.choice(moving.texts[tenant]), TOP_K)
        [answer] = engine.search([item])
        if isinstance(answer, SearchAnswer):
            found["made"] += 1
            found["noticed"] += moving.fault(item, answer, time.perf_counter()) is not None
    first.encoder, second.encoder = second.encoder, first.encoder
    return found


def _result(answer: SearchAnswer) -> dict[str, Any]:
    """The answer as the server words it."""
    return {"ranked": [vars(faq) for faq in answer.ranked], "abstained": answer.abstained}


def encoders_faults(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield what must not be, and what did not happen so that the rest means nothing."""
    found = figures["encoders"]
    yield from (f"{count} answers: {fault}" for fault, count in found["wrong"].items())
    for kind, made in found["control"].items():
        if made["noticed"] != (0 if kind == "right" else made["made"]):
            yield f"of {made['made']} answers made {kind}, {made['noticed']} are noticed"
    forged = found["forged"]
    if not forged["made"] or forged["noticed"] < forged["made"]:
        yield f"with exchanged encoders, {forged['noticed']} of {forged['made']} are noticed"
    happened = found["steps"] | {"load": found["loads"], "eviction": found["evictions"]}
    yield from (f"no {what}" for what in (*_STEPS, "load", "eviction") if not happened.get(what))
    if len(found["answers"]) < 2:
        yield "not both encoders answered"


def encoders_sections(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield the report's sections."""
    found = figures["encoders"]
    yield (
        f"{figures['tenants']} tenants, each with a bundle on either encoder: answers "
        f"{counts(found['answers'])} in {found['seconds']} s, wrong {counts(found['wrong']) or 0}; "
        f"steps {counts(found['steps'])}; {found['loads']} loads and {found['evictions']} "
        f"evictions; not answered: {counts(found['not_answered']) or 0}. With the banks' encoders "
        f"exchanged, {found['forged']['noticed']} of {found['forged']['made']} answers are noticed."
    )
    made = found["control"].items()
    yield table(
        ("answers made", "made", "noticed"), ((k, c["made"], c["noticed"]) for k, c in made)
    )


def encoders(
    folder: Path, draw: random.Random, *, requests: int, tenants: int, data: Path | None
) -> Outcome:
    """Move tenants between two encoders amid queries, and check every answer."""
    pair = [
        load_encoder(str(make_tiny_encoder(folder / f"tiny-{seed}", seed=seed)), dtype="float32")
        for seed in range(2)
    ]
    store = folder / "store"
    store.mkdir()
    moving = Moving.of(pair, read_banks(banks_folder(data), tenants), store)
    part = Part(
        "encoders",
        lambda: measure_encoders(moving, requests, draw),
        encoders_sections,
        encoders_faults,
    )
    return reported(folder, "Several encoders", part, tenants=tenants)[1]
