import asyncio
import threading
from collections.abc import Sequence

import pytest

from adapterdistill.errors import OverloadedError
from serve.batcher import Batcher, Outcome
from serve.engine import SearchAnswer, SearchItem


class Recorder:
    """An engine that answers with the query's text as the version, and waits while held."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Event()

    def search(self, items: Sequence[SearchItem]) -> list[Outcome]:
        self.batches.append([item.text for item in items])
        self.started.set()
        assert self.gate.wait(10)
        return [SearchAnswer(item.tenant, "faq", item.text, (), False) for item in items]


def request(*texts: str) -> list[SearchItem]:
    return [SearchItem("acme", text) for text in texts]


def versions(outcomes: list[Outcome]) -> list[str]:
    return [outcome.version for outcome in outcomes if isinstance(outcome, SearchAnswer)]


def test_requests_that_come_during_a_batch_form_the_next_one() -> None:
    async def scenario() -> None:
        engine = Recorder()
        batcher = Batcher(engine.search, max_batch=4, max_wait_ms=0, max_queued=64)
        engine.gate.clear()
        first = asyncio.create_task(batcher.submit(request("a")))
        await asyncio.to_thread(engine.started.wait, 10)
        rest = [asyncio.create_task(batcher.submit(request(t))) for t in "bcdefg"]
        await asyncio.sleep(0.01)
        engine.gate.set()
        assert [versions(o) for o in await asyncio.gather(first, *rest)] == [[t] for t in "abcdefg"]
        assert engine.batches == [["a"], ["b", "c", "d", "e"], ["f", "g"]]
        batcher.close()

    asyncio.run(scenario())


def test_a_request_is_never_split() -> None:
    async def scenario() -> None:
        engine = Recorder()
        batcher = Batcher(engine.search, max_batch=4, max_wait_ms=5, max_queued=64)
        requests = [request(*"abc"), request(*"de"), request(*"fghijk"), request("l")]
        outcomes = await asyncio.gather(*(batcher.submit(r) for r in requests))
        assert [versions(o) for o in outcomes] == [[*"abc"], [*"de"], [*"fghijk"], ["l"]]
        assert engine.batches == [[*"abc"], [*"de"], [*"fghijk"], ["l"]]
        batcher.close()

    asyncio.run(scenario())


def test_a_full_queue_refuses_and_recovers() -> None:
    async def scenario() -> None:
        engine = Recorder()
        batcher = Batcher(engine.search, max_batch=1, max_wait_ms=0, max_queued=2)
        engine.gate.clear()
        running = asyncio.create_task(batcher.submit(request("a")))
        await asyncio.to_thread(engine.started.wait, 10)
        waiting = asyncio.create_task(batcher.submit(request("b", "c")))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            await batcher.submit(request("d"))
        engine.gate.set()
        await asyncio.gather(running, waiting)
        assert versions(await batcher.submit(request("e"))) == ["e"]
        batcher.close()

    asyncio.run(scenario())


def test_who_has_gone_is_not_computed_for() -> None:
    async def scenario() -> None:
        engine = Recorder()
        batcher = Batcher(engine.search, max_batch=8, max_wait_ms=0, max_queued=64)
        engine.gate.clear()
        running = asyncio.create_task(batcher.submit(request("a")))
        await asyncio.to_thread(engine.started.wait, 10)
        gone, stays = (asyncio.create_task(batcher.submit(request(t))) for t in "bc")
        await asyncio.sleep(0)
        gone.cancel()
        engine.gate.set()
        assert versions(await stays) == ["c"]
        await running
        assert engine.batches == [["a"], ["c"]]
        batcher.close()

    asyncio.run(scenario())


def test_a_failing_batch_fails_only_its_own_requests() -> None:
    def search(items: Sequence[SearchItem]) -> list[Outcome]:
        if items[0].text == "bad":
            raise RuntimeError("engine failed")
        return [SearchAnswer(item.tenant, "faq", item.text, (), False) for item in items]

    async def scenario() -> None:
        batcher = Batcher(search, max_batch=1, max_wait_ms=0, max_queued=64)
        bad, good = (asyncio.create_task(batcher.submit(request(t))) for t in ("bad", "good"))
        with pytest.raises(RuntimeError):
            await bad
        assert versions(await good) == ["good"]
        batcher.close()

    asyncio.run(scenario())
