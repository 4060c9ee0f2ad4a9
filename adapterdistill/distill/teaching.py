"""Which teachers helped: their share of the composition, and what is lost without each."""

from collections.abc import Sequence
from dataclasses import dataclass

from adapterdistill.distill.adapter_distillation import AdapterDistillation
from adapterdistill.distill.composition import Composition
from adapterdistill.distill.method import HeldOut, Objective, Scored


@dataclass(frozen=True)
class Teaching:
    """Of each teacher, in their order."""

    weights: tuple[float, ...]
    """Share of the composition; the sum is 1."""
    leave_one_out: tuple[float, ...] = ()
    """Held-out score of the composition without it minus that of the whole: below 0 where it
    helped. Empty where that was not asked for, or nothing is held out."""


def teaching_of(objective: Objective, scored: Sequence[Scored]) -> Teaching | None:
    """What the teachers of a stage 2 did; None for a stage without teachers.

    Args:
        scored: the same stage, or each fold's, with what scores it; empty: no teacher is left out.
    """
    if not isinstance(objective, AdapterDistillation):
        return None
    stages = [
        (one.objective.composition, one.held_out)
        for one in scored
        if isinstance(one.objective, AdapterDistillation)
    ]
    return Teaching(tuple(objective.composition.shares.tolist()), leave_one_out(stages))


def leave_one_out(stages: Sequence[tuple[Composition, HeldOut]]) -> tuple[float, ...]:
    """The mean held-out score without each teacher, minus that with all; nothing is retrained.

    Args:
        stages: compositions of the same teachers: one, or one a fold.
    """
    if not stages:
        return ()
    whole = [held_out(composition) for composition, held_out in stages]

    def change(teacher: int) -> float:
        without = [held_out(composition.without(teacher)) for composition, held_out in stages]
        return (sum(without) - sum(whole)) / len(stages)

    return tuple(change(n) for n in range(len(stages[0][0].shares)))
