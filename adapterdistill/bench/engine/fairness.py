"""The effect of one tenant's flood on the others: their p95 with it over their p95 without it.

Queries arrive at times drawn beforehand, whether earlier ones are answered or not, through the
same `Batcher` that a replica has: all of serving but HTTP.
"""

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from adapterdistill.bench.engine.sides import queries_per_s, query_of
from adapterdistill.errors import OverloadedError
from adapterdistill.serve.engine.engine import Engine, SearchItem
from adapterdistill.serve.queue.batcher import Batcher
from adapterdistill.serve.queue.fair_queue import QueueLimits
from adapterdistill.testbed.faq_banks import Bank
from adapterdistill.testbed.open_loop import arrivals, send_on_time
from adapterdistill.testbed.progress import phase

OTHERS = 9
OTHERS_LOAD = 0.15
"""The others' share of what the engine can do. The flood sends nine times as much, so that together
they ask for one and a half times as much as the engine can do."""


@dataclass
class Trace:
    """Outcomes of the queries of one round."""

    seconds: list[float] = field(default_factory=list)
    """Seconds of the others' answers."""
    others_refused: int = 0
    flood_sent: int = 0
    flood_answered: int = 0

    @property
    def p95_s(self) -> float:
        return statistics.quantiles(self.seconds, n=20)[-1]


def measure_fairness(
    engine: Engine, banks: Sequence[Bank], *, rounds: int, seconds: float
) -> dict[str, Any]:
    """Rounds of `seconds`, each once without the flood and once with it."""
    per_s = queries_per_s(engine, banks)
    draw = random.Random(5)
    traces: dict[bool, list[Trace]] = {False: [], True: []}
    with phase("a flood and none", 2 * rounds) as done:
        for _ in range(rounds):
            for flood in draw.sample([False, True], 2):
                sent = _arrivals(banks, OTHERS_LOAD * per_s, flood, seconds, draw)
                traces[flood].append(asyncio.run(_send(engine, banks[0].tenant, sent)))
                done()
    calm, flooded = traces[False], traces[True]
    ratios = [f.p95_s / c.p95_s for f, c in zip(flooded, calm, strict=True)]
    return {
        "engine_queries_per_s": round(per_s, 1),
        "others_queries_per_s": round(OTHERS_LOAD * per_s, 1),
        "flood_queries_per_s": round(sum(t.flood_sent for t in flooded) / rounds / seconds, 1),
        "flood_answered_per_s": round(sum(t.flood_answered for t in flooded) / rounds / seconds, 1),
        "others_refused": sum(t.others_refused for t in [*calm, *flooded]),
        "others_p95_ms": round(1000 * statistics.median(t.p95_s for t in calm), 2),
        "others_p95_ms_in_flood": round(1000 * statistics.median(t.p95_s for t in flooded), 2),
        "times": round(statistics.median(ratios), 3),
    }


def _arrivals(
    banks: Sequence[Bank], others_per_s: float, flood: bool, seconds: float, draw: random.Random
) -> list[tuple[float, SearchItem]]:
    """(second, query) in order; the first bank's tenant is the one that floods."""
    others = banks[1 : 1 + OTHERS]
    rates = [(bank, others_per_s / len(others)) for bank in others]
    if flood:
        rates.append((banks[0], 9 * others_per_s))
    makers = [(partial(query_of, bank, draw), rate) for bank, rate in rates]
    return arrivals(makers, seconds, draw)


async def _send(engine: Engine, flooding: str, sent: Sequence[tuple[float, SearchItem]]) -> Trace:
    batcher, trace = Batcher(engine.search, QueueLimits()), Trace()

    async def ask(item: SearchItem, due: float) -> None:
        trace.flood_sent += item.tenant == flooding
        try:
            await batcher.submit([item])
        except OverloadedError:
            trace.others_refused += item.tenant != flooding
            return
        if item.tenant == flooding:
            trace.flood_answered += 1
        else:
            trace.seconds.append(time.perf_counter() - due)

    await send_on_time(sent, ask)
    batcher.close()
    return trace
