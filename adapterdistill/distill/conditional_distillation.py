"""The light training of CoDA (Lei et al., 2023): a dense adapter into a conditional one.

The paper continues the pretraining of its encoder with routing on. Here the conditional adapter
starts as the tenant's dense parallel adapter with a random router, and learns to give the hidden
states of every layer and the similarities between texts that the dense one gives. No label is used:
any texts will do, the tenant's and public ones (`imitation_rows`).
"""

import torch
from torch import Tensor

from adapterdistill.adapters import ConditionalAdapter, Parallel, Routing
from adapterdistill.backbone import Adaptation, Encoder, LayerRule
from adapterdistill.distill.batches import Batch
from adapterdistill.distill.losses import feature_distance, relation_distance
from adapterdistill.distill.method import HiddenStates, Objective, OwnAdapter


class OwnParallelAdapter(OwnAdapter):
    """Stage 1 with the adapter on the layers' input: the dense form of a conditional adapter."""

    def deployed(self) -> Parallel:
        return Parallel(self.student)


class ConditionalDistillation(Objective):
    """Trains adapter and router towards what a dense model gives."""

    def __init__(
        self,
        encoder: Encoder,
        conditional: ConditionalAdapter,
        dense: Adaptation | None,
        routing: Routing,
    ) -> None:
        """
        Args:
            dense: the frozen teacher: a dense parallel adapter, any other adapter, or None for
                the encoder itself.
        """
        super().__init__()
        self._encoder = encoder
        self._dense = dense
        self._routing = routing
        self.conditional = conditional

    def deployed(self) -> LayerRule:
        return self.conditional.at(self._routing)

    def parameter_groups(self, learning_rate: float) -> list[dict[str, object]]:
        return [{"params": list(self.conditional.parameters()), "lr": learning_rate}]

    def forward(self, batch: Batch) -> Tensor:
        goal, found = HiddenStates(self._dense), HiddenStates(self.deployed())
        with torch.no_grad():
            teacher = batch.share(self._encoder.embed(batch.tokens, goal))
        student = batch.share(self._encoder.embed(batch.tokens, found))
        # Relative to the length of the teacher's state, which differs between layers.
        lengths = [state.float().norm(dim=-1, keepdim=True) for state in goal.outputs]
        distance = feature_distance(
            [state / length for state, length in zip(found.outputs, lengths, strict=True)],
            [state / length for state, length in zip(goal.outputs, lengths, strict=True)],
            total_tokens=batch.total_tokens,
        )
        return distance + relation_distance(student, teacher)
