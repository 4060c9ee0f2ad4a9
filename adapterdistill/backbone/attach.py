"""Weights of the supported Hugging Face encoders in one canonical form.

No other file knows the encoders' module names. All families are post-LayerNorm transformers. They
differ in names, position ids, segment embeddings and, for MPNet, a relative position bias. The
tensors that are read share memory with the Hugging Face module.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from adapterdistill.errors import EncoderError


@dataclass(frozen=True)
class LayerWeights:
    """One layer. Linear weights are [out, in]; `norm_*` follow the attention and FFN blocks."""

    qkv_weight: Tensor
    qkv_bias: Tensor
    attention_weight: Tensor
    attention_bias: Tensor
    attention_norm_weight: Tensor
    attention_norm_bias: Tensor
    up_weight: Tensor
    up_bias: Tensor
    down_weight: Tensor
    down_bias: Tensor
    ffn_norm_weight: Tensor
    ffn_norm_bias: Tensor


@dataclass(frozen=True)
class EncoderWeights:
    """A whole encoder in canonical form."""

    words: Tensor
    """[vocabulary, hidden]"""
    positions: Tensor
    """[max positions, hidden], from position 0 on; the segment embedding is added."""
    embedding_norm_weight: Tensor
    embedding_norm_bias: Tensor
    layers: tuple[LayerWeights, ...]
    relative_bias: Tensor | None
    """[heads, max positions, max positions] (MPNet), else None."""
    num_heads: int
    norm_eps: float
    activation: str

    def tensors(self) -> dict[str, Tensor]:
        """Map names to tensors; a layer's names begin with its number: `3.up_weight`."""
        found = {
            f.name: value
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        for i, layer in enumerate(self.layers):
            found |= {f"{i}.{f.name}": getattr(layer, f.name) for f in fields(layer)}
        return found

    @property
    def num_positions(self) -> int:
        """Most tokens of a row."""
        return len(self.positions)

    def copied_to(self, device: torch.device, dtype: torch.dtype) -> "EncoderWeights":
        """Copy all tensors. Weights that were just read may be a mapped file and change with it."""

        def move(value: Any) -> Any:
            return value.to(device, dtype, copy=True) if isinstance(value, Tensor) else value

        layers = tuple(
            LayerWeights(**{f.name: move(getattr(layer, f.name)) for f in fields(layer)})
            for layer in self.layers
        )
        rest = {f.name: move(getattr(self, f.name)) for f in fields(self) if f.name != "layers"}
        return EncoderWeights(layers=layers, **rest)


def _layer(
    qkv: tuple[nn.Linear, nn.Linear, nn.Linear],
    attention: nn.Linear,
    attention_norm: nn.LayerNorm,
    up: nn.Linear,
    down: nn.Linear,
    ffn_norm: nn.LayerNorm,
) -> LayerWeights:
    return LayerWeights(
        torch.cat([part.weight for part in qkv]),
        torch.cat([part.bias for part in qkv]),
        attention.weight,
        attention.bias,
        attention_norm.weight,
        attention_norm.bias,
        up.weight,
        up.bias,
        down.weight,
        down.bias,
        ffn_norm.weight,
        ffn_norm.bias,
    )


def _bert_layer(layer: Any) -> LayerWeights:
    attention, own = layer.attention, layer.attention.self
    return _layer(
        (own.query, own.key, own.value),
        attention.output.dense,
        attention.output.LayerNorm,
        layer.intermediate.dense,
        layer.output.dense,
        layer.output.LayerNorm,
    )


def _mpnet_layer(layer: Any) -> LayerWeights:
    own = layer.attention.attn
    return _layer(
        (own.q, own.k, own.v),
        own.o,
        layer.attention.LayerNorm,
        layer.intermediate.dense,
        layer.output.dense,
        layer.output.LayerNorm,
    )


def _distilbert_layer(layer: Any) -> LayerWeights:
    own = layer.attention
    return _layer(
        (own.q_lin, own.k_lin, own.v_lin),
        own.out_lin,
        layer.sa_layer_norm,
        layer.ffn.lin1,
        layer.ffn.lin2,
        layer.output_layer_norm,
    )


def _mpnet_bias(model: Any, length: int) -> Tensor:
    """Compute MPNet's relative position bias (Song et al., 2020), [heads, length, length]."""
    bias: Tensor = model.encoder.compute_position_bias(torch.zeros(1, length, 1))
    return bias[0].contiguous()


@dataclass(frozen=True)
class _Family:
    layers: Callable[[Any], Any]
    layer: Callable[[Any], LayerWeights]
    first_position: Callable[[Any], int]
    segments: bool


def _after_padding(config: Any) -> int:
    return int(config.pad_token_id) + 1


def _zero(config: Any) -> int:
    return 0


def _mpnet_first(config: Any) -> int:
    # MPNet's embeddings fix padding_idx = 1 whatever the configuration says.
    return 2


_FAMILIES = {
    "bert": _Family(lambda m: m.encoder.layer, _bert_layer, _zero, True),
    "roberta": _Family(lambda m: m.encoder.layer, _bert_layer, _after_padding, True),
    "xlm-roberta": _Family(lambda m: m.encoder.layer, _bert_layer, _after_padding, True),
    "mpnet": _Family(lambda m: m.encoder.layer, _mpnet_layer, _mpnet_first, False),
    "distilbert": _Family(lambda m: m.transformer.layer, _distilbert_layer, _zero, False),
}
_ACTIVATIONS = ("gelu", "relu", "gelu_new", "gelu_pytorch_tanh", "silu")


def check_family(model_type: str) -> None:
    """Raise EncoderError if encoders of this family cannot be read."""
    if model_type not in _FAMILIES:
        raise EncoderError(
            f"encoder family {model_type!r} is not supported: expected one of "
            f"{', '.join(sorted(_FAMILIES))}"
        )


def check_supported(config: Any) -> None:
    """Raise EncoderError if an encoder of this Hugging Face configuration cannot be read."""
    check_family(config.model_type)
    if getattr(config, "is_decoder", False):
        raise EncoderError("encoder is configured as a decoder, which sees no later token")
    activation = _activation(config)
    position_kind = getattr(config, "position_embedding_type", "absolute")
    if activation not in _ACTIVATIONS or position_kind not in ("absolute", None):
        raise EncoderError(
            f"encoder needs activation {activation!r} and {position_kind!r} positions: supported "
            f"are {', '.join(_ACTIVATIONS)} and absolute positions"
        )


def _activation(config: Any) -> str:
    return str(config.activation if config.model_type == "distilbert" else config.hidden_act)


def read_weights(model: Any) -> EncoderWeights:
    """Read a Hugging Face encoder whose configuration `check_supported` accepted."""
    config = model.config
    family = _FAMILIES[config.model_type]
    embeddings = model.embeddings
    first = family.first_position(config)
    positions = embeddings.position_embeddings.weight[first:]
    if family.segments:
        positions = positions + embeddings.token_type_embeddings.weight[0]
    norm = embeddings.LayerNorm
    return EncoderWeights(
        words=embeddings.word_embeddings.weight,
        positions=positions,
        embedding_norm_weight=norm.weight,
        embedding_norm_bias=norm.bias,
        layers=tuple(family.layer(layer) for layer in family.layers(model)),
        relative_bias=_mpnet_bias(model, len(positions)) if config.model_type == "mpnet" else None,
        num_heads=config.num_attention_heads,
        norm_eps=norm.eps,
        activation=_activation(config),
    )
