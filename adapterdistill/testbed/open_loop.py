"""Load that leaves at times drawn beforehand, whether earlier requests are answered or not."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def arrivals(
    rates: Iterable[tuple[Callable[[], T], float]], seconds: float, draw: random.Random
) -> list[tuple[float, T]]:
    """Draw (second, request) in order.

    Args:
        rates: makers of requests, with the mean number of requests a second of each.
    """
    sent = []
    for make, rate in rates:
        at = draw.expovariate(rate)
        while at < seconds:
            sent.append((at, make()))
            at += draw.expovariate(rate)
    return sorted(sent, key=lambda one: one[0])


async def send_on_time(
    sent: Iterable[tuple[float, T]], ask: Callable[[T, float], Awaitable[object]]
) -> None:
    """Call `ask` with each request and the time when it is due, by `time.perf_counter`."""
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for at, request in sent:
            early = began + at - time.perf_counter()
            if early > 0:
                await asyncio.sleep(early)
            group.create_task(_asked(ask, request, began + at))


async def _asked(ask: Callable[[T, float], Awaitable[object]], request: T, due: float) -> None:
    await ask(request, due)
