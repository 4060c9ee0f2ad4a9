"""A candidate beside the live bundle: proven before use, never mixed in, dropped in time."""

import random
import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest

from adapterdistill.backbone import Encoder
from adapterdistill.errors import (
    NoCandidateError,
    ServingError,
    UnknownTenantError,
    WithdrawnError,
)
from adapterdistill.serve.engine.engine import Engine, LiveTenant, SearchAnswer, SearchItem
from adapterdistill.serve.engine.live import Alias
from adapterdistill.store.bundle import write_bundle
from adapterdistill.store.release import Mode, drop, promote, put_up, roll_back, set_live, take_down
from tests.serving_store import (
    MadeTenant,
    make_tenant,
    put_live,
    stored_file,
    write_damaged_release,
)
from tests.unit.serve.engine.test_engine import TEXTS, assert_answers_as


@pytest.fixture
def old(encoder: Encoder) -> MadeTenant:
    return make_tenant(encoder, "acme", seed=1)


@pytest.fixture
def new(encoder: Encoder) -> MadeTenant:
    return make_tenant(encoder, "acme", seed=2)


def try_out(store: Path, made: MadeTenant, *, mode: Mode = "canary", share: float = 0.5) -> str:
    bundle_id = write_bundle(store, made.bundle)
    put_up(store, made.tenant, bundle_id, mode=mode, share=share)
    return bundle_id


def serving(store: Path, encoder: Encoder, live: MadeTenant, candidate: MadeTenant) -> Engine:
    put_live(store, live)
    try_out(store, candidate)
    engine = Engine(encoder, store, retry_refused_s=0)
    engine.refresh()
    return engine


def held(engine: Engine, tenant: str, alias: Alias) -> LiveTenant:
    found = engine.admit(tenant, alias)
    return found.result(30) if isinstance(found, Future) else found


def ask(engine: Engine, alias: Alias, tenant: str = "acme") -> SearchAnswer:
    item = SearchItem(tenant, "hi", 50, held(engine, tenant, alias), alias)
    [answer] = engine.search([item])
    assert isinstance(answer, SearchAnswer) and answer.alias == alias
    return answer


def test_live_and_candidate_answer_each_as_itself_in_one_batch(
    store: Path, encoder: Encoder, old: MadeTenant, new: MadeTenant
) -> None:
    engine = serving(store, encoder, old, new)
    asked: list[tuple[Alias, MadeTenant]] = [("live", old), ("canary", new)] * 3
    items = [SearchItem("acme", TEXTS[n % 5], 50, alias=a) for n, (a, _) in enumerate(asked)]
    for item, (alias, made), answer in zip(items, asked, engine.search(items), strict=True):
        assert isinstance(answer, SearchAnswer) and answer.alias == alias
        assert_answers_as(answer, made, encoder, item.text)
    assert (engine.snapshot.num_tenants, engine.num_slots - engine.num_free_slots) == (1, 2)


def test_a_candidate_is_promoted_rolled_back_and_dropped_without_a_restart(
    store: Path, encoder: Encoder, old: MadeTenant, new: MadeTenant
) -> None:
    engine = serving(store, encoder, old, new)
    promote(store, "acme")
    changed = engine.refresh()
    assert (changed.loaded, changed.dropped, changed.refused) == (("acme",), ("acme@canary",), {})
    assert_answers_as(ask(engine, "live"), new, encoder, "hi")
    with pytest.raises(NoCandidateError, match="has no candidate"):
        engine.admit("acme", "canary")
    roll_back(store, "acme")
    engine.refresh()
    assert_answers_as(ask(engine, "live"), old, encoder, "hi")
    try_out(store, new)
    engine.refresh()
    assert_answers_as(ask(engine, "canary"), new, encoder, "hi")
    drop(store, "acme")
    assert engine.refresh().dropped == ("acme@canary",)
    assert engine.snapshot.candidate("acme") is None
    assert_answers_as(ask(engine, "live"), old, encoder, "hi")


def test_a_request_that_waits_is_answered_by_what_it_held_whatever_moves(
    store: Path, encoder: Encoder, old: MadeTenant, new: MadeTenant
) -> None:
    engine = serving(store, encoder, old, new)
    aliases: tuple[Alias, Alias] = ("live", "canary")
    waiting = [SearchItem("acme", "hi", 50, held(engine, "acme", a), a) for a in aliases]
    for change in (promote, roll_back):
        change(store, "acme")
        engine.refresh()
        for item, made, answer in zip(waiting, (old, new), engine.search(waiting), strict=True):
            assert isinstance(answer, SearchAnswer) and answer.alias == item.alias
            assert_answers_as(answer, made, encoder, "hi")


def test_there_is_no_candidate_of_an_unknown_tenant_or_of_one_that_has_none(
    store: Path, encoder: Encoder, old: MadeTenant
) -> None:
    put_live(store, old)
    engine = Engine(encoder, store)
    engine.refresh()
    with pytest.raises(NoCandidateError, match="tenant acme has no candidate"):
        engine.admit("acme", "canary")
    with pytest.raises(UnknownTenantError, match="no live adapter"):
        engine.admit("nobody", "canary")
    [answer] = engine.search([SearchItem("acme", "hi", alias="canary")])
    assert isinstance(answer, NoCandidateError)


def test_a_refused_candidate_is_said_and_leaves_live_as_it_is(
    store: Path, encoder: Encoder, old: MadeTenant, new: MadeTenant
) -> None:
    engine = serving(store, encoder, old, new)
    damaged = try_out(store, make_tenant(encoder, "acme", seed=3))
    stored_file(store, "acme", damaged, "faqs.parquet").write_bytes(b"")
    changed = engine.refresh()
    assert isinstance(changed.refused["acme@canary"], ServingError)
    # Not even the candidate before it answers: it is not wanted any more.
    with pytest.raises(NoCandidateError, match="refused"):
        engine.admit("acme", "canary")
    assert engine.snapshot.bundle_id("acme@canary") is None  # nor does it take a place in memory
    assert engine.snapshot.candidate("acme") is None
    assert_answers_as(ask(engine, "live"), old, encoder, "hi")


def test_a_candidate_that_lies_about_its_golden_vectors_is_never_used(
    store: Path, encoder: Encoder, old: MadeTenant, new: MadeTenant
) -> None:
    golden = new.bundle.manifest.golden
    moved = golden.model_copy(update={"distances": tuple(0.0 for _ in golden.distances)})
    manifest = new.bundle.manifest.model_copy(update={"golden": moved})
    lying = replace(new, bundle=replace(new.bundle, manifest=manifest))
    engine = serving(store, encoder, old, lying)
    assert engine.refresh().refused.keys() == {"acme@canary"}
    assert engine.snapshot.candidate("acme") is None
    assert_answers_as(ask(engine, "live"), old, encoder, "hi")


def test_another_share_needs_no_load(
    store: Path, encoder: Encoder, old: MadeTenant, new: MadeTenant
) -> None:
    engine = serving(store, encoder, old, new)
    try_out(store, new, mode="shadow", share=0.25)
    changed = engine.refresh()
    assert (changed.loaded, changed.dropped, changed.refused) == ((), (), {})
    candidate = engine.snapshot.candidate("acme")
    assert candidate is not None and (candidate.mode, candidate.share) == ("shadow", 0.25)


def test_a_damaged_release_leaves_live_and_candidate_as_they_are(
    store: Path, encoder: Encoder, old: MadeTenant, new: MadeTenant
) -> None:
    engine = serving(store, encoder, old, new)
    write_damaged_release(store, "acme", "{")
    changed = engine.refresh()
    assert changed.refused.keys() == {"acme"} and changed.dropped == ()
    assert_answers_as(ask(engine, "live"), old, encoder, "hi")
    assert_answers_as(ask(engine, "canary"), new, encoder, "hi")


def test_a_tenant_that_goes_takes_its_candidate_along(
    store: Path, encoder: Encoder, old: MadeTenant, new: MadeTenant
) -> None:
    engine = serving(store, encoder, old, new)
    take_down(store, "acme")
    assert engine.refresh().dropped == ("acme", "acme@canary")
    for alias in ("live", "canary"):
        with pytest.raises(UnknownTenantError, match="no live adapter"):
            engine.admit("acme", alias)
    assert engine.snapshot.num_tenants == 0


def test_a_withdrawn_candidate_is_switched_off_and_live_goes_on(
    store: Path, encoder: Encoder, old: MadeTenant, new: MadeTenant
) -> None:
    engine = serving(store, encoder, old, new)
    waiting = SearchItem("acme", "hi", 50, held(engine, "acme", "canary"), "canary")
    assert engine.withdraw(new.bundle.manifest.ref.name) == ("acme@canary",)
    engine.refresh()
    assert engine.snapshot.candidate("acme") is None
    assert isinstance(engine.search([waiting])[0], WithdrawnError)
    with pytest.raises(WithdrawnError):
        engine.admit("acme", "canary")
    assert_answers_as(ask(engine, "live"), old, encoder, "hi")
    assert (engine.snapshot.num_tenants, engine.snapshot.num_withdrawn) == (1, 0)
    drop(store, "acme")
    engine.refresh()
    try_out(store, new)  # it stays withdrawn
    engine.refresh()
    with pytest.raises(WithdrawnError):
        engine.admit("acme", "canary")


def test_where_live_is_withdrawn_its_candidate_answers_nobody(
    store: Path, encoder: Encoder, old: MadeTenant, new: MadeTenant
) -> None:
    engine = serving(store, encoder, old, new)
    waiting = SearchItem("acme", "hi", 50, held(engine, "acme", "canary"), "canary")
    assert engine.withdraw(old.bundle.manifest.ref.name) == ("acme",)
    assert isinstance(engine.search([waiting])[0], WithdrawnError)
    for alias in ("live", "canary"):
        with pytest.raises(WithdrawnError, match=old.bundle.manifest.version):
            engine.admit("acme", alias)
    assert engine.snapshot.num_withdrawn == 1
    promote(store, "acme")
    engine.refresh()
    assert_answers_as(ask(engine, "live"), new, encoder, "hi")


def test_candidates_are_paged_like_tenants(store: Path, encoder: Encoder) -> None:
    pairs = [
        [make_tenant(encoder, f"tenant-{n}", seed=10 * n + v, num_faqs=4) for v in range(2)]
        for n in range(3)
    ]
    for live, candidate in pairs:
        put_live(store, live)
        try_out(store, candidate)
    engine = Engine(encoder, store, capacity=1, max_slots=2)
    engine.refresh()
    for _ in range(2):
        for live, candidate in pairs:
            assert_answers_as(ask(engine, "live", live.tenant), live, encoder, "hi")
            assert_answers_as(ask(engine, "canary", live.tenant), candidate, encoder, "hi")
            assert engine.num_slots == 2
    assert engine.paging.evictions > 6 and engine.paging.failures == 0


def test_threads_promotions_and_rollbacks_never_mix_versions_or_fail_a_request(
    store: Path, encoder: Encoder
) -> None:
    """Two slots for six bundles: whatever changes, the bundle that a request held answers it."""
    made = {
        tenant: [make_tenant(encoder, tenant, seed=10 * n + v, num_faqs=4) for v in range(2)]
        for n, tenant in enumerate(["ash", "birch", "cedar"])
    }
    reference = {
        (one.tenant, one.bundle.manifest.version, text): one.expected(encoder, text)
        for both in made.values()
        for one in both
        for text in TEXTS
    }
    ids = {t: [write_bundle(store, one.bundle) for one in both] for t, both in made.items()}
    for tenant, (first, second) in ids.items():
        set_live(store, tenant, first)
        put_up(store, tenant, second, mode="canary", share=0.5)
    engine = Engine(encoder, store, capacity=1, max_slots=3)
    engine.refresh()
    wrong: list[str] = []
    seen: set[tuple[str, str, str]] = set()

    def search(draw: random.Random) -> None:
        tenant, alias = draw.choice(list(made)), draw.choice(["live", "canary"])
        try:
            kept = held(engine, tenant, alias)
        except NoCandidateError:
            return  # promoted a moment ago
        items = [SearchItem(tenant, text, 4, kept, alias) for text in TEXTS[:3]]
        outcomes = engine.search(items)
        versions = {o.version for o in outcomes if isinstance(o, SearchAnswer)}
        if versions != {kept.manifest.version}:
            wrong.append(f"{tenant}@{alias}: held one version, answered by {outcomes}")
            return
        seen.add((tenant, alias, kept.manifest.version))
        for item, outcome in zip(items, outcomes, strict=True):
            expected = reference[tenant, kept.manifest.version, item.text]
            found = [(r.faq_id, r.score) for r in outcome.ranked]
            if [f for f, _ in found] != [f for f, _ in expected] or any(
                abs(a - b) > 2e-5 for (_, a), (_, b) in zip(found, expected, strict=True)
            ):
                wrong.append(f"{tenant}@{alias}: another adapter or index")

    def searches(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(150):
            search(draw)

    threads = [threading.Thread(target=searches, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    turn = 0
    while any(thread.is_alive() for thread in threads):
        turn += 1
        for tenant, both in ids.items():
            if turn % 3 == 0:
                live = set_live(store, tenant, both[turn // 3 % 2]).bundle
                put_up(store, tenant, next(b for b in both if b != live), mode="canary", share=1)
            elif turn % 3 == 1:
                promote(store, tenant)
            else:
                roll_back(store, tenant)
        engine.refresh()
        time.sleep(0.001)
    assert wrong == []
    assert turn > 6 and len(seen) >= 9, "too little was moved to mean anything"
    assert engine.num_slots == 3
