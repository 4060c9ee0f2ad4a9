"""Requests at a steady rate while a replica is killed: what fails, and for how long."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from adapterdistill.drills.drill import Outcome, reported
from adapterdistill.drills.endpoint.report import kill_sections
from adapterdistill.testbed.answers import Answers, Question, draw_questions
from adapterdistill.testbed.encoder_options import EncoderOptions
from adapterdistill.testbed.endpoint import MAX_TOKENS, Endpoint, endpoint_in
from adapterdistill.testbed.faq_banks import Bank
from adapterdistill.testbed.http_load import ClientPool, percentiles, scrape
from adapterdistill.testbed.open_loop import send_on_time
from adapterdistill.testbed.random_adapters import STRENGTH
from adapterdistill.testbed.reporting import Part
from adapterdistill.testbed.tiny_encoder import make_tiny_encoder

RATE_PER_S = 50
REPLICAS = 2
_TENANTS = 4
_LONGEST_WAIT_BEFORE_S = 2.0
_RETRY_FOR_S = 30.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.05, 1.0


def measure_kill(
    address: str,
    banks: Sequence[Bank],
    answers: Answers,
    kill: Callable[[], None],
    *,
    replicas: int,
    seconds: float,
) -> dict[str, Any]:
    """Kill one replica after a quarter of `seconds`; a request that fails is asked again."""
    questions = draw_questions(banks, int(RATE_PER_S * seconds), random.Random(10))
    caller = _Caller(address, answers)

    async def kill_and_wait() -> float:
        await asyncio.sleep(seconds / 4)
        await asyncio.to_thread(kill)
        return await _until_a_new_one(address, before)

    async def run() -> float:
        recovered_s, _ = await asyncio.gather(
            kill_and_wait(),
            send_on_time(
                ((place / RATE_PER_S, one) for place, one in enumerate(questions)), caller.ask
            ),
        )
        caller.pool.close()
        return recovered_s

    before: set[str] = set()
    while len(before) < replicas:
        before |= {asyncio.run(_replica(address))} - {""}
    recovered_s = asyncio.run(run())
    return {
        "requests": len(questions),
        "requests_per_s": RATE_PER_S,
        "replicas": replicas,
        "failed_attempts": dict(sorted(caller.failed.items())),
        "failed_after_retries": caller.given_up,
        "wrong": caller.wrong[:50],
        "seconds_until_full_service": round(recovered_s, 2),
        "slowest_s": round(max(caller.seconds), 3),
        **percentiles(caller.seconds),
    }


def kill_part(endpoint: Endpoint, seconds: float, wait_s: float = 0.0) -> Part:
    """Ask two replicas for `seconds` and kill one, `wait_s` after the first quarter."""

    def measure() -> dict[str, Any]:
        with endpoint.start(haproxy=True, replicas=REPLICAS) as server:

            def kill() -> None:
                time.sleep(wait_s)
                server.kill_a_replica()

            return measure_kill(
                server.address,
                endpoint.banks,
                endpoint.answers,
                kill,
                replicas=REPLICAS,
                seconds=seconds,
            )

    return Part("kill", measure, kill_sections, kill_faults)


def kill_faults(found: Mapping[str, Any]) -> Iterator[str]:
    kill = found["kill"]
    yield from (f"a wrong answer: it {fault}" for fault in kill["wrong"])
    if kill["failed_after_retries"]:
        yield f"{kill['failed_after_retries']} queries failed for good"


def kill_serve_replica(folder: Path, draw: random.Random, *, seconds: float) -> Outcome:
    """Kill one of two replicas with kill -9; clients ask again where a connection breaks."""
    name = str(make_tiny_encoder(folder / "encoder"))
    encoder = EncoderOptions(name, "float32", max_tokens=MAX_TOKENS)
    # Stronger than elsewhere, so that adapters differ on the tiny encoder too.
    endpoint = endpoint_in(
        folder, None, _TENANTS, encoder, threads=torch.get_num_threads(), strength=10 * STRENGTH
    )
    part = kill_part(endpoint, seconds, draw.uniform(0, _LONGEST_WAIT_BEFORE_S))
    found, outcome = reported(folder, "A replica killed", part)
    return replace(outcome, recovery_s=found["seconds_until_full_service"])


class _Caller:
    """Asks again where an attempt fails."""

    def __init__(self, address: str, answers: Answers) -> None:
        self.pool, self._answers = ClientPool(address), answers
        self.failed: Counter[str] = Counter()
        self.given_up = 0
        self.wrong: list[str] = []
        self.seconds: list[float] = []

    async def ask(self, question: Question, due: float) -> None:
        wait_s = _FIRST_WAIT_S
        while time.perf_counter() - due < _RETRY_FOR_S:
            try:
                reply = await self.pool.ask(question.http)
            except OSError as error:
                self.failed[type(error).__name__] += 1
            else:
                if reply.status == 200:
                    self.seconds.append(time.perf_counter() - due)
                    if fault := self._answers.fault(question, reply.body):
                        self.wrong.append(fault)
                    return
                self.failed[f"status {reply.status}"] += 1
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
        self.given_up += 1


async def _until_a_new_one(address: str, before: set[str]) -> float:
    """Seconds until a replica answers that was not there before."""
    began = time.perf_counter()
    while time.perf_counter() - began < 120:
        if await _replica(address) not in before | {""}:
            return time.perf_counter() - began
        await asyncio.sleep(0.05)
    raise AssertionError("no replica replaced the killed one within 120 s")


async def _replica(address: str) -> str:
    """The name of the replica that answers; "" if none does."""
    try:
        return (await scrape(address))[0]
    except OSError:
        return ""
