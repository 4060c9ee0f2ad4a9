"""The ways to embed a batch that are timed side by side: ours, and sentence-transformers'."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from adapterdistill.backbone import DEFAULT_ENCODER, Encoder, pack
from adapterdistill.backbone.packaged import PACKAGED
from adapterdistill.bench.training.peer import Peer
from adapterdistill.serve.engine.adapter_bank import Slot
from adapterdistill.serve.engine.engine import Engine, SearchItem
from adapterdistill.testbed.faq_banks import Bank

BARE, MIXED, ALONE = "bare encoder", "mixed batch", "one forward a tenant"
SEARCH = "mixed batch, ranked"
SENTENCES_FLOAT32 = "sentence-transformers, its defaults"
SENTENCES_BFLOAT16 = "sentence-transformers, bfloat16"
MIXES = ("one tenant", "8 tenants", "32 tenants", "Zipf")
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Batch:
    """Texts of one batch, with the tenant that each is for."""

    mix: str
    tenants: tuple[str, ...]
    texts: tuple[str, ...]


Side = Callable[[Batch], tuple[float, float]]
"""Runs a batch; returns its seconds, by the clock and of the processor."""


def draw_batch(mix: str, size: int, banks: Sequence[Bank], draw: random.Random) -> Batch:
    distinct = {"one tenant": 1, "8 tenants": 8, "32 tenants": 32}
    if mix == "Zipf":
        weights = [1 / (rank + 1) for rank in range(len(banks))]
        chosen = draw.choices(banks, weights, k=size)
    else:
        some = draw.sample(banks, min(distinct[mix], len(banks)))
        chosen = [some[n % len(some)] for n in range(size)]
    texts = tuple(draw.choice(bank.faqs).question for bank in chosen)
    return Batch(mix, tuple(bank.tenant for bank in chosen), texts)


def query_of(bank: Bank, draw: random.Random) -> SearchItem:
    return SearchItem(bank.tenant, draw.choice(bank.faqs).question)


def queries_per_s(engine: Engine, banks: Sequence[Bank]) -> float:
    """The best rate of the engine, in batches of 32 queries of tenants that are in memory."""
    resident = [bank for bank in banks if bank.tenant in engine.snapshot.tenants]
    draw, seconds = random.Random(4), []
    for _ in range(6):
        items = [query_of(draw.choice(resident), draw) for _ in range(32)]
        began = time.perf_counter()
        engine.search(items)
        seconds.append(time.perf_counter() - began)
    return 32 / min(seconds)


def _slots(engine: Engine, tenants: Sequence[str]) -> Tensor:
    served = [engine.snapshot.tenants[tenant].served for tenant in tenants]
    return torch.tensor([one.number for one in served if isinstance(one, Slot)])


@torch.inference_mode()
def embed_mixed(encoder: Encoder, engine: Engine, batch: Batch) -> Tensor:
    tokens = pack(encoder.tokenize(batch.texts), encoder.device)
    delta = engine.banks.loaded[0].stack.mixed(_slots(engine, batch.tenants), tokens)
    return encoder.embed(tokens, delta)


def our_sides(encoder: Encoder, engine: Engine) -> dict[str, Side]:
    """Our sides, each from texts to embeddings on the host; one ranks too."""

    @torch.inference_mode()
    def bare(batch: Batch) -> None:
        encoder.embed(pack(encoder.tokenize(batch.texts), encoder.device)).cpu()

    def mixed(batch: Batch) -> None:
        embed_mixed(encoder, engine, batch).cpu()

    def alone(batch: Batch) -> None:
        texts_of: dict[str, list[str]] = {}
        for tenant, text in zip(batch.tenants, batch.texts, strict=True):
            texts_of.setdefault(tenant, []).append(text)
        for tenant, texts in texts_of.items():
            one = Batch(batch.mix, (tenant,) * len(texts), tuple(texts))
            embed_mixed(encoder, engine, one).cpu()

    def search(batch: Batch) -> None:
        engine.search([SearchItem(*row) for row in zip(batch.tenants, batch.texts, strict=True)])

    def timed(run: Callable[[Batch], None]) -> Side:
        def side(batch: Batch) -> tuple[float, float]:
            started, worked = time.perf_counter(), time.process_time()
            run(batch)
            return time.perf_counter() - started, time.process_time() - worked

        return side

    runs = {BARE: bare, MIXED: mixed, ALONE: alone, SEARCH: search}
    return {name: timed(run) for name, run in runs.items()}


def peer_sides(peer: Peer) -> dict[str, Side]:
    def side(dtype: str) -> Side:
        def run(batch: Batch) -> tuple[float, float]:
            found = peer.ask("encode", dtype=dtype, texts=batch.texts)
            return found["seconds"], found["processor_seconds"]

        return run

    return {SENTENCES_FLOAT32: side("float32"), SENTENCES_BFLOAT16: side("bfloat16")}


def meet(peer: Peer, exact: Encoder, banks: Sequence[Bank], exchange: Path) -> dict[str, Any]:
    """Start the peer and compare the bare encoder's embeddings."""
    versions = peer.ask(
        "start",
        threads=torch.get_num_threads(),
        model=str(PACKAGED[DEFAULT_ENCODER].folder()),
        dtypes=["float32", "bfloat16"],
    )
    texts = draw_batch("32 tenants", 32, banks, random.Random(3)).texts
    out = exchange / "embeddings.safetensors"
    peer.ask("encode", dtype="float32", texts=texts, out=str(out))
    theirs = safetensors.torch.load_file(out)["embeddings"]
    apart = float((theirs - exact.embed_texts(texts)).abs().max())
    if apart > TOLERANCE:
        raise AssertionError(f"outputs are not those of sentence-transformers: {apart}")
    return {**versions, "largest_difference": apart}
