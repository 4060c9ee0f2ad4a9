"""Encoders whose weights are trained: whole ones, and thinner ones cut from a frozen one."""

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor, nn

from adapterdistill.backbone.encoder import Encoder
from adapterdistill.backbone.weights import EncoderWeights, LayerWeights
from adapterdistill.errors import ConfigError


class TrainableEncoder(nn.Module):
    """Float32 copies of an encoder's weights, cast to its dtype in every forward."""

    def __init__(self, encoder: Encoder, *, frozen: Collection[str] = ()) -> None:
        """`frozen` names weights that are not trained, such as `words`: most of the parameters."""
        super().__init__()
        self._encoder = encoder
        found = encoder.weights.tensors()
        self._names = [name for name in found if name not in frozen]
        self.parts = nn.ParameterList(
            nn.Parameter(found[name].detach().float().clone()) for name in self._names
        )

    def cast(self) -> Encoder:
        """Make an encoder of the present weights, through which gradients reach them."""
        frozen, dtype = self._encoder.weights, self._encoder.dtype
        parts = {n: part.to(dtype) for n, part in zip(self._names, self.parts, strict=True)}
        return self._encoder.with_weights(frozen.with_tensors(frozen.tensors() | parts))


@torch.no_grad()
def thinner(encoder: Encoder, *, num_layers: int, num_heads: int) -> Encoder:
    """Cut an encoder of `num_layers` layers with `num_heads` heads each out of `encoder`.

    Layers are taken evenly, from the first on. Each keeps the heads with the largest weights and
    the same share of the FFN's units. Hidden size and word embeddings stay the same, so that what
    is kept reads and writes the same states. The result is a start for training.

    Raises:
        ConfigError: that is no layer or head, or more than `encoder` has.
    """
    w = encoder.weights
    for name, asked, there in (
        ("layers", num_layers, encoder.num_layers),
        ("attention heads", num_heads, w.num_heads),
    ):
        if not 1 <= asked <= there:
            raise ConfigError(
                f"a student of {asked} {name}: its teacher has {there}; take 1 to {there}"
            )
    if w.relative_bias is not None and num_heads < w.num_heads:
        raise ConfigError(
            f"encoder {encoder.ref.name} shares a position bias between its layers by head: its "
            f"student needs all {w.num_heads} heads"
        )
    w = w.chosen([i * encoder.num_layers // num_layers for i in range(num_layers)])
    layers = tuple(_thinner(w, layer, num_heads) for layer in w.layers)
    return encoder.with_weights(replace(w, layers=layers, num_heads=num_heads))


def _thinner(weights: EncoderWeights, layer: LayerWeights, num_heads: int) -> LayerWeights:
    of_heads, hidden = weights.num_heads, weights.hidden_size
    head_size = hidden // of_heads
    values = layer.qkv_weight[2 * hidden :].float().view(of_heads, -1).norm(dim=1)
    outputs = layer.attention_weight.float().view(hidden, of_heads, head_size).norm(dim=(0, 2))
    heads = _largest(values * outputs, num_heads)
    columns = (heads[:, None] * head_size + torch.arange(head_size, device=heads.device)).flatten()
    qkv = torch.cat([columns, hidden + columns, 2 * hidden + columns])
    ups, downs = layer.up_weight.float().norm(dim=1), layer.down_weight.float().norm(dim=0)
    # In a gated FFN the value's row and the gate's are one unit.
    strength = (ups.view(2, -1).prod(0) if weights.gated else ups) * downs
    inner = _largest(strength, max(1, len(strength) * num_heads // of_heads))
    up = torch.cat([inner, len(strength) + inner]) if weights.gated else inner
    keys, queries = layer.position_keys, layer.position_queries
    return replace(
        layer,
        position_keys=None if keys is None else keys[:, columns],
        position_queries=None if queries is None else queries[:, columns],
        qkv_weight=layer.qkv_weight[qkv],
        qkv_bias=layer.qkv_bias[qkv],
        attention_weight=layer.attention_weight[:, columns],
        up_weight=layer.up_weight[up],
        up_bias=layer.up_bias[up],
        down_weight=layer.down_weight[:, inner],
    )


def _largest(values: Tensor, count: int) -> Tensor:
    """Find the places of the `count` largest values, in ascending order."""
    return values.topk(count).indices.sort().values
