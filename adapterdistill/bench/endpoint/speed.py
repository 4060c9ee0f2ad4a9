"""Throughput and latency over HTTP beside the engine's own, and where a request's time goes."""

import asyncio
import gc
import random
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from adapterdistill.serve.engine.engine import Engine, SearchItem
from adapterdistill.testbed.answers import Answers, Question, draw_questions
from adapterdistill.testbed.faq_banks import Bank
from adapterdistill.testbed.http_load import Reply, load, milliseconds, percentiles, scrape_all

SINGLE, MANY = 1, 32
"""Queries a request."""
_LOADS = ((SINGLE, 1), (SINGLE, 8), (SINGLE, 64), (MANY, 1), (MANY, 8))
"""(queries a request, clients)"""
_MOST_PER_S = 20_000  # requests; more than any server here answers
_SUMS = re.compile(
    rb"^adapterdistill_(batch_seconds|batch_queries|request_seconds)_(sum|count)"
    rb"\{.*?\} (\S+)",
    re.M,
)


def measure_speed(
    address: str,
    engine: Engine,
    banks: Sequence[Bank],
    answers: Answers,
    *,
    rounds: int,
    seconds: float,
    cpu_s: Callable[[], Mapping[str, float]] = dict,
    replicas: int = 1,
) -> dict[str, Any]:
    """Rounds in which the engine alone and each load have `seconds` in turn.

    Args:
        cpu_s: processor seconds that the server has spent, by part.
    """
    draw = random.Random(6)
    alone: dict[int, list[float]] = {SINGLE: [], MANY: []}
    runs = {one: _Run(replicas) for one in _LOADS}
    gc.collect()
    gc.freeze()  # no collection of earlier objects while requests are timed
    try:
        for number in range(rounds + 1):  # the first warms up
            for queries, taken in alone.items():
                found = _engine_alone(
                    engine, draw_questions(banks, 500, draw, texts=queries), seconds
                )
                taken += found if number else []
            for (queries, num_clients), run in runs.items():
                questions = draw_questions(banks, int(_MOST_PER_S * seconds), draw, texts=queries)
                run.add(address, questions, num_clients, seconds if number else 0.3, answers, cpu_s)
                if not number:
                    run.clear()
    finally:
        gc.unfreeze()
    return {
        "engine": [
            {
                "queries": queries,
                "calls_per_s": round(1 / statistics.median(taken), 1),
                **percentiles(taken),
            }
            for queries, taken in alone.items()
        ],
        "loads": [
            {"queries": queries, "clients": num_clients, **run.figures()}
            for (queries, num_clients), run in runs.items()
        ],
        "wrong": [fault for run in runs.values() for fault in run.wrong][:50],
        "failed": sum(run.failed for run in runs.values()),
    }


def measure_generator(
    address: str, banks: Sequence[Bank], *, seconds: float
) -> list[dict[str, Any]]:
    """The same load on a handler that does nothing: what the generator and sockets cost alone."""
    questions = draw_questions(banks, int(_MOST_PER_S * seconds), random.Random(7))
    requests, found = [question.http for question in questions], []
    for num_clients in (1, 64):
        worked = time.process_time()
        replies, took = asyncio.run(
            load(address, requests, num_clients=num_clients, seconds=seconds)
        )
        found.append(
            {
                "clients": num_clients,
                "requests_per_s": round(len(replies) / took, 1),
                "generator_ms_per_request": milliseconds(
                    (time.process_time() - worked) / len(replies)
                ),
                **percentiles([reply.seconds for _, reply in replies]),
            }
        )
    return found


class _Run:
    """One load's figures over the rounds."""

    def __init__(self, replicas: int) -> None:
        self._replicas = replicas
        self.clear()

    def clear(self) -> None:
        self.seconds: list[float] = []
        self.per_s: list[float] = []
        self.wrong: list[str] = []
        self.failed = 0
        self.spent: dict[str, float] = defaultdict(float)
        self.counted: dict[str, float] = defaultdict(float)

    def add(
        self,
        address: str,
        questions: Sequence[Question],
        num_clients: int,
        seconds: float,
        answers: Answers,
        cpu_s: Callable[[], Mapping[str, float]],
    ) -> None:
        requests = [question.http for question in questions]
        counted, spent, worked = (
            asyncio.run(_sums(address, self._replicas)),
            cpu_s(),
            time.process_time(),
        )
        replies, took = asyncio.run(
            load(address, requests, num_clients=num_clients, seconds=seconds)
        )
        self.spent["load generator"] += time.process_time() - worked
        for part, value in cpu_s().items():
            self.spent[part] += value - spent.get(part, 0)
        for name, value in asyncio.run(_sums(address, self._replicas)).items():
            self.counted[name] += value - counted.get(name, 0)
        self.per_s.append(len(replies) / took)
        for place, reply in replies:
            self.seconds.append(reply.seconds)
            self._check(questions[place], reply, answers)

    def _check(self, question: Question, reply: Reply, answers: Answers) -> None:
        if reply.status != 200:
            self.failed += 1
        elif fault := answers.fault(question, reply.body):
            self.wrong.append(fault)

    def figures(self) -> dict[str, Any]:
        total, counted = len(self.seconds), self.counted
        batches = max(1.0, counted["batch_seconds_count"])
        took = sum(total / len(self.per_s) / per_s for per_s in self.per_s)
        return {
            "requests": total,
            "requests_per_s": round(statistics.median(self.per_s), 1),
            **percentiles(self.seconds),
            "in_replica_ms": milliseconds(
                counted["request_seconds_sum"] / max(1.0, counted["request_seconds_count"])
            ),
            "engine_batch_ms": milliseconds(counted["batch_seconds_sum"] / batches),
            "queries_in_a_batch": round(counted["batch_queries_sum"] / batches, 1),
            "engine_busy": round(counted["batch_seconds_sum"] / took / self._replicas, 3),
            "processor_ms_per_request": {
                part: milliseconds(spent / total) for part, spent in sorted(self.spent.items())
            },
        }


def _engine_alone(engine: Engine, questions: Sequence[Question], seconds: float) -> list[float]:
    taken: list[float] = []
    until = time.perf_counter() + seconds
    for question in questions:
        items = [SearchItem(question.tenant, text) for text in question.texts]
        began = time.perf_counter()
        engine.search(items)
        ended = time.perf_counter()
        taken.append(ended - began)
        if ended > until:
            break
    return taken


async def _sums(address: str, replicas: int) -> dict[str, float]:
    """Sum the counters of all replicas."""
    total: dict[str, float] = defaultdict(float)
    for body in await scrape_all(address, replicas):
        for m in _SUMS.finditer(body):
            total[f"{m[1].decode()}_{m[2].decode()}"] += float(m[3])
    return total
