"""Encoders whose weights are trained: whole ones, and smaller ones cut out of a frozen one."""

from dataclasses import fields, replace

import torch
from torch import Tensor, nn

from adapterdistill.backbone.attach import LayerWeights
from adapterdistill.backbone.encoder import Encoder
from adapterdistill.errors import ConfigError


class TrainableEncoder(nn.Module):
    """Float32 copies of an encoder's weights, cast to its dtype in every forward."""

    def __init__(self, encoder: Encoder, *, train_words: bool = True) -> None:
        """`train_words` False keeps the word embeddings as they are: most of the parameters."""
        super().__init__()
        self._encoder = encoder
        found = encoder.weights.tensors()
        self._names = [name for name in found if train_words or name != "words"]
        self.parts = nn.ParameterList(
            nn.Parameter(found[name].detach().float().clone()) for name in self._names
        )

    def cast(self) -> Encoder:
        """The encoder of the present weights, with gradients to them."""
        frozen, dtype = self._encoder.weights, self._encoder.dtype
        parts = {n: part.to(dtype) for n, part in zip(self._names, self.parts, strict=True)}
        layers = tuple(
            LayerWeights(**{f.name: parts[f"{i}.{f.name}"] for f in fields(LayerWeights)})
            for i in range(len(frozen.layers))
        )
        top = {name: part for name, part in parts.items() if "." not in name}
        return self._encoder.with_weights(replace(frozen, layers=layers, **top))


@torch.no_grad()
def smaller(encoder: Encoder, *, num_layers: int, width: int) -> Encoder:
    """An encoder of `width` hidden units and `num_layers` layers, all cut out of `encoder`.

    Layers are taken evenly, from the first on; hidden units are those that vary most over the
    vocabulary; attention heads the first ones; FFN units, in the same proportion, those of the
    largest weights. At full width the layers are exactly the encoder's. A start for training, not
    an encoder of its own.

    Raises:
        ConfigError: it would be deeper or wider than `encoder`, or its width is not a whole number
            of attention heads.
    """
    w, hidden = encoder.weights, encoder.hidden_size
    if not 1 <= num_layers <= encoder.num_layers:
        raise ConfigError(
            f"a student of {num_layers} layers: its teacher has {encoder.num_layers}; take 1 to "
            f"{encoder.num_layers}"
        )
    head_size = hidden // w.num_heads
    if not 1 <= width <= hidden or width % head_size:
        raise ConfigError(
            f"a student {width} units wide: take a multiple of {head_size} (an attention head) up "
            f"to its teacher's {hidden}"
        )
    spread = w.words.float().var(0) * w.embedding_norm_weight.float().square()
    units = _largest(spread, width)
    chosen = [w.layers[i * encoder.num_layers // num_layers] for i in range(num_layers)]
    return encoder.with_weights(
        replace(
            w,
            words=w.words[:, units],
            positions=w.positions[:, units],
            embedding_norm_weight=w.embedding_norm_weight[units],
            embedding_norm_bias=w.embedding_norm_bias[units],
            layers=tuple(_smaller_layer(layer, units) for layer in chosen),
            relative_bias=None
            if w.relative_bias is None
            else w.relative_bias[: width // head_size],
            num_heads=width // head_size,
        )
    )


def _smaller_layer(layer: LayerWeights, units: Tensor) -> LayerWeights:
    width, hidden = len(units), len(layer.ffn_norm_weight)
    strength = layer.up_weight.float().norm(dim=1) * layer.down_weight.float().norm(dim=0)
    inner = _largest(strength, len(strength) * width // hidden)
    heads = torch.arange(width, device=units.device)
    qkv = torch.cat([heads, hidden + heads, 2 * hidden + heads])
    return LayerWeights(
        qkv_weight=layer.qkv_weight[qkv][:, units],
        qkv_bias=layer.qkv_bias[qkv],
        attention_weight=layer.attention_weight[units][:, heads],
        attention_bias=layer.attention_bias[units],
        attention_norm_weight=layer.attention_norm_weight[units],
        attention_norm_bias=layer.attention_norm_bias[units],
        up_weight=layer.up_weight[inner][:, units],
        up_bias=layer.up_bias[inner],
        down_weight=layer.down_weight[units][:, inner],
        down_bias=layer.down_bias[units],
        ffn_norm_weight=layer.ffn_norm_weight[units],
        ffn_norm_bias=layer.ffn_norm_bias[units],
    )


def _largest(values: Tensor, count: int) -> Tensor:
    """Places of the `count` largest values, in order of place."""
    return values.topk(count).indices.sort().values
