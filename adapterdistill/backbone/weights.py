"""Weights of an encoder in one canonical form, whatever family its file is of."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from adapterdistill.backbone.positions import Distances


@dataclass(frozen=True)
class LayerWeights:
    """One layer. Linear weights are [out, in]; a bias that the family lacks is zeros.

    In a post-LayerNorm encoder `attention_norm_*` and `ffn_norm_*` follow the attention and FFN
    blocks; in a pre-LayerNorm encoder they precede them.
    """

    qkv_weight: Tensor
    qkv_bias: Tensor
    attention_weight: Tensor
    attention_bias: Tensor
    up_weight: Tensor
    """[inner, hidden]; in a gated FFN [2 * inner, hidden], the gate's rows last."""
    up_bias: Tensor
    down_weight: Tensor
    down_bias: Tensor
    ffn_norm_weight: Tensor
    ffn_norm_bias: Tensor
    attention_norm_weight: Tensor | None
    """None where there is no LayerNorm, before ModernBERT's first attention block."""
    attention_norm_bias: Tensor | None
    position_keys: Tensor | None = None
    """[distances, hidden] (DeBERTa), which queries are compared with, else None."""
    position_queries: Tensor | None = None
    """[distances, hidden] (DeBERTa), which keys are compared with, else None."""

    def tensors(self) -> dict[str, Tensor]:
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class EncoderWeights:
    """A whole encoder in canonical form."""

    words: Tensor
    """[vocabulary, embedding]; with rotary or relative positions, segment 0 is added."""
    positions: Tensor | None
    """[max positions, embedding], from position 0 on; the segment embedding is added."""
    embedding_norm_weight: Tensor
    embedding_norm_bias: Tensor
    layers: tuple[LayerWeights, ...]
    num_positions: int
    """Most tokens of a row."""
    num_heads: int
    norm_eps: float
    activation: str
    projection_weight: Tensor | None = None
    """[hidden, embedding], from the embedding to the first layer, where their widths differ."""
    projection_bias: Tensor | None = None
    final_norm_weight: Tensor | None = None
    """[hidden], after the last layer of a pre-LayerNorm encoder; None in a post-LayerNorm one."""
    final_norm_bias: Tensor | None = None
    relative_bias: Tensor | None = None
    """[heads, max positions, max positions] (MPNet), else None."""
    gated: bool = False
    rotary: tuple[tuple[float, ...] | None, ...] = ()
    """Each layer's rotary frequencies, radians a position; empty for no rotary positions."""
    windows: tuple[int | None, ...] = ()
    """How many tokens to each side each layer attends to, None for all; empty for all layers."""
    distances: Distances | None = None
    """What `position_keys` and `position_queries` are indexed by (DeBERTa), else None."""

    @property
    def hidden_size(self) -> int:
        return self.layers[0].down_weight.shape[0]

    @property
    def pre_norm(self) -> bool:
        return self.final_norm_weight is not None

    def tensors(self) -> dict[str, Tensor]:
        """Map names to tensors; a layer's names begin with its number: `3.up_weight`."""
        found = self._own()
        for i, layer in enumerate(self.layers):
            found |= {f"{i}.{name}": value for name, value in layer.tensors().items()}
        return found

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> "EncoderWeights":
        """Make weights of the same kind from tensors that are named as in `tensors`."""
        layers = tuple(
            replace(layer, **{name: tensors[f"{i}.{name}"] for name in layer.tensors()})
            for i, layer in enumerate(self.layers)
        )
        own: dict[str, Any] = {name: tensors[name] for name in self._own()}
        return replace(self, layers=layers, **own)

    def copied_to(self, device: torch.device, dtype: torch.dtype) -> "EncoderWeights":
        """Copy all tensors. Weights that were just read may be a mapped file and change with it.

        Layers that share their weights (ALBERT) share the copy.
        """
        copies: dict[int, Tensor] = {}

        def copied(value: Tensor) -> Tensor:
            if id(value) not in copies:
                copies[id(value)] = value.to(device, dtype, copy=True)
            return copies[id(value)]

        return self.with_tensors({name: copied(part) for name, part in self.tensors().items()})

    def chosen(self, indices: list[int]) -> "EncoderWeights":
        """Make an encoder of these layers."""

        def of(each: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(each[i] for i in indices) if each else ()

        return replace(
            self, layers=of(self.layers), rotary=of(self.rotary), windows=of(self.windows)
        )

    def _own(self) -> dict[str, Tensor]:
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}
