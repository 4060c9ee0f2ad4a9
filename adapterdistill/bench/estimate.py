"""How long a run will take, from its token counts and the speed of a short calibration."""

import time
from collections.abc import Iterable

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder
from adapterdistill.bench.cells import Cell, Workbench
from adapterdistill.bench.method_table import METHODS, POOL_ROWS_PER_FAQ
from adapterdistill.bench.methods import BOTTLENECK_SIZE, CHECK_EVERY
from adapterdistill.distill.batches import TrainingRows, make_batch
from adapterdistill.distill.method import OwnAdapter
from adapterdistill.distill.training import Schedule

FORWARD_SHARE = 0.3
"""A token's forward without gradients relative to its training step with an own adapter."""


def training_tokens_per_s(encoder: Encoder, rows: TrainingRows, *, repeats: int = 3) -> float:
    """Tokens a second of an own adapter's step on up to 64 of `rows`, the fastest of a few."""
    chosen = list(range(min(64, len(rows.ids))))
    batch = make_batch(rows, chosen, device=encoder.device)
    shape = (encoder.num_layers, encoder.hidden_size, BOTTLENECK_SIZE)
    objective = OwnAdapter(encoder, BottleneckAdapter.new(*shape, seed=0).to(encoder.device))
    fastest = float("inf")
    for _ in range(repeats + 1):
        started = time.perf_counter()
        objective(batch).backward()
        fastest = min(fastest, time.perf_counter() - started)
    return batch.total_tokens / fastest


def cost_tokens(bench: Workbench, cell: Cell) -> float:
    """The cell's work in tokens of an own adapter's training step."""
    tenant, method = bench.tenants[cell.tenant], METHODS[cell.method]
    rows = tenant.arrival(cell.k, seed=cell.seed)
    source = rows
    if "pool" in method.needs:
        source = bench.tenants[cell.teachers[0]].arrival(POOL_ROWS_PER_FAQ, seed=cell.seed)
    mean_length = source.tokens / len(source)
    batch = min(len(source), Schedule(max_steps=1).batch_size)
    training = cell.setting.steps * batch * mean_length * method.step_cost
    if cell.keep:
        return training
    held = [tenant.valid] if cell.tuning else [tenant.valid, tenant.test, tenant.out_of_scope]
    scored = FORWARD_SHARE * (rows.tokens + sum(part.tokens for part in held))
    if cell.method == "tfidf":
        scored = 0.0
    times = cell.setting.steps // CHECK_EVERY + 1 if cell.tuning else 1
    return training + scored * times


def remaining_tokens(bench: Workbench, cells: Iterable[Cell]) -> float:
    """The work that the cache does not hold yet."""
    return sum(cost_tokens(bench, c) for c in cells if bench.key(c) not in bench.cache)
