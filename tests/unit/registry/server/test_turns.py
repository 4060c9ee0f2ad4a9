"""Threads that work for callers in turns."""

import asyncio
import threading

import pytest

from adapterdistill.registry.server.turns import Turns, caller_name


async def _as(caller: str, turns: Turns, work: object) -> None:
    caller_name.set(caller)
    await turns.run(work)  # type: ignore[arg-type]


def test_a_caller_with_much_waiting_does_not_delay_another() -> None:
    done: list[str] = []
    began = threading.Event()

    async def run() -> None:
        turns = Turns(1, "test")
        first = asyncio.create_task(_as("many", turns, began.wait))
        await asyncio.sleep(0.05)
        many = [
            asyncio.create_task(_as("many", turns, lambda: done.append("many"))) for _ in range(50)
        ]
        await asyncio.sleep(0.05)
        one = asyncio.create_task(_as("one", turns, lambda: done.append("one")))
        await asyncio.sleep(0.05)
        began.set()
        await asyncio.gather(first, one, *many)
        turns.shutdown()

    asyncio.run(run())
    assert done.index("one") <= 1 and len(done) == 51


def test_results_and_errors_come_back_and_a_shutdown_ends_what_waits() -> None:
    async def run() -> None:
        turns = Turns(2, "test")
        assert await turns.run(lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            await turns.run(lambda: 1 // 0)
        ended: list[int] = []
        waiting = [asyncio.create_task(turns.run(lambda: ended.append(1))) for _ in range(20)]
        await asyncio.sleep(0)
        turns.shutdown()
        await asyncio.gather(*waiting)
        assert len(ended) == 20
        with pytest.raises(RuntimeError, match="after the shutdown"):
            await turns.run(lambda: 1)

    asyncio.run(run())
