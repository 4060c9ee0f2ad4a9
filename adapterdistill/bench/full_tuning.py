"""Full fine-tuning of the encoder, the costly reference: every weight has a trainable copy."""

from typing import Any

import torch
from torch import Tensor

from adapterdistill.backbone import Encoder
from adapterdistill.backbone.trainable import TrainableEncoder
from adapterdistill.bench.tenants import TextRows
from adapterdistill.distill.batches import Batch
from adapterdistill.distill.losses import prototype_loss
from adapterdistill.distill.method import Objective


class FullTuning(Objective):
    """The tenant's own rows train every weight."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.tuned = TrainableEncoder(encoder)

    def deployed(self) -> Any:
        """Nothing that an adapter's place could hold: `embed_rows` is what this leaves."""
        return None

    def parameter_groups(self, learning_rate: float) -> list[dict[str, object]]:
        return [{"params": list(self.tuned.parameters()), "lr": learning_rate}]

    def forward(self, batch: Batch) -> Tensor:
        embeddings = batch.share(self.tuned.cast().embed(batch.tokens))
        return prototype_loss(embeddings, batch.labels)

    @torch.no_grad()
    def embed_rows(self, rows: TextRows) -> Tensor:
        return self.tuned.cast().embed_ids(rows.ids, batch_size=128)
