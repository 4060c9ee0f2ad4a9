"""Objectives: a loss over batches, the parameters that it trains, and the model that it deploys."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import (
    Adaptation,
    Embedder,
    Encoder,
    FrozenLayer,
    LayerDelta,
    LayerRule,
    PackedTokens,
    rule_of,
)
from adapterdistill.distill.batches import Batch
from adapterdistill.distill.losses import prototype_loss


class Objective(nn.Module):
    """A loss over batches and the parameters that it trains.

    Contract of `forward(batch)`: a scalar whose gradients, summed over the workers of a global
    batch, are the gradients of the global loss.
    """

    student: BottleneckAdapter

    def deployed(self) -> Embedder:
        """The model that is served and scored on held-out rows: the student, unless overridden."""
        return self.student

    def parameter_groups(self, learning_rate: float) -> list[dict[str, object]]:
        """AdamW groups; one group per learning rate."""
        return [{"params": list(self.student.parameters()), "lr": learning_rate}]


class ModelObjective(Objective):
    """Trains a model of its own, which replaces the encoder or adapts it."""

    model: nn.Module

    def deployed(self) -> Any:
        """The model alone."""
        return self.model

    def parameter_groups(self, learning_rate: float) -> list[dict[str, object]]:
        trained = [p for p in self.parameters() if p.requires_grad]
        return [{"params": trained, "lr": learning_rate}]


class OwnAdapter(Objective):
    """Stage 1 (extract): the tenant's own rows alone train its adapter."""

    def __init__(self, encoder: Encoder, student: BottleneckAdapter) -> None:
        super().__init__()
        self._encoder = encoder
        self.student = student

    def forward(self, batch: Batch) -> Tensor:
        embeddings = batch.share(self._encoder.embed(batch.tokens, self.deployed()))
        return prototype_loss(embeddings, batch.labels)


class Recording:
    """A `LayerDelta` that keeps each layer's output of one forward."""

    def __init__(self, delta: LayerDelta) -> None:
        self._delta = delta
        self.outputs: list[Tensor] = []

    def __call__(self, layer: int, x: Tensor) -> Tensor:
        output = self._delta(layer, x)
        self.outputs.append(output)
        return output


class HiddenStates(LayerRule):
    """A rule that keeps each layer's output of one forward."""

    def __init__(self, delta: Adaptation | None) -> None:
        self._rule = rule_of(delta)
        self.entered: Tensor | None = None
        """Input of the first layer."""
        self.outputs: list[Tensor] = []

    def started(self, h: Tensor, tokens: PackedTokens) -> "HiddenStates":
        self.entered = h
        return self

    def finish(self, layer: FrozenLayer, residual: Tensor, h: Tensor) -> Tensor:
        output = self._rule.finish(layer, residual, h)
        self.outputs.append(output)
        return output


HeldOut = Callable[[Embedder], float]
"""Scores an embedder on held-out rows; higher is better."""


@dataclass(frozen=True)
class Scored:
    """An objective, and the score of its model on rows that it is not trained on."""

    objective: Objective
    held_out: HeldOut


Progress = Callable[[int, int, float, float | None], None]
"""(step, steps, loss, held-out score or None)."""
