"""All changes of tenants at once, with every answer compared with its own version's."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest

from adapterdistill.backbone import Encoder
from adapterdistill.drills.endpoint.hazards import Timeline
from adapterdistill.errors import AdapterDistillError, OverloadedError, ServingError
from adapterdistill.serve.engine.engine import Engine, SearchAnswer, SearchItem
from adapterdistill.serve.engine.live import Alias, LiveTenant
from adapterdistill.store.bundle import write_bundle
from adapterdistill.store.release import (
    drop,
    promote,
    put_up,
    read_release,
    roll_back,
    set_live,
    take_down,
)
from tests.serving_store import MadeTenant, make_tenant

TEXTS = ["where is my parcel", "hi", "opening hours"]
ALIASES: tuple[Alias, ...] = ("live", "canary")
NUM_TENANTS, THREADS = 12, 2
MOST_HELD = {1: 3, 2: 2}
"""Tenants that a request holds, by the number of encoders; an encoder has slots for all of them."""
STEPS = 160
WITHDRAWN_AT = (40, 80, 120)
"""Steps at which a version of the tenant in the same position is withdrawn."""


class Operator:
    """Changes the store, refreshes the engine, and records which versions may answer each
    tenant."""

    def __init__(self, store: Path, encoders: Sequence[Encoder], engine: Engine) -> None:
        """A tenant's two versions are on the first and on the last of the encoders."""
        self.timeline, self.steps = Timeline(), Counter[str]()
        self.withdrawn: dict[str, float] = {}
        """Version -> the time from which it is certainly withdrawn."""
        self._store, self._engine = store, engine
        self.encoder_of: dict[str, Encoder] = {}
        self.versions: dict[str, list[MadeTenant]] = {}
        for n in range(NUM_TENANTS):
            for v, encoder in enumerate((encoders[0], encoders[-1])):
                made = make_tenant(encoder, f"tenant-{n}", seed=20 * n + v, num_faqs=4)
                self.versions.setdefault(made.tenant, []).append(made)
                self.encoder_of[made.bundle.manifest.version] = encoder
        self._bundles: dict[str, list[str]] = {}
        for tenant, both in self.versions.items():
            self._bundles[tenant] = [write_bundle(store, made.bundle) for made in both]
            set_live(store, tenant, self._bundles[tenant][0])
        engine.refresh()
        for tenant in self.versions:
            self._note(tenant, self._outcomes(tenant))

    def step(self, draw: random.Random) -> None:
        tenant = draw.choice(list(self.versions))
        name, change = draw.choice(self._possible(tenant))
        self.steps[name] += 1
        before = self._outcomes(tenant)
        change()
        after = self._outcomes(tenant)
        self._note(tenant, {alias: before[alias] | after[alias] for alias in ALIASES})
        self._engine.refresh()
        self._note(tenant, after)

    def withdraw(self, made: MadeTenant) -> None:
        """Withdraws a version as the registry's follower would."""
        ref = made.bundle.manifest.ref
        before = self._outcomes(made.tenant)
        self.withdrawn[ref.version] = float("inf")
        after = self._outcomes(made.tenant)
        self._note(made.tenant, {alias: before[alias] | after[alias] for alias in ALIASES})
        self._engine.withdraw(ref.name)
        self.withdrawn[ref.version] = time.perf_counter()
        self._note(made.tenant, after)

    def _possible(self, tenant: str) -> list[tuple[str, Callable[[], object]]]:
        store = self._store
        try:
            release = read_release(store, tenant)
        except ServingError:
            return [("return", lambda: set_live(store, tenant, self._bundles[tenant][1]))]
        [other] = set(self._bundles[tenant]) - {release.bundle}
        possible: list[tuple[str, Callable[[], object]]] = [
            ("swap", lambda: set_live(store, tenant, other)),
            ("remove", lambda: take_down(store, tenant)),
        ]
        if release.candidate is None:
            for mode in ("canary", "shadow"):
                possible.append(
                    (mode, lambda mode=mode: put_up(store, tenant, other, mode=mode, share=0.5))
                )
        else:
            possible += [
                ("promote", lambda: promote(store, tenant)),
                ("drop", lambda: drop(store, tenant)),
            ]
        if release.before is not None:
            possible.append(("roll back", lambda: roll_back(store, tenant)))
        return possible

    def _outcomes(self, tenant: str) -> dict[Alias, frozenset[str]]:
        try:
            release = read_release(self._store, tenant)
        except ServingError:
            return dict.fromkeys(ALIASES, frozenset({"UnknownTenantError"}))
        live = release.bundle[:64]
        candidate = release.candidate.bundle[:64] if release.candidate else "NoCandidateError"
        if candidate in self.withdrawn:
            candidate = "WithdrawnError"
        if live in self.withdrawn:
            # That a tenant comes back withdrawn is noticed when it is loaded.
            return {
                "live": frozenset({"WithdrawnError"}),
                "canary": frozenset({"WithdrawnError", candidate}),
            }
        return {"live": frozenset({live}), "canary": frozenset({candidate})}

    def _note(self, tenant: str, outcomes: dict[Alias, frozenset[str]]) -> None:
        for alias, allowed in outcomes.items():
            self.timeline.begin(f"{tenant}@{alias}", allowed, time.perf_counter())


class Asker(threading.Thread):
    """Asks mixed batches, some of whose items hold their tenants, and collects wrong answers."""

    def __init__(self, operator: Operator, engine: Engine, seed: int, most_held: int) -> None:
        super().__init__()
        self.wrong: list[str] = []
        self.answered: set[tuple[str, Alias, str]] = set()
        self.searches = 0
        self.stopping = threading.Event()
        self._most_held = most_held
        self._operator, self._engine, self._draw = operator, engine, random.Random(seed)
        self._alone = {
            (tenant, version, text): made.expected(operator.encoder_of[version], text)
            for tenant, both in operator.versions.items()
            for made in both
            for version in [made.bundle.manifest.version]
            for text in TEXTS
        }

    def run(self) -> None:
        while not self.stopping.is_set():
            try:
                self._search()
            except Exception as error:
                self.wrong.append(repr(error))
                return
            self.searches += 1

    def _search(self) -> None:
        draw, items, sent = self._draw, list[SearchItem](), list[float]()
        for _ in range(draw.randint(1, self._most_held)):
            tenant, alias = draw.choice(list(self._operator.versions)), draw.choice(ALIASES)
            text, began = draw.choice(TEXTS), time.perf_counter()
            held = self._hold(tenant, alias)
            if isinstance(held, str):
                self._check(tenant, alias, held, began)
                continue
            items.append(SearchItem(tenant, text, 4, held, alias))
            sent.append(began)
            if draw.random() < 0.3:  # one that has nothing but its tenant's name
                items.append(SearchItem(tenant, text, 4, alias=alias))
                sent.append(time.perf_counter())
        searched = time.perf_counter()
        for item, began, outcome in zip(items, sent, self._engine.search(items), strict=True):
            if isinstance(outcome, SearchAnswer):
                self._check(item.tenant, item.alias, outcome.version, began)
                self._compare(item, outcome, searched)
            elif not (isinstance(outcome, OverloadedError) and item.held is None):
                self._check(item.tenant, item.alias, type(outcome).__name__, began)

    def _hold(self, tenant: str, alias: Alias) -> LiveTenant | str:
        """The name of the error, if there is one."""
        found = None
        try:
            found = self._engine.admit(tenant, alias)
            return found.result(30) if isinstance(found, Future) else found
        except AdapterDistillError as error:
            return type(error).__name__
        finally:
            # Else an error would keep all frames up to here, and what is held in them, in memory.
            del found

    def _check(self, tenant: str, alias: Alias, outcome: str, began: float) -> None:
        line, key = self._operator.timeline, f"{tenant}@{alias}"
        # A change that is in effect and not noted yet is noted once the disk has it: a busy one
        # takes its time.
        for _ in range(3000):
            if line.late_s(key, outcome, began, time.perf_counter()) == 0:
                return
            time.sleep(0.01)
        raise AssertionError(f"{key}: {outcome[:20]} is not right at the time")

    def _compare(self, item: SearchItem, answer: SearchAnswer, searched: float) -> None:
        self.answered.add((item.tenant, item.alias, answer.version))
        if self._operator.withdrawn.get(answer.version, searched) < searched:
            self.wrong.append(f"{item.tenant}: answered by what is withdrawn")
        if (answer.tenant, answer.alias) != (item.tenant, item.alias):
            self.wrong.append(f"{item.tenant}: answered for another")
        alone = self._alone[item.tenant, answer.version, item.text]
        found = [(one.faq_id, one.score) for one in answer.ranked]
        if [faq for faq, _ in found] != [faq for faq, _ in alone] or any(
            abs(a - b) > 2e-5 for (_, a), (_, b) in zip(found, alone, strict=True)
        ):
            self.wrong.append(f"{item.tenant}: answered with another adapter or index")


@pytest.mark.parametrize("on", ["one encoder", "two encoders"])
def test_whatever_happens_at_once_every_answer_is_its_own_version_s(
    store: Path, encoder: Encoder, other_encoder: Encoder, on: str
) -> None:
    """12 tenants of two versions take turns in few slots; brute force says what is right, and the
    order of things who may answer. Another adapter's scores differ by 0.05 and more. On two
    encoders, each change of a tenant's bundle moves it from one to the other."""
    encoders = [encoder] if on == "one encoder" else [encoder, other_encoder]
    engine = Engine(
        encoder,
        store,
        others={one.ref.name: lambda one=one: one for one in encoders[1:]},
        capacity=1,
        max_slots=THREADS * MOST_HELD[len(encoders)],
        load_threads=2,
    )
    operator, draw = Operator(store, encoders, engine), random.Random(1)
    askers = [Asker(operator, engine, seed, MOST_HELD[len(encoders)]) for seed in range(THREADS)]
    for asker in askers:
        asker.start()
    try:
        for step in range(STEPS):
            before = [asker.searches for asker in askers]
            if step in WITHDRAWN_AT:
                place = WITHDRAWN_AT.index(step)
                operator.withdraw(operator.versions[f"tenant-{place}"][place % 2])
            operator.step(draw)
            # However busy the machine is, nobody is left behind.
            while any(
                a.is_alive() and a.searches == n for a, n in zip(askers, before, strict=True)
            ):
                time.sleep(0.001)
    finally:
        for asker in askers:
            asker.stopping.set()
        for asker in askers:
            asker.join()
        engine.close()
    assert [asker.wrong for asker in askers] == [[]] * THREADS
    answered = set[tuple[str, Alias, str]]().union(*(asker.answered for asker in askers))
    assert len({(tenant, version) for tenant, _, version in answered}) >= 20  # of 24
    assert len({tenant for tenant, alias, _ in answered if alias == "canary"}) > 3
    assert len(operator.steps) == 8  # of each kind at least one
    assert engine.paging.evictions > 50 and engine.paging.loads > 50
