"""The choice of the bundle that answers a request, and the shadow traffic."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from adapterdistill.backbone import Encoder
from adapterdistill.errors import (
    DeadlineExceededError,
    NoCandidateError,
    OverloadedError,
    WithdrawnError,
)
from adapterdistill.serve.engine.engine import Engine
from adapterdistill.serve.engine.items import SearchAnswer, SearchItem
from adapterdistill.serve.engine.live import Alias, LiveTenant
from adapterdistill.serve.queue import shadow
from adapterdistill.serve.queue.batcher import Batcher, SearchOutcome
from adapterdistill.serve.queue.request_context import RequestContext, Stages
from adapterdistill.serve.queue.searching import Searcher
from adapterdistill.store.release import Mode, promote, roll_back
from tests.served import Served, until
from tests.serving_store import MadeTenant, make_tenant, put_live, stored_file
from tests.unit.serve.engine.test_candidates import try_out
from tests.unit.serve.engine.test_engine import TEXTS, assert_answers_as


@pytest.fixture
def old(encoder: Encoder) -> MadeTenant:
    return make_tenant(encoder, "acme", seed=1)


@pytest.fixture
def new(encoder: Encoder) -> MadeTenant:
    return make_tenant(encoder, "acme", seed=2)


Serving = Callable[..., Served]


@pytest.fixture
def serving(store: Path, encoder: Encoder, old: MadeTenant, new: MadeTenant) -> Iterator[Serving]:
    served: list[Served] = []

    def start(mode: Mode, share: float, candidate: MadeTenant = new) -> Served:
        put_live(store, old)
        try_out(store, candidate, mode=mode, share=share)
        engine = Engine(encoder, store)
        engine.refresh()
        served.append(Served(engine, threading.Event(), []))
        served[-1].gate.set()
        return served[-1]

    yield start
    for one in served:
        one.engine.close()


async def ask(searcher: Searcher, text: str = "hi", alias: Alias | None = None) -> SearchAnswer:
    context = RequestContext("1")
    [answer] = await searcher.search(context, "acme", [text], 50, alias)
    assert (context.version, context.alias) == (answer.version, answer.alias)
    return answer


def test_a_canary_answers_its_share_of_the_requests(
    serving: Serving, encoder: Encoder, old: MadeTenant, new: MadeTenant
) -> None:
    async def scenario(searcher: Searcher, _: Batcher) -> None:
        answers = [
            answer
            for _ in range(10)
            for answer in await asyncio.gather(*(ask(searcher) for _ in range(100)))
        ]
        # Of 1,000 at 0.3: 300 with a standard deviation of 14.5, and four of them.
        assert abs(Counter(a.alias for a in answers)["canary"] - 300) < 58
        for answer in answers:
            assert_answers_as(answer, new if answer.alias == "canary" else old, encoder, "hi")

    serving("canary", 0.3).run(scenario)


@pytest.mark.parametrize(("share", "alias"), [(0.0, "live"), (1.0, "canary")])
def test_a_share_of_nothing_or_all_is_just_that(
    serving: Serving, share: float, alias: Alias
) -> None:
    async def scenario(searcher: Searcher, _: Batcher) -> None:
        answers = await asyncio.gather(*(ask(searcher) for _ in range(200)))
        assert {answer.alias for answer in answers} == {alias}

    serving("canary", share).run(scenario)


def test_a_share_of_nothing_is_that_at_the_lowest_draw_too(serving: Serving) -> None:
    async def scenario(searcher: Searcher, _: Batcher) -> None:
        assert (await ask(searcher)).alias == "live"

    serving("canary", 0.0).run(scenario, draw=lambda: 0.0)


def test_what_a_request_has_waited_is_taken_from_its_time(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A canary may use half of the time; the queue gets what the loads have left."""
    served = serving("canary", 1.0)
    now = 100.0
    given: list[tuple[Alias, float]] = []
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("adapterdistill.serve.queue.searching.time", clock)
    hold = served.engine.hold

    async def slow(tenant: str, timeout_s: float, alias: Alias = "live") -> LiveTenant:
        nonlocal now
        now += 3 if alias == "canary" else 2
        given.append((alias, timeout_s))
        if alias == "canary":
            raise DeadlineExceededError("still being loaded", retry_after_s=1)
        return await hold(tenant, timeout_s, alias)

    async def scenario(searcher: Searcher, batcher: Batcher) -> None:
        submit = Mock(wraps=batcher.submit)
        monkeypatch.setattr(batcher, "submit", submit)
        context = RequestContext("1", stages=Stages(began_at=99.0))
        [answer] = await searcher.search(context, "acme", ["hi"], 1)
        assert (answer.alias, len(answer.ranked)) == ("live", 1)
        assert given == [("canary", 5.0), ("live", 7.0)]
        assert submit.call_args.kwargs["waited_s"] == 5.0
        assert context.stages is not None and context.stages.batch_queries == 1
        assert (context.stages.asked_at, context.stages.held_at) == (100.0, 105.0)

    monkeypatch.setattr(served.engine, "hold", slow)
    served.run(scenario)


@pytest.mark.parametrize("mode", ["canary", "shadow"])
def test_a_request_that_names_an_alias_gets_it(
    serving: Serving, encoder: Encoder, old: MadeTenant, new: MadeTenant, mode: Mode
) -> None:
    async def scenario(searcher: Searcher, _: Batcher) -> None:
        pairs: list[tuple[Alias, MadeTenant]] = [("live", old), ("canary", new)]
        for alias, made in pairs * 5:
            answer = await ask(searcher, alias=alias)
            assert answer.alias == alias
            assert_answers_as(answer, made, encoder, "hi")
        await searcher.drain()
        assert searcher.shadow.totals.compared == searcher.shadow.totals.skipped == 0

    serving(mode, 1.0).run(scenario)


def test_who_names_a_candidate_that_there_is_not_is_told(
    store: Path, encoder: Encoder, old: MadeTenant
) -> None:
    put_live(store, old)
    engine = Engine(encoder, store)
    engine.refresh()

    async def scenario(searcher: Searcher, _: Batcher) -> None:
        assert (await ask(searcher)).alias == "live"
        with pytest.raises(NoCandidateError, match="has no candidate"):
            await ask(searcher, alias="canary")

    served = Served(engine, threading.Event(), [])
    served.gate.set()
    served.run(scenario)


def test_a_canary_that_cannot_be_loaded_any_more_costs_nobody_an_answer(
    store: Path, encoder: Encoder, old: MadeTenant, new: MadeTenant
) -> None:
    put_live(store, old)
    damaged = try_out(store, new, share=1)
    engine = Engine(encoder, store, capacity=1, max_slots=1)  # it is proven, and out of memory
    engine.refresh()
    stored_file(store, "acme", damaged, "faqs.parquet").write_bytes(b"")

    async def scenario(searcher: Searcher, _: Batcher) -> None:
        for _ in range(3):
            assert_answers_as(await ask(searcher), old, encoder, "hi")
        with pytest.raises(NoCandidateError, match="refused"):
            await ask(searcher, alias="canary")

    served = Served(engine, threading.Event(), [])
    served.gate.set()
    served.run(scenario)


def test_a_canary_that_is_withdrawn_while_requests_wait_for_it_costs_nobody_an_answer(
    serving: Serving, encoder: Encoder, old: MadeTenant, new: MadeTenant
) -> None:
    served = serving("canary", 1.0)

    async def scenario(searcher: Searcher, _: Batcher) -> None:
        served.gate.clear()
        drawn = [asyncio.create_task(ask(searcher)) for _ in range(5)]
        named = asyncio.create_task(ask(searcher, alias="canary"))
        await until(lambda: bool(served.batches))
        served.engine.withdraw(new.bundle.manifest.ref.name)
        served.gate.set()
        for one in drawn:
            assert_answers_as(await one, old, encoder, "hi")
        with pytest.raises(WithdrawnError):
            await named
        assert (await ask(searcher)).alias == "live"

    served.run(scenario)


def test_requests_in_flight_while_a_canary_is_promoted_and_rolled_back_are_answered_whole(
    serving: Serving, store: Path, encoder: Encoder, old: MadeTenant, new: MadeTenant
) -> None:
    served = serving("canary", 0.5)
    made = {one.bundle.manifest.version: one for one in (old, new)}

    async def whole(searcher: Searcher) -> Alias:
        answers = await searcher.search(RequestContext("1"), "acme", TEXTS, 50)
        assert len({(a.version, a.alias) for a in answers}) == 1
        for text, answer in zip(TEXTS, answers, strict=True):
            assert_answers_as(answer, made[answer.version], encoder, text)
        return answers[0].alias

    async def scenario(searcher: Searcher, _: Batcher) -> None:
        aliases: list[Alias] = []
        for change in (promote, roll_back):
            served.gate.clear()
            begun = len(served.batches)
            asked = [asyncio.create_task(whole(searcher)) for _ in range(8)]
            await until(lambda begun=begun: len(served.batches) > begun)
            asked += [asyncio.create_task(whole(searcher)) for _ in range(8)]
            await asyncio.sleep(0)
            change(store, "acme")
            served.engine.refresh()
            asked += [asyncio.create_task(whole(searcher)) for _ in range(8)]
            await asyncio.sleep(0)
            served.gate.set()
            aliases += await asyncio.gather(*asked)
        assert set(aliases) == {"live", "canary"}

    served.run(scenario)


def test_a_shadow_is_compared_and_changes_no_answer(
    serving: Serving, encoder: Encoder, old: MadeTenant
) -> None:
    other = make_tenant(encoder, "acme", seed=5, threshold=0.15)
    # Over the live one's vectors, that they agree on some queries and not on all.
    bundle = replace(other.bundle, vectors=old.bundle.vectors)
    candidate = replace(other, bundle=bundle)
    queries = [*TEXTS, "refund 8", "pay", "my card"]
    pairs = [(old.expected(encoder, q)[0], candidate.expected(encoder, q)[0]) for q in queries]
    same_best = sum(one[0] == other[0] for one, other in pairs)
    same_abstention = sum(other[1] >= 0.15 for _, other in pairs)  # the live one never abstains
    assert 0 < same_best < len(queries) and 0 < same_abstention < len(queries)
    served = serving("shadow", 1.0, candidate)

    async def scenario(searcher: Searcher, _: Batcher) -> None:
        assert searcher.shadow.comparison("acme") is None
        for place, query in enumerate(queries):
            answer = await ask(searcher, query)
            assert answer.alias == "live"
            assert_answers_as(answer, old, encoder, query)
            await until(lambda done=place + 1: searcher.shadow.totals.compared == done)
        found = searcher.shadow.comparison("acme")
        assert found is not None
        assert (found.queries, found.same_best) == (len(queries), same_best)
        assert found.same_abstention == same_abstention
        difference = sum(abs(one[1] - other[1]) for one, other in pairs)
        assert found.difference == pytest.approx(difference, abs=1e-4)
        totals = searcher.shadow.totals
        assert (totals.same_best, totals.same_abstention) == (same_best, same_abstention)
        assert totals.difference == found.difference and totals.skipped == 0

    served.run(scenario)


def test_a_comparison_is_of_the_bundles_that_are_live_and_candidate_now(
    serving: Serving, store: Path, encoder: Encoder, new: MadeTenant
) -> None:
    served = serving("shadow", 1.0)

    async def scenario(searcher: Searcher, _: Batcher) -> None:
        await ask(searcher)
        await until(lambda: searcher.shadow.comparison("acme") is not None)
        other = replace(new, bundle=replace(new.bundle, threshold=0.5))  # the same version
        try_out(store, other, mode="shadow", share=1)
        served.engine.refresh()
        assert searcher.shadow.comparison("acme") is None
        await ask(searcher)
        await until(lambda: searcher.shadow.comparison("acme") is not None)
        found = searcher.shadow.comparison("acme")
        assert found is not None and found.queries == 1

    served.run(scenario)


def test_drift_counts_what_users_were_answered_and_not_what_a_shadow_was_asked(
    serving: Serving,
) -> None:
    for mode, alias, expected in (("shadow", None, (2, 0)), ("canary", "canary", (0, 2))):
        served = serving(mode, 1.0)

        async def scenario(
            searcher: Searcher, _: Batcher, alias: Alias | None = alias, mode: str = mode
        ) -> None:
            for _ in range(2):
                await ask(searcher, alias=alias)
            if mode == "shadow":
                await until(lambda: searcher.shadow.totals.compared == 2)

        served.run(scenario)
        bundles = (served.engine.admit("acme", alias=of) for of in ("live", "canary"))
        counted = tuple(one.drift.read().queries for one in bundles if isinstance(one, LiveTenant))
        assert counted == expected


def test_a_shadow_is_left_out_while_the_engine_has_enough_to_do(
    serving: Serving, encoder: Encoder, old: MadeTenant
) -> None:
    served = serving("shadow", 1.0)

    async def scenario(searcher: Searcher, batcher: Batcher) -> None:
        answer = await ask(searcher, alias="live")
        held = await served.engine.hold("acme", 5)
        served.gate.clear()
        begun = len(served.batches)
        first = asyncio.create_task(ask(searcher, alias="live"))
        await until(lambda: len(served.batches) > begun)
        more = [
            asyncio.create_task(ask(searcher, alias="live")) for _ in range(shadow.MAX_QUEUED + 1)
        ]
        await until(lambda: batcher.num_queued == len(more))
        searcher.shadow.compare(held, [answer], ["hi"])
        await until(lambda: searcher.shadow.totals.skipped == 1)
        assert searcher.shadow.totals.compared == 0
        served.gate.set()
        for one in (first, *more):
            assert_answers_as(await one, old, encoder, "hi")

    served.run(scenario)


def test_only_so_many_shadows_are_asked_at_once(serving: Serving) -> None:
    served = serving("shadow", 1.0)

    async def scenario(searcher: Searcher, _: Batcher) -> None:
        answer = await ask(searcher, alias="live")
        held = await served.engine.hold("acme", 5)
        for _ in range(shadow.MAX_AT_ONCE + 12):
            searcher.shadow.compare(held, [answer], ["hi"])
        assert searcher.shadow.totals.skipped == 12
        await searcher.shadow.drain()
        totals = searcher.shadow.totals
        assert (totals.compared, totals.skipped) == (shadow.MAX_AT_ONCE, 12)

    served.run(scenario)


@pytest.mark.parametrize("error", [RuntimeError("canary-4711"), OverloadedError("full")])
def test_a_shadow_that_fails_is_counted_and_nobody_else_s_trouble(
    serving: Serving,
    encoder: Encoder,
    old: MadeTenant,
    error: Exception,
    caplog: pytest.LogCaptureFixture,
) -> None:
    served = serving("shadow", 1.0)
    search = served.engine.search

    def failing(items: Sequence[SearchItem]) -> list[SearchOutcome]:
        if any(item.alias == "canary" for item in items):
            raise error
        return list(search(items))

    served.engine.search = failing  # type: ignore[method-assign, assignment]

    async def scenario(searcher: Searcher, _: Batcher) -> None:
        assert_answers_as(await ask(searcher), old, encoder, "hi")
        await searcher.shadow.drain()
        assert (searcher.shadow.totals.compared, searcher.shadow.totals.skipped) == (0, 1)

    served.run(scenario)
    assert "4711" not in caplog.text


def test_a_replica_that_stops_ends_its_shadows(serving: Serving) -> None:
    async def scenario(searcher: Searcher, _: Batcher) -> None:
        await ask(searcher)
        await searcher.drain()
        assert not searcher.shadow._tasks
        with pytest.raises(OverloadedError, match="is stopping"):
            await ask(searcher)

    serving("shadow", 1.0).run(scenario)
