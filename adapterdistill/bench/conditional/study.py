"""Conditional adapters: what skipped tokens save, and what they lose, beside the dense adapter.

Speed and accuracy are measured apart. How many tokens a layer runs depends on the rows' lengths
alone, so untrained adapters are timed; all of a table's rows are timed in turn, round after round,
so that a change of the machine's load meets all of them.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from adapterdistill.adapters import BottleneckAdapter, ConditionalAdapter, Parallel, Routing
from adapterdistill.backbone import Adaptation, Embedder, Encoder
from adapterdistill.bench.cache import ResultCache, content_key
from adapterdistill.bench.tenants import BenchTenant
from adapterdistill.checkpoint import pack_adapter, unpack_adapter
from adapterdistill.distill.adapter_distillation import imitation_rows
from adapterdistill.distill.batches import TrainingRows
from adapterdistill.distill.conditional_distillation import (
    SKIPPING_SIZE,
    ConditionalDistillation,
    OwnParallelAdapter,
    fitted,
    skippable,
)
from adapterdistill.distill.held_out import HeldOutRows
from adapterdistill.distill.training import Schedule, train
from adapterdistill.evaluation.evaluate import build_index, rank_queries
from adapterdistill.evaluation.metrics import paired_bootstrap
from adapterdistill.testbed.progress import phase
from adapterdistill.testbed.random_adapters import new_adapter

BOTTLENECK_SIZE = 64
"""The bottleneck of the paper."""
LONG = 64
"""Tokens, as the mean of a tenant's test queries, from which its inputs are called long."""
MOST_LOST = 0.01
"""Top-1 that a setting may lose on `valid` rows and still be chosen."""
RATE = 6e-4
"""Learning rate of the light training."""
SEED = 0
_EMBEDDED_AT_ONCE = 32


@dataclass(frozen=True)
class Size:
    """How much is run."""

    tenants: int | None
    routings: tuple[Routing, ...]
    dense_steps: int
    steps: int
    """Steps of the light training."""
    max_test: int
    max_valid: int
    lengths: tuple[int, ...]
    """Lengths of the rows that are timed beside the tenants' own."""
    rounds: int


def _routings(*, to_all: tuple[bool, ...]) -> tuple[Routing, ...]:
    return tuple(Routing(speed, to_all=every) for every in to_all for speed in (2.0, 3.0, 5.0))


_LENGTHS = (8, 16, 32, 64, 128, 256)
SIZES = {
    "quick": Size(2, _routings(to_all=(True,)), 30, 50, 200, 100, (16, 64, 128), 7),
    "standard": Size(2, _routings(to_all=(True, False)), 60, 100, 400, 200, _LENGTHS, 9),
    "full": Size(None, _routings(to_all=(False, True)), 60, 600, 2000, 300, _LENGTHS, 15),
}


def measure_speed(
    encoder: Encoder, rows: Sequence[Sequence[int]], routings: Sequence[Routing], rounds: int
) -> dict[str, Any]:
    """Texts/s of the dense parallel adapter and of every routing on the same rows.

    Args:
        rows: token ids.
    """
    conditional = _untrained(encoder)
    rules: list[Adaptation] = [Parallel(conditional.adapter)]
    rules += [conditional.at(routing) for routing in routings]
    seconds: list[list[float]] = [[] for _ in rules]
    for turn in range(rounds + 1):
        for rule, taken in zip(rules, seconds, strict=True):
            started = time.perf_counter()
            encoder.embed_ids(rows, rule, batch_size=_EMBEDDED_AT_ONCE).sum().item()
            if turn:  # the first is for warming up
                taken.append(time.perf_counter() - started)
    dense, *others = [_texts_per_s(len(rows), taken) for taken in seconds]
    return {
        "texts": len(rows),
        "mean_tokens": round(sum(map(len, rows)) / len(rows), 1),
        "dense": dense,
        "conditional": [
            {
                **asdict(routing),
                **found,
                "faster_by_minimum": round(found["fastest"] / dense["fastest"], 3),
                "faster_by_median": round(found["median"] / dense["median"], 3),
            }
            for routing, found in zip(routings, others, strict=True)
        ],
    }


def _untrained(encoder: Encoder) -> ConditionalAdapter:
    adapter = new_adapter(encoder, SEED, BOTTLENECK_SIZE)
    conditional = ConditionalAdapter.new(
        adapter, skipping_size=SKIPPING_SIZE, seed=SEED, parallel=True
    )
    return conditional.to(encoder.device).requires_grad_(False)


def _texts_per_s(texts: int, seconds: Sequence[float]) -> dict[str, float]:
    return {
        "fastest": round(texts / min(seconds), 1),
        "median": round(texts / statistics.median(seconds), 1),
    }


def rows_of_length(encoder: Encoder, tenants: Sequence[BenchTenant], length: int) -> list[Any]:
    """Rows of one length, as many as are embedded at once: the tenants' texts end to end."""
    tokens = [i for tenant in tenants for ids in tenant.test.ids for i in ids]
    wanted = length * _EMBEDDED_AT_ONCE
    tokens *= -(-wanted // len(tokens))
    return [tokens[start : start + length] for start in range(0, wanted, length)]


class Accuracy:
    """Trains and ranks. Each result is kept by content, so that a run can be resumed."""

    def __init__(self, encoder: Encoder, size: Size, cache: ResultCache) -> None:
        self._encoder, self._size, self._cache = encoder, size, cache

    def of(self, tenant: BenchTenant) -> dict[str, Any]:
        """Ranks of a tenant's valid and test queries, with the dense adapter and by routing."""
        index = tenant.arrival(None, seed=SEED).training()
        held_out = self._held_out(tenant, index)
        with phase(f"training for {tenant.name}", 1 + len(self._size.routings)) as done:
            key = self._key(tenant, None)
            if key not in self._cache:
                dense = self._dense(index, held_out)
                payload = pack_adapter(dense, model_name=self._encoder.ref.name)
                self._cache.write_payload(key, payload)
                self._cache.write(key, self._ranks(tenant, index, Parallel(dense)))
            dense = unpack_adapter(self._cache.read_payload(key)).to(self._encoder.device)
            found: dict[str, Any] = {
                "tenant": tenant.name,
                "mean_tokens": round(tenant.test.tokens / len(tenant.test), 1),
                "valid": len(tenant.valid),
                "dense": self._cache.read(key),
                "conditional": [],
            }
            done()
            for routing in self._size.routings:
                key = self._key(tenant, routing)
                if key not in self._cache:
                    rule = self._conditional(dense, index, held_out, routing)
                    self._cache.write(key, self._ranks(tenant, index, rule))
                found["conditional"].append(self._cache.read(key))
                done()
        return found

    def _key(self, tenant: BenchTenant, routing: Routing | None) -> str:
        size, encoder = self._size, self._encoder
        what: dict[str, Any] = {
            "benchmark": "conditional",
            "tenant": tenant.digest,
            "encoder": encoder.ref.weights_sha256,
            "dtype": str(encoder.dtype),
            "max_tokens": encoder.max_tokens,
            "rows": [size.max_test, size.max_valid],
            "dense_steps": size.dense_steps,
        }
        if routing is not None:
            what |= {"routing": asdict(routing), "steps": size.steps, "rate": RATE}
        return content_key(what)

    def _held_out(self, tenant: BenchTenant, index: TrainingRows) -> HeldOutRows | None:
        if not len(tenant.valid):
            return None
        return HeldOutRows(self._encoder, index, tenant.valid.training(), tenant.num_faqs)

    def _dense(self, index: TrainingRows, held_out: HeldOutRows | None) -> BottleneckAdapter:
        encoder = self._encoder
        adapter = new_adapter(encoder, SEED, BOTTLENECK_SIZE)
        self._train(OwnParallelAdapter(encoder, adapter), index, held_out, self._size.dense_steps)
        return adapter.requires_grad_(False)

    def _conditional(
        self,
        dense: BottleneckAdapter,
        index: TrainingRows,
        held_out: HeldOutRows | None,
        routing: Routing,
    ) -> Embedder:
        texts, _ = imitation_rows(self._encoder, index)
        texts = texts.select(skippable(texts.ids, routing))
        conditional = fitted(self._encoder, dense, texts.ids, seed=SEED, parallel=True)
        objective = ConditionalDistillation(self._encoder, conditional, Parallel(dense), routing)
        self._train(objective, texts, held_out, self._size.steps, RATE)
        return objective.deployed()

    def _train(
        self,
        objective: Any,
        rows: TrainingRows,
        held_out: HeldOutRows | None,
        steps: int,
        learning_rate: float = 1e-3,
    ) -> None:
        schedule = Schedule(
            max_steps=steps,
            learning_rate=learning_rate,
            batch_size=32,
            evaluate_every=max(1, steps // 4),
        )
        device = self._encoder.device
        train(objective, rows, schedule, seed=SEED, device=device, held_out=held_out)

    def _ranks(
        self, tenant: BenchTenant, index: TrainingRows, rule: Embedder
    ) -> dict[str, list[int]]:
        built = build_index(self._encoder, rule, index, tenant.num_faqs)
        return {
            part: rank_queries(self._encoder, rule, built, rows.training()).ranks.tolist()
            for part, rows in (("valid", tenant.valid), ("test", tenant.test))
        }


def losses(found: Sequence[Mapping[str, Any]], routings: Sequence[Routing]) -> list[dict[str, Any]]:
    """Macro top-1 over these tenants, and what each routing loses against the dense adapter."""

    def hits(ranks: Mapping[str, list[int]], part: str) -> Tensor:
        return (torch.tensor(ranks[part]) == 1).double()

    def macro(of: Sequence[Tensor]) -> float | None:
        means = [float(values.mean()) for values in of if len(values)]
        return sum(means) / len(means) if means else None

    rows = []
    for place, routing in enumerate(routings):
        row: dict[str, Any] = asdict(routing)
        for part in ("valid", "test"):
            dense = [hits(one["dense"], part) for one in found]
            sparse = [hits(one["conditional"][place], part) for one in found]
            differences = [s - d for s, d in zip(sparse, dense, strict=True)]
            change = paired_bootstrap(differences)
            row[part] = {
                "dense_top1": macro(dense),
                "top1": macro(sparse),
                "change": macro(differences),
                "low": change.low,
                "high": change.high,
                "queries": sum(map(len, differences)),
            }
        rows.append(row)
    return rows


def chosen(rows: Sequence[Mapping[str, Any]], faster: Sequence[float]) -> int | None:
    """The fastest routing that loses at most a point on `valid` rows; None: none does.

    Args:
        faster: texts/s of each, relative to the dense adapter's.
    """
    places = [
        place
        for place, row in enumerate(rows)
        if row["valid"]["change"] is not None and row["valid"]["change"] >= -MOST_LOST
    ]
    return max(places, key=lambda place: faster[place], default=None)
