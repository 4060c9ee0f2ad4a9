"""Two encoders in one engine, beside an engine of its own for each.

Clients ask through `Engine.hold` and the `Batcher` that a replica has, each as soon as its last
query is answered. Together, each encoder has as many clients as alone. A rate is queries a second
of the engine's thread that it spends on the encoder's batches, so that two encoders on one core
compare with each one on a core of its own; it counts the processor's time, as others use the
machine, too.
"""

import asyncio
import random
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from adapterdistill.backbone import Encoder, load_encoder
from adapterdistill.bench.engine.sides import query_of
from adapterdistill.serve.engine.engine import Engine
from adapterdistill.serve.engine.items import SearchItem, SearchOutcome
from adapterdistill.serve.queue.batcher import Batcher
from adapterdistill.serve.queue.fair_queue import QueueLimits
from adapterdistill.testbed.faq_banks import Bank, fill_store
from adapterdistill.testbed.progress import phase
from adapterdistill.testbed.random_adapters import random_adapters
from adapterdistill.testbed.tiny_encoder import make_tiny_encoder

LEAST_SHARE = 0.95
"""Least rate in one engine, as a share of the rate in an engine of its own."""
_TENANTS = 32


@dataclass(frozen=True)
class Size:
    """How much is run."""

    rounds: int
    queries: int
    """Number for each encoder, in each part of a round."""
    clients: int
    """Number for each encoder."""
    second: tuple[int, int]
    """Layers and width of the second encoder, whose weights are random."""


SIZES = {
    "tiny": Size(1, 40, 8, (2, 32)),
    "quick": Size(7, 1000, 32, (4, 256)),
    "standard": Size(15, 4000, 32, (4, 256)),
}


@dataclass
class _Spent:
    queries: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def rate(self, encoder: str) -> float:
        return self.queries[encoder] / self.seconds[encoder]


def measure_encoders(first: Encoder, banks: Sequence[Bank], size: Size) -> dict[str, Any]:
    """Rates of two encoders together and alone, in turn, and the medians of their ratios."""
    layers, width = size.second
    draw, some = random.Random(9), banks[:_TENANTS]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        second_folder = make_tiny_encoder(home / "random", layers=layers, hidden_size=width)
        second = load_encoder(
            str(second_folder),
            dtype=str(first.dtype).removeprefix("torch."),
            device=str(first.device),
            max_tokens=first.max_tokens,
        )
        stores = {
            first.ref.name: (first, [replace(bank, tenant=f"{bank.tenant}.1") for bank in some]),
            second.ref.name: (second, [replace(bank, tenant=f"{bank.tenant}.2") for bank in some]),
        }
        together = home / "together"
        engines: dict[str, Engine] = {}
        for name, (encoder, own) in stores.items():
            adapters = random_adapters(encoder, 4)
            for store in (home / f"store-{len(engines)}", together):
                store.mkdir(exist_ok=True)
                fill_store(store, own, encoder, adapters)
            engines[name] = Engine(encoder, home / f"store-{len(engines)}", capacity=len(own))
        engines["both"] = Engine(
            first, together, others={second.ref.name: lambda: second}, capacity=len(some)
        )
        for engine in engines.values():
            assert not engine.refresh().refused
        rates: dict[str, list[tuple[float, float]]] = {name: [] for name in stores}
        with phase("two encoders and each alone", size.rounds) as done:
            for _ in range(size.rounds):
                streams = {
                    name: [query_of(draw.choice(own), draw) for _ in range(size.queries)]
                    for name, (_, own) in stores.items()
                }
                spent = {}
                for name in draw.sample(list(engines), len(engines)):
                    asked = streams if name == "both" else {name: streams[name]}
                    spent[name] = asyncio.run(_asked(engines[name], asked, size.clients))
                for name, found in rates.items():
                    found.append((spent[name].rate(name), spent["both"].rate(name)))
                done()
        for engine in engines.values():
            engine.close()
    return {
        "tenants_of_each": len(some),
        "clients_of_each": size.clients,
        "rounds": size.rounds,
        "encoders": {name: _figures(found) for name, found in rates.items()},
    }


def _figures(found: Sequence[tuple[float, float]]) -> dict[str, float]:
    shares = [together / alone for alone, together in found]
    return {
        "alone_queries_per_s": round(statistics.median(alone for alone, _ in found), 1),
        "together_queries_per_s": round(statistics.median(both for _, both in found), 1),
        "share": round(statistics.median(shares), 3),
        "lowest_share": round(min(shares), 3),
    }


async def _asked(
    engine: Engine, streams: Mapping[str, Sequence[SearchItem]], clients: int
) -> _Spent:
    spent = _Spent()

    def search(items: Sequence[SearchItem]) -> list[SearchOutcome]:
        held = items[0].held
        assert held is not None
        began = time.thread_time()
        found = engine.search(items)
        spent.seconds[held.bank.encoder.ref.name] += time.thread_time() - began
        spent.queries[held.bank.encoder.ref.name] += len(items)
        return found

    batcher = Batcher(search, QueueLimits(), request_timeout_s=600)

    async def client(stream: Sequence[SearchItem]) -> None:
        for item in stream:
            held = await engine.hold(item.tenant, 60)
            await batcher.submit([replace(item, held=held)])

    async with asyncio.TaskGroup() as group:
        for stream in streams.values():
            for place in range(clients):
                group.create_task(client(stream[place::clients]))
    batcher.close()
    return spent
