"""AdapterFusion, stage 2 (Pfeiffer et al., 2021): Q, K, V over frozen adapters."""

from torch import Tensor

from adapterdistill.adapters import AdapterStack, Fusion
from adapterdistill.backbone import Encoder, LayerDelta
from adapterdistill.distill.batches import Batch
from adapterdistill.distill.losses import prototype_loss
from adapterdistill.distill.objective import Objective


class AdapterFusion(Objective):
    """Trains the fusion by the task loss; the adapters, the own one among them, stay frozen."""

    def __init__(
        self,
        encoder: Encoder,
        adapters: AdapterStack,
        fusion: Fusion,
        *,
        value_regulariser: float = 0.01,
    ) -> None:
        super().__init__()
        self._encoder = encoder
        self._adapters = adapters
        self._value_regulariser = value_regulariser
        self.fusion = fusion

    def deployed(self) -> LayerDelta:
        """The whole composition: every adapter and the fusion."""
        return self.fusion.over(self._adapters)

    def parameter_groups(self, learning_rate: float) -> list[dict[str, object]]:
        return [{"params": list(self.fusion.parameters()), "lr": learning_rate}]

    def forward(self, batch: Batch) -> Tensor:
        embeddings = batch.share(self._encoder.embed(batch.tokens, self.deployed()))
        regulariser = self._value_regulariser / batch.world_size * self.fusion.value_regulariser()
        return prototype_loss(embeddings, batch.labels) + regulariser
