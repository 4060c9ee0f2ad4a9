"""Many more live tenants than slots: memory, hit rate and p95, and whether there is a cliff.

Single queries arrive at times drawn beforehand through `Engine.hold` and the same `Batcher` that a
replica has: all of serving but HTTP. Tenants' FAQ vectors are random, as only their size matters.
"""

import asyncio
import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from adapterdistill.backbone import Encoder
from adapterdistill.bench.engine.sides import queries_per_s, query_of
from adapterdistill.checkpoint import golden_vectors, pack_adapter
from adapterdistill.errors import AdapterDistillError
from adapterdistill.serve.engine.engine import Engine, SearchItem
from adapterdistill.serve.engine.proofs import PROVE_EVERY_S
from adapterdistill.serve.queue.batcher import Batcher
from adapterdistill.serve.queue.fair_queue import QueueLimits
from adapterdistill.testbed.faq_banks import Bank, put_bundle
from adapterdistill.testbed.open_loop import send_on_time
from adapterdistill.testbed.progress import phase
from adapterdistill.testbed.random_adapters import random_adapters

SHARES = (0.9, 1.1, 2.0)
"""Tenants asked for, each as often as the others, over slots."""
CLIFF_TIMES = 2.0


@dataclass(frozen=True)
class Size:
    """How much is run."""

    tenants: int
    slots: int
    seconds: float
    """Seconds of each traffic. Zipf's runs twice; the even ones run as long before, to warm up."""
    load: float = 0.25
    """The share of what the engine can do with all tenants in memory."""


SIZES = {
    "tiny": Size(20, 5, 0.3),
    "quick": Size(2000, 200, 5.0),
    "standard": Size(10000, 1000, 10.0),
}


@dataclass
class Trace:
    seconds: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    """Failures by reason and words."""


def fill_many(store: Path, banks: Sequence[Bank], encoder: Encoder) -> None:
    """A live bundle for every bank; eight adapters in turn, each tenant in a slot of its own."""
    adapters = [
        (adapter, pack_adapter(adapter, model_name=encoder.ref.name), golden)
        for adapter in random_adapters(encoder, 8)
        for golden in [golden_vectors(encoder, adapter)]
    ]
    draw = torch.Generator().manual_seed(0)
    with phase("tenants to page", len(banks)) as done:
        for place, bank in enumerate(banks):
            drawn = torch.randn(len(bank.faqs), encoder.hidden_size, generator=draw)
            vectors = torch.nn.functional.normalize(drawn, dim=-1)
            put_bundle(store, bank, encoder, *adapters[place % 8], vectors)
            done()


def measure_paging(
    encoder: Encoder, store: Path, banks: Sequence[Bank], size: Size
) -> dict[str, Any]:
    """Zipf's traffic over all tenants, then working sets around the number of slots.

    Args:
        store: holds a live bundle for every bank.
    """
    before = resident_mib()
    engine = Engine(encoder, store, max_slots=size.slots, capacity=size.slots)
    first_s, again_s = _refresh_s(engine), _refresh_s(engine)
    per_s = size.load * queries_per_s(engine, banks)
    draw = random.Random(6)
    weights = [1 / (rank + 1) for rank in range(len(banks))]
    found, scan_s = [], 0.0
    with _followed(engine), phase("traffics", 2 + len(SHARES)) as done:
        for name in ("Zipf over all, at first", "Zipf over all, all proven"):
            found.append(_traffic(engine, name, banks, weights, per_s, size, draw))
            scan_s = _scan(engine, banks) if len(found) == 1 else scan_s
            done()
        for share in SHARES:
            some = banks[: round(share * size.slots)]
            name = f"{share:g} times the slots, evenly"
            for _ in range(2):
                cell = _traffic(engine, name, some, [1.0] * len(some), per_s, size, draw)
            found.append(cell)
            done()
    engine.close()
    even = {share: cell["p95_ms"] for share, cell in zip(SHARES, found[2:], strict=True)}
    return {
        "tenants": len(engine.snapshot.bundles),
        "slots": size.slots,
        "bank_mib": round(engine.bank_bytes / 2**20, 1),
        "process_grew_mib": round(resident_mib() - before, 1),
        "first_refresh_s": round(first_s, 2),
        "refresh_without_change_ms": round(1000 * again_s, 1),
        "scan_ms_a_tenant": round(1000 * scan_s / len(banks), 2),
        "queries_per_s": round(per_s, 1),
        "traffics": found,
        "p95_times_when_10_percent_over": round(even[1.1] / even[0.9], 3),
    }


def resident_mib() -> float:
    """Resident memory of this process (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS in /proc/self/status")


@contextmanager
def _followed(engine: Engine) -> Iterator[None]:
    """Read the store each second and prove tenants, as a replica does beside its requests."""
    stop = threading.Event()

    def follow(what: Callable[[], object], every_s: float) -> None:
        while not stop.wait(every_s):
            what()

    threads = [
        threading.Thread(target=follow, args=args)
        for args in ((engine.refresh, 1.0), (engine.prove_next, PROVE_EVERY_S))
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _refresh_s(engine: Engine) -> float:
    began = time.perf_counter()
    engine.refresh()
    return time.perf_counter() - began


def _scan(engine: Engine, banks: Sequence[Bank]) -> float:
    """Ask for every tenant once, one after the other; returns the seconds."""
    began = time.perf_counter()
    for bank in banks:
        found = engine.admit(bank.tenant)
        if isinstance(found, Future):
            found.result()
    return time.perf_counter() - began


def _traffic(
    engine: Engine,
    name: str,
    banks: Sequence[Bank],
    weights: Sequence[float],
    per_s: float,
    size: Size,
    draw: random.Random,
) -> dict[str, Any]:
    chosen = draw.choices(banks, weights, k=max(20, round(per_s * size.seconds)))
    sent = [(size.seconds * n / len(chosen), query_of(bank, draw)) for n, bank in enumerate(chosen)]
    before = replace(engine.paging)
    trace = asyncio.run(_send(engine, sent))
    after = engine.paging
    hits, waits = after.hits - before.hits, after.waits - before.waits
    ranks = statistics.quantiles(trace.seconds, n=100)
    return {
        "traffic": name,
        "queries": len(trace.seconds),
        "failed": trace.failed.total(),
        "why": dict(trace.failed),
        "hit_rate": round(hits / max(1, hits + waits), 4),
        "loads": after.loads - before.loads,
        "evictions": after.evictions - before.evictions,
        "p50_ms": round(1000 * ranks[49], 2),
        "p95_ms": round(1000 * ranks[94], 2),
        "p99_ms": round(1000 * ranks[98], 2),
    }


async def _send(engine: Engine, sent: Sequence[tuple[float, SearchItem]]) -> Trace:
    batcher, trace = Batcher(engine.search, QueueLimits()), Trace()

    async def ask(item: SearchItem, due: float) -> None:
        try:
            asked_at = time.monotonic()
            held = await engine.hold(item.tenant, batcher.request_timeout_s)
            waited_s = time.monotonic() - asked_at
            asked = SearchItem(item.tenant, item.text, item.top_k, held)
            await batcher.submit([asked], waited_s=waited_s)
            trace.seconds.append(time.perf_counter() - due)
        except AdapterDistillError as error:
            trace.failed[f"{error.reason}: {str(error).replace(item.tenant, 'T')}"] += 1

    await send_on_time(sent, ask)
    batcher.close()
    return trace
