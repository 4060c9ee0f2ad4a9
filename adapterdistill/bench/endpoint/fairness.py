"""One tenant's flood over HTTP: the others' p95 with it over that without, side by side.

Requests leave at times drawn beforehand, whether earlier ones are answered or not, and their time
counts from then. The generator is another process than the server, on the same machine.
"""

import asyncio
import math
import random
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from adapterdistill.testbed.answers import Question, draw_questions
from adapterdistill.testbed.faq_banks import Bank
from adapterdistill.testbed.http_load import ClientPool, load, percentiles
from adapterdistill.testbed.open_loop import arrivals, send_on_time
from adapterdistill.testbed.progress import phase

OTHERS = 9
LOADS = (0.05, 0.15, 0.3)
"""Requests that the others send together, as shares of the most that the server answers."""
FLOOD_TIMES = 9
"""The flood sends so many times as much as all others together: nine tenths of all requests."""
MOST_TIMES = 2.0
FLOOD_CONNECTIONS = 1024
"""Connections of the flood. While all of them wait, no further request of the flood is sent."""
_CLOSED, _UNSENT = "no answer", "not sent"


@dataclass
class Trace:
    """Outcomes of the requests of one round."""

    others_s: list[float] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    """Answers by status."""
    flood: Counter[str] = field(default_factory=Counter)
    late_s: list[float] = field(default_factory=list)
    """Delays of the generator: seconds between the time when a request was due and when it left."""

    @property
    def p95_ms(self) -> float:
        return _percentiles([self])["p95_ms"]


def measure_capacity(address: str, banks: Sequence[Bank], *, seconds: float) -> float:
    """The rate of requests that the server answers to 64 clients, each asking again at once."""
    questions = draw_questions(banks, round(20_000 * seconds), random.Random(12))
    requests = [question.http for question in questions]
    answered, took = asyncio.run(load(address, requests, num_clients=64, seconds=seconds))
    return len(answered) / took


def measure_fairness(
    address: str, banks: Sequence[Bank], *, capacity_per_s: float, rounds: int, seconds: float
) -> dict[str, Any]:
    """Rounds in which every load has `seconds` without the flood and with it, in random order."""
    draw, some = random.Random(11), banks[: 1 + OTHERS]
    runs = [(share, flood) for share in LOADS for flood in (False, True)]
    traces: dict[tuple[float, bool], list[Trace]] = {run: [] for run in runs}
    with phase("a flood and none, over HTTP", rounds * len(runs)) as done:
        for _ in range(rounds):
            for share, flood in draw.sample(runs, len(runs)):
                sent = _arrivals(some, share * capacity_per_s, flood, seconds, draw)
                traces[share, flood].append(asyncio.run(_send(address, some[0].tenant, sent)))
                done()
    return {
        "capacity_per_s": round(capacity_per_s, 1),
        "rounds": rounds,
        "seconds": seconds,
        "loads": [
            _figures(share, traces[share, False], traces[share, True], rounds * seconds)
            for share in LOADS
        ],
    }


def _figures(
    share: float, calm: Sequence[Trace], flooded: Sequence[Trace], seconds: float
) -> dict[str, Any]:
    times = [f.p95_ms / c.p95_ms for f, c in zip(flooded, calm, strict=True)]
    others = sum((trace.others for trace in (*calm, *flooded)), Counter[str]())
    flood = sum((trace.flood for trace in flooded), Counter[str]())
    return {
        "others_share": share,
        "others_per_s": round(sum(t.others.total() for t in flooded) / seconds, 1),
        "flood_per_s": round(flood.total() / seconds, 1),
        "flood_answered_per_s": round(flood["200"] / seconds, 1),
        "flood": dict(sorted(flood.items())),
        "others_failed": {status: n for status, n in sorted(others.items()) if status != "200"},
        "alone": _percentiles(calm),
        "in_flood": _percentiles(flooded),
        "late": percentiles([s for trace in flooded for s in trace.late_s]),
        "times": round(statistics.median(times), 3),
        "times_by_round": [round(one, 2) for one in times],
    }


def _percentiles(traces: Sequence[Trace]) -> dict[str, float]:
    """Percentiles of the others' answers; infinite where there is none."""
    return percentiles([s for trace in traces for s in trace.others_s] or [math.inf])


def _arrivals(
    banks: Sequence[Bank], others_per_s: float, flood: bool, seconds: float, draw: random.Random
) -> list[tuple[float, Question]]:
    """(second, request) in order; the first bank's tenant is the one that floods."""
    rates = [(bank, others_per_s / len(banks[1:])) for bank in banks[1:]]
    if flood:
        rates.append((banks[0], FLOOD_TIMES * others_per_s))

    def make(bank: Bank) -> Question:
        return draw_questions([bank], 1, draw)[0]

    return arrivals([(partial(make, bank), rate) for bank, rate in rates], seconds, draw)


async def _send(address: str, flooding: str, sent: Sequence[tuple[float, Question]]) -> Trace:
    trace, others, flood = Trace(), ClientPool(address), ClientPool(address)

    async def ask(asked: tuple[Question, bytes], due: float) -> None:
        question, request = asked
        trace.late_s.append(time.perf_counter() - due)
        floods = question.tenant == flooding
        if floods and flood.busy == FLOOD_CONNECTIONS:
            trace.flood[_UNSENT] += 1
            return
        try:
            status = str((await (flood if floods else others).ask(request)).status)
        except OSError:
            status = _CLOSED
        if floods:
            trace.flood[status] += 1
            return
        trace.others[status] += 1
        if status == "200":
            trace.others_s.append(time.perf_counter() - due)

    await send_on_time([(at, (question, question.http)) for at, question in sent], ask)
    others.close()
    flood.close()
    return trace
