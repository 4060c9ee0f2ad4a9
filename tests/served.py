"""An engine behind a batcher and a searcher, without HTTP, whose batches a test can hold back."""

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass

from adapterdistill.serve.engine.engine import Engine
from adapterdistill.serve.engine.items import SearchItem
from adapterdistill.serve.queue.batcher import Batcher, SearchOutcome
from adapterdistill.serve.queue.fair_queue import QueueLimits
from adapterdistill.serve.queue.searching import Searcher


@dataclass
class Served:
    """A tenant with a candidate, without HTTP. `gate` holds batches back while it is closed."""

    engine: Engine
    gate: threading.Event
    batches: list[int]

    def run(
        self,
        scenario: Callable[[Searcher, Batcher], Coroutine[None, None, None]],
        draw: Callable[[], float] | None = None,
    ) -> None:
        async def running() -> None:
            batcher = Batcher(self._search, QueueLimits())
            drawn = draw or random.Random(7).random
            await scenario(Searcher(self.engine, batcher, draw=drawn), batcher)
            await batcher.drain()
            batcher.close()

        asyncio.run(running())

    def _search(self, items: Sequence[SearchItem]) -> list[SearchOutcome]:
        self.batches.append(len(items))
        assert self.gate.wait(30)
        return list(self.engine.search(items))


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not happened():
            await asyncio.sleep(0.001)
