"""A cell is one method on one arrival: what names it, what it is made from, and how it is run."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder
from adapterdistill.bench.cache import ResultCache, content_key
from adapterdistill.bench.tenants import BenchTenant, TextRows
from adapterdistill.bench.transfer.method_table import (
    METHODS,
    OWN,
    POOL_RATE,
    POOL_ROWS_PER_FAQ,
    POOL_STEPS_PER_TENANT,
    TEACHER_SEED,
    TEACHER_SETTING,
)
from adapterdistill.bench.transfer.methods import Arrival, Method, Setting
from adapterdistill.bench.transfer.scoring import Embed, score, valid_top1
from adapterdistill.checkpoint import pack_adapter, state_digest, unpack_adapter
from adapterdistill.testbed.encoder_options import EncoderOptions

NO_TRAINING = Setting(learning_rate=0.0, steps=0)


@dataclass(frozen=True)
class Cell:
    """One result. `teachers` are tenants' names; empty where the method needs none."""

    method: str
    tenant: str
    k: int | None
    seed: int
    setting: Setting = NO_TRAINING
    teachers: tuple[str, ...] = ()
    own: Setting | None = None
    """The own adapter's setting, where the method starts from it."""
    tuning: bool = False
    """Watched on `valid` every few steps, and never scored on `test`."""
    keep: bool = False
    """Whether other cells need the adapter; then no scores are made."""


@dataclass(frozen=True)
class Workbench:
    """Everything that the cells of a run share."""

    encoder: Encoder
    tenants: Mapping[str, BenchTenant]
    cache: ResultCache

    def key(self, cell: Cell) -> str:
        """Names everything that the cell's result depends on, its ingredients by their keys."""
        tenant, ref = self.tenants[cell.tenant], self.encoder.ref
        ingredients = {role: [self.key(part) for part in parts(cell, role)] for role in ROLES}
        needs_pool = "pool" in METHODS[cell.method].needs
        return content_key(
            {
                "method": [cell.method, METHODS[cell.method].version],
                "encoder": [ref.weights_sha256, ref.tokenizer_sha256, str(self.encoder.dtype)],
                "device": self.encoder.device.type,
                "max_tokens": self.encoder.max_tokens,
                "tenant": [tenant.name, tenant.digest],
                "rows": [len(tenant.test), len(tenant.valid), len(tenant.out_of_scope)],
                "pool": [self.tenants[t].digest for t in cell.teachers] if needs_pool else [],
                "ingredients": ingredients,
                "k": cell.k,
                "seed": cell.seed,
                "setting": asdict(cell.setting),
                "purpose": "tuning" if cell.tuning else "adapter" if cell.keep else "scores",
            }
        )

    def run(self, cell: Cell) -> None:
        """Make the cell's result, unless the cache has it."""
        key = self.key(cell)
        if self.cache.read(key) is not None:
            return
        arrival, method = self.arrival(cell), METHODS[cell.method]
        started = perf_counter()
        result: dict[str, Any] = {"cell": asdict(cell), "version": method.version}
        if cell.tuning:
            result["checkpoints"] = _watched(method, arrival, cell.setting)
        else:
            before = _fingerprint(arrival)
            outcome = method.run(arrival, cell.setting, None)
            result["train_s"] = round(perf_counter() - started, 3)
            if outcome.adapter is not None and cell.method in (
                OWN,
                "permuted_labels",
                "pooled_base",
            ):
                name = self.encoder.ref.name
                self.cache.write_payload(key, pack_adapter(outcome.adapter, model_name=name))
            if not cell.keep:
                result["scores"] = score(outcome.embed, arrival.tenant, arrival.rows)
            # Earlier tenants are unchanged: same bytes in their adapters, same outputs.
            result["no_harm"] = before == _fingerprint(arrival)
        result["seconds"] = round(perf_counter() - started, 3)
        self.cache.write(key, result)

    def arrival(self, cell: Cell) -> Arrival:
        tenant = self.tenants[cell.tenant]
        own = self._adapters(cell, "own")
        base = self._adapters(cell, "base")
        pool: tuple[TextRows, ...] = ()
        if "pool" in METHODS[cell.method].needs:
            pool = tuple(
                self.tenants[name].arrival(POOL_ROWS_PER_FAQ, seed=cell.seed)
                for name in cell.teachers
            )
        return Arrival(
            encoder=self.encoder,
            tenant=tenant,
            k=cell.k,
            seed=cell.seed,
            rows=tenant.arrival(cell.k, seed=cell.seed),
            teachers=self._adapters(cell, "teachers") + self._adapters(cell, "permuted"),
            own=own[0] if own else None,
            pool=pool,
            base=base[0] if base else None,
        )

    def _adapters(self, cell: Cell, role: str) -> tuple[BottleneckAdapter, ...]:
        payloads = [self.cache.read_payload(self.key(part)) for part in parts(cell, role)]
        adapters = [unpack_adapter(payload) for payload in payloads]
        return tuple(adapter.to(self.encoder.device) for adapter in adapters)


def open_workbench(
    encoder: EncoderOptions, tenants: Mapping[str, BenchTenant], cache: Path
) -> Workbench:
    """Load the encoder and open the cache: for worker processes."""
    return Workbench(encoder.load(), tenants, ResultCache(cache))


ROLES = ("teachers", "permuted", "own", "base")


def parts(cell: Cell, role: str) -> list[Cell]:
    """The cells that `cell` is made from in one role."""
    if role not in METHODS[cell.method].needs:
        return []
    if role == "own":
        if cell.k == 0 or cell.own is None:
            return []
        return [Cell(OWN, cell.tenant, cell.k, cell.seed, cell.own)]
    if role == "base":
        setting = Setting(POOL_RATE, POOL_STEPS_PER_TENANT * len(cell.teachers))
        return [Cell("pooled_base", cell.tenant, 0, cell.seed, setting, cell.teachers, keep=True)]
    teacher = OWN if role == "teachers" else "permuted_labels"
    return [
        Cell(teacher, name, None, TEACHER_SEED, TEACHER_SETTING, keep=True)
        for name in cell.teachers
    ]


def all_parts(cells: list[Cell]) -> list[Cell]:
    """The distinct cells that these are made from, in order."""
    return list(dict.fromkeys(p for cell in cells for role in ROLES for p in parts(cell, role)))


def _watched(method: Method, arrival: Arrival, setting: Setting) -> list[dict[str, float]]:
    """Top-1 on `valid` by scoring at every checkpoint of one run, untrained first."""
    found: list[dict[str, float]] = []

    def monitor(embed: Embed) -> float:
        found.append(valid_top1(embed, arrival.tenant, arrival.rows))
        return found[-1]["centroid"]

    method.run(arrival, setting, monitor)
    return found


def _fingerprint(arrival: Arrival) -> list[str]:
    """Digests of the teachers and of what the first of them answers."""
    if not arrival.teachers:
        return []
    rows = arrival.rows.select(range(min(8, len(arrival.rows)))).ids
    answers = arrival.encoder.embed_ids(rows, arrival.teachers[0]).cpu()
    plain = torch.nn.ParameterList([answers])
    return [*(state_digest(teacher) for teacher in arrival.teachers), state_digest(plain)]
