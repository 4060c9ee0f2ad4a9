import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Sequence

import pytest

from adapterdistill.errors import DeadlineExceededError, OverloadedError
from adapterdistill.serve.engine.engine import SearchAnswer, SearchItem
from adapterdistill.serve.queue.batcher import Batcher, SearchOutcome, estimated_tokens
from adapterdistill.serve.queue.fair_queue import QueueLimits


class Recorder:
    """An engine that answers with the query's text as the version, and waits while held."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Event()

    def search(self, items: Sequence[SearchItem]) -> list[SearchOutcome]:
        self.batches.append([item.text for item in items])
        self.started.set()
        assert self.gate.wait(10)
        return [SearchAnswer(item.tenant, "faq", item.text, (), False) for item in items]


def request(*texts: str) -> list[SearchItem]:
    return [SearchItem("acme", text) for text in texts]


def versions(outcomes: list[SearchOutcome]) -> list[str]:
    return [outcome.version for outcome in outcomes if isinstance(outcome, SearchAnswer)]


def test_requests_that_come_during_a_batch_form_the_next_one() -> None:
    async def scenario() -> None:
        engine = Recorder()
        batcher = Batcher(engine.search, QueueLimits(max_batch_tokens=8))
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
        batcher = Batcher(engine.search, QueueLimits(max_batch_tokens=8), max_wait_ms=5)
        requests = [request(*"abc"), request(*"de"), request(*"fghijk"), request("l")]
        outcomes = await asyncio.gather(*(batcher.submit(r) for r in requests))
        assert [versions(o) for o in outcomes] == [[*"abc"], [*"de"], [*"fghijk"], ["l"]]
        assert engine.batches == [[*"abc"], [*"de"], [*"fghijk"], ["l"]]
        batcher.close()

    asyncio.run(scenario())


def test_a_full_queue_refuses_and_recovers() -> None:
    async def scenario() -> None:
        engine = Recorder()
        batcher = Batcher(engine.search, QueueLimits(max_batch_tokens=2, max_queued=2))
        engine.gate.clear()
        running = asyncio.create_task(batcher.submit(request("a")))
        await asyncio.to_thread(engine.started.wait, 10)
        waiting = asyncio.create_task(batcher.submit(request("b", "c")))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError) as refused:
            await batcher.submit(request("d"))
        assert refused.value.retry_after_s == 1
        engine.gate.set()
        await asyncio.gather(running, waiting)
        assert versions(await batcher.submit(request("e"))) == ["e"]
        batcher.close()

    asyncio.run(scenario())


def test_who_has_gone_is_not_computed_for() -> None:
    async def scenario() -> None:
        engine = Recorder()
        batcher = Batcher(engine.search, QueueLimits())
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
    def search(items: Sequence[SearchItem]) -> list[SearchOutcome]:
        if items[0].text == "bad":
            raise RuntimeError("engine failed")
        return [SearchAnswer(item.tenant, "faq", item.text, (), False) for item in items]

    async def scenario() -> None:
        batcher = Batcher(search, QueueLimits(max_batch_tokens=2))
        bad, good = (asyncio.create_task(batcher.submit(request(t))) for t in ("bad", "good"))
        with pytest.raises(RuntimeError):
            await bad
        assert versions(await good) == ["good"]
        batcher.close()

    asyncio.run(scenario())


def test_who_waits_for_too_long_is_given_up_and_not_computed() -> None:
    async def scenario() -> None:
        engine = Recorder()
        batcher = Batcher(engine.search, QueueLimits(), request_timeout_s=0.05)
        engine.gate.clear()
        running = asyncio.create_task(batcher.submit(request("a")))
        await asyncio.to_thread(engine.started.wait, 10)
        with pytest.raises(DeadlineExceededError, match=r"0\.05 s"):
            await batcher.submit(request("b"))
        assert batcher.num_queued == 0
        engine.gate.set()
        assert versions(await running) == ["a"]  # begun in time, so answered, however late
        assert versions(await batcher.submit(request("c"))) == ["c"]
        assert engine.batches == [["a"], ["c"]]
        batcher.close()

    asyncio.run(scenario())


def test_a_tenant_with_too_many_queries_is_told_so_after_a_while() -> None:
    async def scenario() -> None:
        engine = Recorder()
        limits = QueueLimits(max_queued=3, max_queued_of_tenant=1)
        batcher = Batcher(engine.search, limits, refuse_after_s=0.2)
        engine.gate.clear()
        running = asyncio.create_task(batcher.submit(request("a")))
        await asyncio.to_thread(engine.started.wait, 10)
        waiting = asyncio.create_task(batcher.submit(request("b")))
        await asyncio.sleep(0)
        began = time.monotonic()
        held_back = [asyncio.create_task(batcher.submit(request("c"))) for _ in range(4)]
        done, pending = await asyncio.wait(held_back, return_when=asyncio.FIRST_COMPLETED)
        # So many are held back as may wait in all; one more is told at once.
        assert isinstance(done.pop().exception(), OverloadedError) and len(pending) == 3
        for late in pending:
            with pytest.raises(OverloadedError, match="of this tenant"):
                await late
            assert time.monotonic() - began >= 0.1
        with pytest.raises(OverloadedError, match="too many queries are waiting"):
            await batcher.submit(request("d", "e", "f"))
        engine.gate.set()
        assert versions(await running) + versions(await waiting) == ["a", "b"]
        batcher.close()

    asyncio.run(scenario())


def test_what_was_waited_for_a_load_counts_towards_a_requests_time() -> None:
    async def scenario() -> None:
        engine = Recorder()
        batcher = Batcher(engine.search, QueueLimits(), request_timeout_s=3600)
        engine.gate.clear()
        running = asyncio.create_task(batcher.submit(request("a")))
        await asyncio.to_thread(engine.started.wait, 10)
        with pytest.raises(DeadlineExceededError):
            await batcher.submit(request("b"), waited_s=3600)
        engine.gate.set()
        await running
        batcher.close()

    asyncio.run(scenario())


def test_who_is_given_up_keeps_nothing_in_memory() -> None:
    """Otherwise the tenant that its items hold could not be evicted."""

    async def scenario() -> None:
        engine = Recorder()
        batcher = Batcher(engine.search, QueueLimits(), request_timeout_s=0.01)
        engine.gate.clear()
        running = asyncio.create_task(batcher.submit(request("a")))
        await asyncio.to_thread(engine.started.wait, 10)
        items = list(request("b"))
        kept = weakref.ref(items[0])
        gc.disable()
        try:
            with pytest.raises(DeadlineExceededError) as raised:
                await batcher.submit(items)
            del items, raised
            await asyncio.sleep(0)  # the loop lets go of what woke this
            assert kept() is None
        finally:
            gc.enable()
        engine.gate.set()
        await running
        batcher.close()

    asyncio.run(scenario())


def test_who_is_refused_is_told_when_the_queue_will_have_been_served() -> None:
    def search(items: Sequence[SearchItem]) -> list[SearchOutcome]:
        time.sleep(0.05 * len(items))
        return [SearchAnswer(item.tenant, "faq", item.text, (), False) for item in items]

    async def scenario() -> None:
        batcher = Batcher(search, QueueLimits(max_batch_tokens=2, max_queued=60))
        await batcher.submit(request("a"))
        waiting = asyncio.create_task(batcher.submit(request(*"b" * 60)))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError) as refused:
            await batcher.submit(request("c"))
        # 60 queries at 50 ms each, and more where the machine is busy.
        assert 2.9 < (refused.value.retry_after_s or 0) < 30
        waiting.cancel()
        await asyncio.wait([waiting])
        batcher.close()

    asyncio.run(scenario())


def test_a_draining_batcher_answers_what_waits_and_refuses_what_comes() -> None:
    async def scenario() -> None:
        engine = Recorder()
        batcher = Batcher(engine.search, QueueLimits(max_batch_tokens=2))
        engine.gate.clear()
        taken = [asyncio.create_task(batcher.submit(request(text))) for text in "abc"]
        await asyncio.to_thread(engine.started.wait, 10)
        drained = asyncio.create_task(batcher.drain())
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="is stopping"):
            await batcher.submit(request("d"))
        assert not drained.done()
        engine.gate.set()
        await drained
        assert [versions(outcomes) for outcomes in await asyncio.gather(*taken)] == [
            *map(list, "abc")
        ]
        batcher.close()

    asyncio.run(scenario())


def test_an_idle_batcher_drains_at_once() -> None:
    batcher = Batcher(Recorder().search, QueueLimits())
    asyncio.run(batcher.drain())
    batcher.close()


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("hi", 2), ("where is my parcel?", 6), ("\u6c34" * 8, 8), ("x" * 2000, 128)],
)
def test_tokens_are_estimated_from_bytes_up_to_the_encoder_s_limit(text: str, tokens: int) -> None:
    assert estimated_tokens(text, 128) == tokens


def test_an_error_of_one_request_answers_no_other() -> None:
    """The engine fails on a whole batch where one text breaks it; the others get their answers."""
    batches: list[list[str]] = []

    def search(items: Sequence[SearchItem]) -> list[SearchOutcome]:
        batches.append([item.text for item in items])
        if "bad" in batches[-1]:
            raise IndexError("a token beyond the embedding rows")
        return [SearchAnswer(item.tenant, "faq", item.text, (), False) for item in items]

    async def scenario() -> None:
        batcher = Batcher(search, QueueLimits(max_batch_tokens=512), max_wait_ms=5)
        requests = [request("a"), request("b", "bad"), request("c", "d")]
        first, broken, last = await asyncio.gather(
            *(batcher.submit(one) for one in requests), return_exceptions=True
        )
        assert isinstance(broken, IndexError)
        assert not isinstance(first, BaseException) and versions(first) == ["a"]
        assert not isinstance(last, BaseException) and versions(last) == ["c", "d"]
        assert batches == [["a", "b", "bad", "c", "d"], ["a"], ["b", "bad"], ["c", "d"]]
        assert versions(await batcher.submit(request("e"))) == ["e"]
        batcher.close()

    asyncio.run(scenario())
