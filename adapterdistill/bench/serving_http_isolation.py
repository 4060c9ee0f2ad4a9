"""Mixed requests at once, each answer checked, while bundles are swapped and a tenant goes."""

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapterdistill.bench.progress import phase
from adapterdistill.bench.serving_banks import Bank
from adapterdistill.bench.serving_http_answers import (
    Answers,
    Question,
    draw_questions,
    noticed,
    version_of,
)
from adapterdistill.bench.serving_http_client import Client, Reply, load
from adapterdistill.release import live_bundle, set_live

_CLIENTS = 32
_AT_ONCE = 1000  # requests between two looks at the answers
_SWAP_EVERY_S = 0.25
_GONE_WITHIN_S = 5.0
"""A replica reads the store every second, and answers what has begun."""


@dataclass
class _Seen:
    wrong: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    failed: int = 0
    versions: set[tuple[str, str]] = field(default_factory=set)
    last_of_the_gone_s: float = 0.0


def measure_isolation(
    address: str,
    store: Path,
    banks: Sequence[Bank],
    answers: Answers,
    others: Sequence[tuple[str, str]],
    *,
    requests: int,
) -> dict[str, Any]:
    """Ask until `requests` are answered; half of them of tenants that change.

    others: (tenant, bundle id) of second versions, between which and the live ones their tenants
        are swapped. The last bank's tenant goes after a third of the requests.
    """
    draw, seen, gone_at = random.Random(8), _Seen(), float("inf")
    gone = banks[-1].tenant
    bundle_of_gone = live_bundle(store, gone)
    changing = {tenant for tenant, _ in others} | {gone}
    busy = [bank for bank in banks if bank.tenant in changing]
    caught = asyncio.run(_control(address, banks, answers))
    stop = threading.Event()
    swaps: list[int] = [0]
    swapper = threading.Thread(target=_swap, args=(store, others, answers, stop, swaps))
    swapper.start()
    began, portion = time.perf_counter(), min(_AT_ONCE, max(1, requests // 4))
    try:
        with phase("requests checked", requests) as done:
            for start in range(0, requests, portion):
                if start * 3 >= requests and gone_at == float("inf"):
                    (store / gone / "live.json").unlink()
                    gone_at = time.perf_counter()
                count = min(portion, requests - start)
                questions = [
                    *draw_questions(banks, count // 2, draw, texts=1),
                    *draw_questions(busy, count - count // 2, draw, texts=3),
                ]
                draw.shuffle(questions)
                replies, _ = asyncio.run(
                    load(address, [q.http for q in questions], num_clients=_CLIENTS)
                )
                for place, reply in replies:
                    _look(questions[place], reply, answers, seen, gone, gone_at)
                    done()
    finally:
        stop.set()
        swapper.join()
        set_live(store, gone, bundle_of_gone)  # other parts ask for it, too
    return {
        "requests": requests,
        "clients": _CLIENTS,
        "seconds": round(time.perf_counter() - began, 1),
        "statuses": {str(status): count for status, count in sorted(seen.statuses.items())},
        "swaps": swaps[0],
        "versions_of_swapped_tenants": sum(t != gone and t in changing for t, _ in seen.versions),
        "swapped_tenants": len(others),
        "gone_tenant_last_answered_after_s": round(seen.last_of_the_gone_s, 2),
        "wrong": seen.wrong[:50],
        "num_wrong": len(seen.wrong),
        "failed": seen.failed,
        "control": {"wrong_answers": 4, "noticed": caught},
    }


def _look(
    question: Question, reply: Reply, answers: Answers, seen: _Seen, gone: str, gone_at: float
) -> None:
    seen.statuses[reply.status] += 1
    left_s = reply.sent - gone_at if question.tenant == gone else -1.0
    if reply.status != 200:
        # It may go while a request is on its way.
        seen.failed += not (reply.status == 404 and left_s + reply.seconds >= 0)
        return
    if left_s >= 0:
        seen.last_of_the_gone_s = max(seen.last_of_the_gone_s, left_s)
    fault = answers.fault(question, reply.body)
    if fault is None and left_s > _GONE_WITHIN_S:
        fault = "comes from a tenant that is gone"
    if fault is not None:
        seen.wrong.append(fault)
    version = reply.body.partition(b'"version":"')[2][:64].decode()
    seen.versions.add((question.tenant, version))


def _swap(
    store: Path,
    others: Sequence[tuple[str, str]],
    answers: Answers,
    stop: threading.Event,
    swaps: list[int],
) -> None:
    pairs = [(tenant, (live_bundle(store, tenant), other)) for tenant, other in others]
    for tenant, (_, other) in pairs:
        answers.allow(tenant, version_of(other))
    while not stop.is_set():
        for tenant, bundle_ids in pairs:
            set_live(store, tenant, bundle_ids[(swaps[0] // len(pairs) + 1) % 2])
            swaps[0] += 1
            if stop.wait(_SWAP_EVERY_S):
                return


async def _control(address: str, banks: Sequence[Bank], answers: Answers) -> int:
    """Wrong answers made of right ones: how many of them the check notices."""
    client, draw = Client(address), random.Random(9)
    # Of different pages: copies of a page have the same FAQs.
    other = next(bank for bank in banks if bank.faqs != banks[0].faqs)
    pair = []
    for bank in (banks[0], other):
        [question] = draw_questions([bank], 1, draw)
        pair.append((question, (await client.ask(question.http)).body))
    client.close()
    return noticed(answers, pair[0], pair[1])
