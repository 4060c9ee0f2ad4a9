"""Gathers concurrent requests into batches for one engine thread.

The next batch gathers while the engine works on one: under load batches grow by themselves, and an
idle server answers at once. A request is never split, so all of its answers come from one snapshot
of the engine, and so from one adapter version.

Everything but the engine's work happens on one event loop, so nothing here needs a lock.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from adapterdistill.errors import DeadlineExceededError, OverloadedError
from adapterdistill.serve.engine.items import ClassifyItem, SearchItem
from adapterdistill.serve.engine.items import SearchOutcome as SearchOutcome
from adapterdistill.serve.queue.fair_queue import FairQueue, QueueLimits, Request
from adapterdistill.serve.queue.request_context import Stages

_BYTES_PER_TOKEN = 4
_FORGOTTEN_PER_BATCH = 0.1


@dataclass(eq=False)
class _Waiting(Request):
    items: Sequence[SearchItem]
    outcomes: asyncio.Future[list[Any]]
    stages: Stages | None


class Batcher:
    """Runs `search` on batches of requests, one batch at a time, off the event loop.

    max_query_tokens: length at which the encoder cuts a query.
    max_wait_ms: how long an idle engine waits for more requests; 0: it takes only those that wait.
    request_timeout_s: a request that has waited for so long is given up without being computed.
    refuse_after_s: mean delay before a tenant whose part of the queue is full is refused. Without
        it, a flood over many connections would be refused as fast as the event loop can, and
        everyone's requests wait for that loop.
    Belongs to one event loop.
    """

    def __init__(
        self,
        search: Callable[[Sequence[SearchItem]], list[Any]],
        limits: QueueLimits,
        *,
        max_query_tokens: int = 128,
        max_wait_ms: float = 0,
        request_timeout_s: float = 10,
        refuse_after_s: float = 2,
    ) -> None:
        self._search = search
        self._limits = limits
        self._max_query_tokens = max_query_tokens
        self._max_wait_s = max_wait_ms / 1000
        self.request_timeout_s = request_timeout_s
        self._refuse_after_s = refuse_after_s
        self._held_back = 0
        self._queue: FairQueue[_Waiting] = FairQueue(limits, time.monotonic)
        self._batches: asyncio.Task[None] | None = None
        self._engine_thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._rate = _Rate()
        self._draining = False

    @property
    def num_queued(self) -> int:
        """Queries that wait for a batch."""
        return self._queue.queries

    @property
    def draining(self) -> bool:
        """Whether new requests are refused because the replica stops."""
        return self._draining

    async def submit(
        self,
        items: Sequence[SearchItem],
        *,
        waited_s: float = 0,
        turn: str = "",
        stages: Stages | None = None,
    ) -> list[Any]:
        """The outcomes of one request's items, as `search` gives them; all are of one tenant.

        waited_s: the part of `request_timeout_s` that the request has waited already.
        turn: the name under which it takes turns in the queue; "": the tenant's own.
        stages: filled in for a request that is traced.

        Raises:
            OverloadedError: the queue has no room for the request, or the replica stops.
            DeadlineExceededError: it waited for too long.
        """
        if self._draining:
            raise OverloadedError("this replica is stopping: try again", retry_after_s=1)
        loop = asyncio.get_running_loop()
        tokens = sum(_estimated(item, self._max_query_tokens) for item in items)
        held = items[0].held
        waiting = _Waiting(
            turn or items[0].tenant,
            tokens,
            len(items),
            items,
            loop.create_future(),
            stages,
            encoder=held and held.bank,
        )
        del held
        try:
            self._queue.add(waiting)
        except OverloadedError as error:
            error.retry_after_s = self._retry_after_s()
            if self._queue.queries + len(items) <= self._limits.max_queued:
                await self._hold_back()
            raise
        giving_up = loop.call_later(self.request_timeout_s - waited_s, self._give_up, waiting)
        if self._batches is None or self._batches.done():
            self._batches = loop.create_task(self._run_batches())
        try:
            return await waiting.outcomes
        finally:
            giving_up.cancel()
            self._queue.remove(waiting)  # the client may have disconnected
            # An error would keep this frame, and so itself and the tenant, until garbage
            # collection.
            del waiting

    async def drain(self) -> None:
        """Refuse new requests, and return when all waiting ones are answered."""
        self._draining = True
        if self._batches is not None:
            await asyncio.wait([self._batches])

    def close(self) -> None:
        """Refuse new requests and let the engine thread end; waiting requests are not answered."""
        self._draining = True
        self._engine_thread.shutdown(wait=False, cancel_futures=True)

    async def _hold_back(self) -> None:
        if self._held_back >= self._limits.max_queued:
            return
        self._held_back += 1
        try:  # different delays: otherwise the clients would return as one wave
            await asyncio.sleep(self._refuse_after_s * random.uniform(0.5, 1.5))
        finally:
            self._held_back -= 1

    def _give_up(self, waiting: _Waiting) -> None:
        if self._queue.remove(waiting) and not waiting.outcomes.done():
            waiting.outcomes.set_exception(
                DeadlineExceededError(
                    f"the request waited for {self.request_timeout_s:g} s and was given up",
                    retry_after_s=self._retry_after_s(),
                )
            )

    def _retry_after_s(self) -> float:
        """Seconds until the waiting requests are served; at most the longest wait."""
        return min(max(1.0, self._rate.seconds_for(self._queue.tokens)), self.request_timeout_s)

    async def _run_batches(self) -> None:
        if self._queue.tokens < self._limits.max_batch_tokens:
            await asyncio.sleep(self._max_wait_s)
        loop = asyncio.get_running_loop()
        failed: deque[_Waiting] = deque()
        while batch := [failed.popleft()] if failed else self._queue.take():
            items = [item for waiting in batch for item in waiting.items]
            began = time.monotonic()
            try:
                outcomes = await loop.run_in_executor(self._engine_thread, self._search, items)
            except Exception as error:
                if len(batch) > 1:  # each again alone: one request's error answers no other
                    failed.extend(batch)
                elif not batch[0].outcomes.done():
                    batch[0].outcomes.set_exception(error)
                continue
            ended = time.monotonic()
            self._rate.add(sum(waiting.tokens for waiting in batch), ended - began)
            start = 0
            for waiting in batch:
                if waiting.stages is not None:
                    waiting.stages.batch_began_at, waiting.stages.batch_ended_at = began, ended
                    waiting.stages.num_tokens = waiting.tokens
                    waiting.stages.batch_queries = len(items)
                end = start + len(waiting.items)
                if not waiting.outcomes.done():  # otherwise the client has disconnected
                    waiting.outcomes.set_result(outcomes[start:end])
                start = end


class _Rate:
    """The engine's speed, mostly over its last ten batches."""

    def __init__(self) -> None:
        self._tokens = self._seconds = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        self._tokens += tokens - _FORGOTTEN_PER_BATCH * self._tokens
        self._seconds += seconds - _FORGOTTEN_PER_BATCH * self._seconds

    def seconds_for(self, tokens: int) -> float:
        """Expected seconds for these tokens; 0 before the first batch."""
        return tokens * self._seconds / self._tokens if self._tokens else 0.0


def _estimated(item: SearchItem, max_tokens: int) -> int:
    pair = item.text_pair if isinstance(item, ClassifyItem) else None
    tokens = estimated_tokens(item.text, max_tokens)
    return tokens if pair is None else tokens + estimated_tokens(pair, max_tokens)


def estimated_tokens(text: str, max_tokens: int) -> int:
    """Estimated tokens of a query, from its length in bytes.

    Tokenising one query takes 19 us of a core, on the event loop, against 14 us in a batch on the
    engine's thread, where the tokens are needed; this takes less than 1 us. English has 4 to 6
    bytes a token, Chinese 3; text of many digits and signs is underestimated.
    """
    return min(max_tokens, 2 + len(text.encode(errors="replace")) // _BYTES_PER_TOKEN)
