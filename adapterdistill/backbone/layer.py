"""One frozen layer as pure functions of hidden states, and the rules by which one is run.

A post-LayerNorm layer ends in a LayerNorm of the residual sum f + a, where f is the FFN's output
and a is the attention block's. `FrozenLayer` offers that sum and that LayerNorm separately, so that
a rule can add to the sum, or compute it for some tokens only.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from adapterdistill.backbone.attach import EncoderWeights
from adapterdistill.backbone.packed import (
    ChosenTokens,
    PackedTokens,
    attend,
    attend_chosen,
    attention_scores,
    filled_up,
)
from adapterdistill.backbone.pooling import Head

LayerDelta = Callable[[int, Tensor], Tensor]
"""Maps (layer, x [tokens, hidden]) to what an adapter adds to the FFN's output."""

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


class FrozenLayer:
    """Layer `index` of an encoder. It keeps nothing of a call."""

    def __init__(self, index: int, weights: EncoderWeights) -> None:
        self.index = index
        self._layer = weights.layers[index]
        self._num_heads = weights.num_heads
        self._relative_bias = weights.relative_bias
        self._norm_eps = weights.norm_eps
        self._activation = _ACTIVATIONS[weights.activation]

    def residual(self, h: Tensor, tokens: PackedTokens) -> Tensor:
        """Compute f + a of every token, [tokens, hidden], before the layer's last LayerNorm."""
        w = self._layer
        qkv = F.linear(filled_up(h), w.qkv_weight, w.qkv_bias)[: len(h)]
        return self._after_attention(attend(qkv, tokens, self._num_heads, self._relative_bias), h)

    def residual_of(
        self, h: Tensor, tokens: PackedTokens, chosen: ChosenTokens, *, to_all: bool
    ) -> Tensor:
        """Compute f + a of the chosen tokens only, [chosen, hidden], at the cost of these only.

        Args:
            h: [tokens, hidden], of all tokens.
            to_all: attend to every token of the row, which needs all keys and values; otherwise
                attend to the chosen tokens only.
        """
        w = self._layer
        own = h[chosen.index]
        if to_all:
            size = h.shape[1]
            queries = F.linear(own, w.qkv_weight[:size], w.qkv_bias[:size])
            keys_values = F.linear(h, w.qkv_weight[size:], w.qkv_bias[size:])
        else:
            qkv = F.linear(own, w.qkv_weight, w.qkv_bias)
            queries, keys_values = qkv.tensor_split([h.shape[1]], dim=1)
        mixed = attend_chosen(
            queries, keys_values, tokens, chosen, self._num_heads, self._relative_bias
        )
        return self._after_attention(mixed, own)

    def scores(self, h: Tensor, tokens: PackedTokens) -> Tensor:
        """Compute every row's attention scores, averaged over heads; see `attention_scores`."""
        w, both = self._layer, 2 * self._layer.qkv_weight.shape[0] // 3
        queries_keys = F.linear(h, w.qkv_weight[:both], w.qkv_bias[:both])
        return attention_scores(queries_keys, tokens, self._num_heads, self._relative_bias)

    def norm(self, residual: Tensor) -> Tensor:
        """Apply the layer's last LayerNorm."""
        return self._norm(residual, self._layer.ffn_norm_weight, self._layer.ffn_norm_bias)

    def _after_attention(self, mixed: Tensor, h: Tensor) -> Tensor:
        w = self._layer
        projected = F.linear(filled_up(mixed), w.attention_weight, w.attention_bias)
        a = self._norm(projected[: len(h)] + h, w.attention_norm_weight, w.attention_norm_bias)
        inner = self._activation(F.linear(filled_up(a), w.up_weight, w.up_bias))
        return F.linear(inner, w.down_weight, w.down_bias)[: len(h)] + a

    def _norm(self, h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.layer_norm(h, h.shape[-1:], weight, bias, self._norm_eps)


class LayerRule(ABC):
    """How to run layers with an adapter that does more than add to the FFN's output."""

    @abstractmethod
    def finish(self, layer: FrozenLayer, residual: Tensor, h: Tensor) -> Tensor:
        """Compute a layer's output from its residual sum f + a and its input, [tokens, hidden]."""

    def run(self, layer: FrozenLayer, h: Tensor, tokens: PackedTokens) -> Tensor:
        """Compute the layer's output [tokens, hidden] from its input `h`."""
        return self.finish(layer, layer.residual(h, tokens), h)

    def started(self, h: Tensor, tokens: PackedTokens) -> "LayerRule":
        """Make the rule of one batch, whose `h` enters the first layer. This rule keeps nothing."""
        return self

    def pool(self, h: Tensor, tokens: PackedTokens, head: Head) -> Tensor:
        """Pool the last hidden states to one vector a row, [rows, modes * hidden] float32."""
        return head.pool(h, tokens)


class Sequential(LayerRule):
    """A `LayerDelta` in Pfeiffer's place (`seq_bn`): x = LN(f + a), then LN(f + a + delta(x))."""

    def __init__(self, delta: LayerDelta) -> None:
        self._delta = delta

    def finish(self, layer: FrozenLayer, residual: Tensor, h: Tensor) -> Tensor:
        return layer.norm(residual + self._delta(layer.index, layer.norm(residual)))


class Frozen(LayerRule):
    """The layer as it is."""

    def finish(self, layer: FrozenLayer, residual: Tensor, h: Tensor) -> Tensor:
        return layer.norm(residual)


def rule_of(delta: LayerDelta | LayerRule | None) -> LayerRule:
    """Make a rule of an addition to the FFN's output; return a rule as it is."""
    if isinstance(delta, LayerRule):
        return delta
    return Frozen() if delta is None else Sequential(delta)
