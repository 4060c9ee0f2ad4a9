"""Which teachers helped: their share of the fusion's attention, and what it loses without each."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adapterdistill.adapters import AdapterStack, Fusion
from adapterdistill.backbone import Encoder
from adapterdistill.distill.adapter_distillation import AdapterDistillation
from adapterdistill.distill.batches import TrainingRows
from adapterdistill.distill.method import Objective, Scored

_ATTENDED_ROWS = 1000
"""Of more rows, so many evenly spread ones say what attention they get."""


@dataclass(frozen=True)
class Teaching:
    """Of each fused adapter: the teachers in their order, then the own adapter if there is one."""

    attention: tuple[float, ...]
    """Share of the attention; the sum is 1."""
    leave_one_out: tuple[float, ...] = ()
    """Held-out score of the fusion without it minus that of the whole: below 0 where it helped.
    Empty where that was not asked for, or nothing is held out."""


def teaching_of(
    encoder: Encoder,
    objective: Objective,
    rows: TrainingRows,
    scored: Sequence[Scored],
) -> Teaching | None:
    """What the teachers of a trained stage 2 did; None for a stage without teachers.

    Args:
        rows: the training rows, whose tokens' attention is averaged.
        scored: the same stage, or each fold's, with what scores it; empty: no teacher is left out.
    """
    if not isinstance(objective, AdapterDistillation):
        return None
    return Teaching(
        attention_mass(encoder, objective.fusion, objective.teachers, rows), leave_one_out(scored)
    )


@torch.no_grad()
def attention_mass(
    encoder: Encoder, fusion: Fusion, stack: AdapterStack, rows: TrainingRows
) -> tuple[float, ...]:
    """Each adapter's attention weight, averaged over the rows' tokens and the layers."""
    mass, fused = torch.zeros(stack.num_adapters, dtype=torch.float64), fusion.over(stack)

    def attended(layer: int, x: Tensor) -> Tensor:
        mass.add_(fusion.attention(layer, x, stack).sum(0, dtype=torch.float64).cpu())
        return fused(layer, x)

    encoder.embed_ids(rows.ids[:: -(-len(rows.ids) // _ATTENDED_ROWS)], attended)
    # The sum is not quite the number of tokens: weights are rounded to the encoder's precision.
    return tuple((mass / mass.sum()).tolist())


def leave_one_out(scored: Sequence[Scored]) -> tuple[float, ...]:
    """The mean held-out score without each adapter, minus that with all; nothing is retrained.

    Args:
        scored: stages 2 of the same teachers: one, or one a fold.
    """
    stages = [
        (one.objective, one.held_out)
        for one in scored
        if isinstance(one.objective, AdapterDistillation)
    ]
    if not stages:
        return ()

    def score(without: int | None) -> float:
        return sum(held_out(stage.fused(without)) for stage, held_out in stages) / len(stages)

    whole, num_adapters = score(None), stages[0][0].teachers.num_adapters
    return tuple(score(n) - whole for n in range(num_adapters))
