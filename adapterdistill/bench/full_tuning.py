"""Full fine-tuning of the encoder, the costly reference: every weight has a trainable copy."""

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from adapterdistill.backbone import Encoder
from adapterdistill.backbone.attach import EncoderWeights, LayerWeights
from adapterdistill.bench.tenants import TextRows
from adapterdistill.distill.batches import Batch
from adapterdistill.distill.losses import prototype_loss
from adapterdistill.distill.method import Objective


class FullTuning(Objective):
    """Float32 copies of the encoder's weights, cast to its dtype in every forward."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self._encoder = encoder
        self._frozen: EncoderWeights = encoder._weights
        self._names, trainable = [], []
        for name, value in _tensors(self._frozen).items():
            self._names.append(name)
            trainable.append(nn.Parameter(value.detach().float().clone()))
        self.weights = nn.ParameterList(trainable)

    def deployed(self) -> Any:
        """Nothing that an adapter's place could hold: `embed_rows` is what this leaves."""
        return None

    def parameter_groups(self, learning_rate: float) -> list[dict[str, object]]:
        return [{"params": list(self.weights), "lr": learning_rate}]

    def forward(self, batch: Batch) -> Tensor:
        embeddings = batch.share(self._tuned().embed(batch.tokens))
        return prototype_loss(embeddings, batch.labels)

    @torch.no_grad()
    def embed_rows(self, rows: TextRows) -> Tensor:
        return self._tuned().embed_ids(rows.ids, batch_size=128)

    def _tuned(self) -> Encoder:
        dtype = self._encoder.dtype
        parts = {n: w.to(dtype) for n, w in zip(self._names, self.weights, strict=True)}
        layers = tuple(
            LayerWeights(**{f.name: parts[f"{i}.{f.name}"] for f in fields(LayerWeights)})
            for i in range(len(self._frozen.layers))
        )
        top = {name: part for name, part in parts.items() if "." not in name}
        weights = replace(self._frozen, layers=layers, **top)
        encoder = self._encoder
        return Encoder(weights, encoder._tokenizer, encoder.ref, max_tokens=encoder.max_tokens)


def _tensors(weights: EncoderWeights) -> dict[str, Tensor]:
    """Every tensor by name, a layer's with its number in front."""
    found = {
        f.name: value
        for f in fields(weights)
        if isinstance(value := getattr(weights, f.name), Tensor)
    }
    for i, layer in enumerate(weights.layers):
        found |= {f"{i}.{f.name}": getattr(layer, f.name) for f in fields(layer)}
    return found
