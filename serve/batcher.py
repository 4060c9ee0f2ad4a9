"""Gathers concurrent requests into batches for one engine thread.

While the engine works on a batch, the next one gathers: under load batches grow by themselves, and
an idle server answers at once. A request is never split, so all of its answers come from one
snapshot of the engine, and so from one adapter version.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from adapterdistill.errors import OverloadedError
from serve.engine import NotLive, SearchAnswer, SearchItem

Outcome = SearchAnswer | NotLive


@dataclass(frozen=True, eq=False)
class _Waiting:
    items: Sequence[SearchItem]
    outcomes: asyncio.Future[list[Outcome]]


class Batcher:
    """Runs `search` on batches of requests, one batch at a time, off the event loop.

    max_batch: most items in a batch, unless one request alone has more.
    max_wait_ms: how long an idle engine waits for company; 0 = only for what is there already.
    max_queued: most items that may wait; a request that does not fit is refused.
    Belongs to one event loop.
    """

    def __init__(
        self,
        search: Callable[[Sequence[SearchItem]], list[Outcome]],
        *,
        max_batch: int,
        max_wait_ms: float,
        max_queued: int,
    ) -> None:
        self._search = search
        self._max_batch = max_batch
        self._max_wait_s = max_wait_ms / 1000
        self._max_queued = max_queued
        self._queue: deque[_Waiting] = deque()
        self._queued_items = 0
        self._draining: asyncio.Task[None] | None = None
        self._engine_thread = ThreadPoolExecutor(1, thread_name_prefix="engine")

    @property
    def num_queued(self) -> int:
        """Items that wait for a batch."""
        return self._queued_items

    async def submit(self, items: Sequence[SearchItem]) -> list[Outcome]:
        """The outcomes of one request's items, in order.

        Raises:
            OverloadedError: the queue has no room for the request.
        """
        if self._queued_items + len(items) > self._max_queued:
            raise OverloadedError("too many queries are waiting: try again later")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(items, loop.create_future())
        self._queue.append(waiting)
        self._queued_items += len(items)
        if self._draining is None or self._draining.done():
            self._draining = loop.create_task(self._drain())
        return await waiting.outcomes

    def close(self) -> None:
        """Let the engine thread end; requests that still wait are not answered."""
        self._engine_thread.shutdown(wait=False, cancel_futures=True)

    async def _drain(self) -> None:
        if self._queued_items < self._max_batch:
            await asyncio.sleep(self._max_wait_s)
        loop = asyncio.get_running_loop()
        while batch := self._take():
            items = [item for waiting in batch for item in waiting.items]
            try:
                outcomes = await loop.run_in_executor(self._engine_thread, self._search, items)
            except Exception as error:
                for waiting in batch:
                    if not waiting.outcomes.done():
                        waiting.outcomes.set_exception(error)
                continue
            start = 0
            for waiting in batch:
                end = start + len(waiting.items)
                if not waiting.outcomes.done():  # else its client has gone
                    waiting.outcomes.set_result(outcomes[start:end])
                start = end

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        room = self._max_batch
        while self._queue and (not batch or len(self._queue[0].items) <= room):
            waiting = self._queue.popleft()
            self._queued_items -= len(waiting.items)
            if not waiting.outcomes.done():
                batch.append(waiting)
                room -= len(waiting.items)
        return batch
