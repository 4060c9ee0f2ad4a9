"""Multi-task training on several tenants' rows together: what privacy forbids, as a reference."""

from collections.abc import Sequence

import torch

from adapterdistill.distill.batches import TrainingRows, choose_rows, make_batch
from adapterdistill.distill.method import OwnAdapter
from adapterdistill.distill.training import Schedule


def train_in_turn(
    objective: OwnAdapter, pool: Sequence[TrainingRows], schedule: Schedule, *, seed: int
) -> None:
    """Train one adapter, each step on a batch of one tenant, tenants in turn.

    A batch that mixed tenants would learn to tell tenants apart, which is no use within one.
    """
    device = next(objective.parameters()).device
    groups = objective.parameter_groups(schedule.learning_rate)
    optimizer = torch.optim.AdamW(groups, weight_decay=schedule.weight_decay, fused=True)
    for step in range(schedule.max_steps):
        warm = min(1.0, (step + 1) / max(1, schedule.warmup_steps))
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate * warm
        rows = pool[step % len(pool)]
        chosen = choose_rows(rows, batch_size=schedule.batch_size, seed=seed, step=step)
        optimizer.zero_grad(set_to_none=True)
        objective(make_batch(rows, chosen, device=device)).backward()
        optimizer.step()
