"""One tenant's flood, in simulated time: the queue itself, without HTTP and without an encoder."""

import random
import statistics
from dataclasses import dataclass

import pytest

from adapterdistill.errors import OverloadedError
from adapterdistill.serve.queue.fair_queue import FairQueue, QueueLimits, Request

OTHERS, FLOOD_TIMES, SECONDS, RUNS = 9, 9, 2.0, 20
BATCH_S, TOKEN_S = 0.0018, 0.00006  # of one core with bfloat16
CAPACITY_PER_S = 32 / (BATCH_S + TOKEN_S * 32 * 11)


@dataclass(eq=False)
class Asked(Request):
    at: float = 0


def arriving(draw: random.Random, share: float, *, flood: bool) -> list[Asked]:
    """Queries of the others, `share` of the capacity in all, and nine times as many of a flood."""
    rates = {f"other-{n}": share * CAPACITY_PER_S / OTHERS for n in range(OTHERS)}
    if flood:
        rates["flood"] = FLOOD_TIMES * share * CAPACITY_PER_S
    asked = []
    for tenant, rate in rates.items():
        at = draw.expovariate(rate)
        while at < SECONDS:
            tokens = max(4, round(draw.gauss(11, 4)))
            asked.append(Asked(tenant, tokens, 1, at=at))
            at += draw.expovariate(rate)
    return sorted(asked, key=lambda one: one.at)


def p95_s(draw: random.Random, share: float, *, flood: bool) -> float:
    """The 95th percentile of the others' times, none of whom may be refused."""
    now, seconds = 0.0, []
    queue: FairQueue[Asked] = FairQueue(QueueLimits(), lambda: now)
    coming = arriving(draw, share, flood=flood)[::-1]
    while coming or queue.queries:
        if not queue.queries:
            now = max(now, coming[-1].at)
        while coming and coming[-1].at <= now:
            one = coming.pop()
            try:
                queue.add(one)
            except OverloadedError:
                assert one.tenant == "flood"
        batch = queue.take()
        now += BATCH_S + TOKEN_S * sum(one.tokens for one in batch)
        seconds += [now - one.at for one in batch if one.tenant != "flood"]
    return statistics.quantiles(seconds, n=20)[-1]


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_flood_does_not_double_the_others_p95_in_any_of_20_runs(share: float) -> None:
    times = [
        p95_s(random.Random(run), share, flood=True)
        / p95_s(random.Random(RUNS + run), share, flood=False)
        for run in range(RUNS)
    ]
    assert max(times) <= 2
