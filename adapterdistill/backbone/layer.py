"""One frozen layer as pure functions of hidden states, and the rules by which one is run.

A layer's residual sum is f + a, where f is the FFN's output and a is the attention block's.
A post-LayerNorm layer ends in a LayerNorm of that sum. A pre-LayerNorm layer ends in the sum
itself. `FrozenLayer` offers the sum and that end separately, so that a rule can add to the sum, or
compute it for some tokens only. There are thus two contracts for where an adapter acts, each as in
the adapters library's `seq_bn`:

- post-LayerNorm: x = LN(f + a), and the layer's output is LN(f + a + delta(x));
- pre-LayerNorm: x = f + a, and the layer's output is f + a + delta(x). The encoder's final
  LayerNorm follows the last layer's output.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from adapterdistill.backbone.linear import FrozenLinear
from adapterdistill.backbone.packed import (
    ChosenTokens,
    PackedTokens,
    attend,
    attend_chosen,
    attention_scores,
    filled_up,
)
from adapterdistill.backbone.pooling import Head
from adapterdistill.backbone.positions import (
    Bias,
    disentangled_bias,
    rotated,
    table_bias,
    window_bias,
)
from adapterdistill.backbone.weights import EncoderWeights

LayerDelta = Callable[[int, Tensor], Tensor]
"""Maps (layer, x [tokens, hidden]) to what an adapter adds to the FFN's output."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


class FrozenLayer:
    """Layer `index` of an encoder. It keeps nothing of a call."""

    def __init__(
        self,
        index: int,
        weights: EncoderWeights,
        linear: Callable[[Tensor, Tensor], FrozenLinear] = FrozenLinear,
    ) -> None:
        """`linear` makes the product with a matrix [out, in] and a bias [out]."""
        self.index = index
        self._layer = w = weights.layers[index]
        self._qkv = linear(w.qkv_weight, w.qkv_bias)
        self._attention = linear(w.attention_weight, w.attention_bias)
        self._up = linear(w.up_weight, w.up_bias)
        self._down = linear(w.down_weight, w.down_bias)
        self._weights = weights
        self._rotary = weights.rotary[index] if weights.rotary else None
        self._window = weights.windows[index] if weights.windows else None
        self._activation = ACTIVATIONS[weights.activation]

    def residual(self, h: Tensor, tokens: PackedTokens) -> Tensor:
        """Compute f + a of every token, [tokens, hidden], before the layer's last LayerNorm."""
        qkv = self._qkv(self._qkv.filled_up(self._before_attention(h)))[: len(h)]
        if self._rotary:
            queries_keys, values = qkv.tensor_split([2 * qkv.shape[1] // 3], dim=1)
            qkv = torch.cat([self._placed(queries_keys, tokens.position, tokens), values], dim=1)
        mixed = attend(qkv, tokens, self._weights.num_heads, self._bias(tokens))
        return self._after_attention(mixed, h)

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
        size = len(w.qkv_bias) // 3
        position = tokens.position[chosen.index]
        if to_all:
            before = self._before_attention(own)
            queries = F.linear(before, w.qkv_weight[:size], w.qkv_bias[:size])
            before = self._before_attention(h)
            keys_values = F.linear(before, w.qkv_weight[size:], w.qkv_bias[size:])
        else:
            qkv = F.linear(self._before_attention(own), w.qkv_weight, w.qkv_bias)
            queries, keys_values = qkv.tensor_split([size], dim=1)
        if self._rotary:
            keys, values = keys_values.tensor_split(2, dim=1)
            queries = self._placed(queries, position, tokens)
            keys = self._placed(keys, tokens.position if to_all else position, tokens)
            keys_values = torch.cat([keys, values], dim=1)
        mixed = attend_chosen(
            queries, keys_values, tokens, chosen, self._weights.num_heads, self._bias(tokens)
        )
        return self._after_attention(mixed, own)

    def scores(self, h: Tensor, tokens: PackedTokens) -> Tensor:
        """Compute every row's attention scores, averaged over heads; see `attention_scores`.

        A window is left out: beyond it scores would be minus infinity.
        """
        w, both = self._layer, 2 * self._layer.qkv_weight.shape[0] // 3
        queries_keys = F.linear(self._before_attention(h), w.qkv_weight[:both], w.qkv_bias[:both])
        if self._rotary:
            queries_keys = self._placed(queries_keys, tokens.position, tokens)
        bias = self._bias(tokens, windowed=False)
        return attention_scores(queries_keys, tokens, self._weights.num_heads, bias)

    def norm(self, residual: Tensor) -> Tensor:
        """End the layer: its last LayerNorm, or nothing in a pre-LayerNorm layer."""
        if self._weights.pre_norm:
            return residual
        return self._norm(residual, self._layer.ffn_norm_weight, self._layer.ffn_norm_bias)

    def _before_attention(self, h: Tensor) -> Tensor:
        w = self._layer
        if not self._weights.pre_norm or w.attention_norm_weight is None:
            return h
        return self._norm(h, w.attention_norm_weight, w.attention_norm_bias)

    def _after_attention(self, mixed: Tensor, h: Tensor) -> Tensor:
        w = self._layer
        a = self._attention(self._attention.filled_up(mixed))[: len(h)] + h
        if self._weights.pre_norm:
            read = self._norm(a, w.ffn_norm_weight, w.ffn_norm_bias)
        else:
            a = read = self._norm(a, w.attention_norm_weight, w.attention_norm_bias)
        inner = self._up(self._up.filled_up(read))
        if self._weights.gated:
            values, gates = inner.chunk(2, dim=1)
            inner = self._activation(gates) * values
        else:
            inner = self._activation(inner)
        return self._down(inner)[: len(h)] + a

    def _placed(self, heads: Tensor, position: Tensor, tokens: PackedTokens) -> Tensor:
        """Rotate queries or keys, if this layer has rotary positions."""
        assert self._rotary is not None, "a layer without rotary positions"
        return rotated(heads, position, self._rotary, longest=tokens.groups[-1][1])

    def _bias(self, tokens: PackedTokens, *, windowed: bool = True) -> Bias | None:
        """Make what is added to the scores of this batch, which depends on its longest row."""
        w = self._weights
        if w.relative_bias is not None:
            return table_bias(w.relative_bias)
        if w.distances is not None:
            keys, queries = self._layer.position_keys, self._layer.position_queries
            return disentangled_bias(keys, queries, w.distances)
        if windowed and self._window is not None and tokens.groups[-1][1] > self._window + 1:
            return window_bias(self._window)
        return None

    def _norm(self, h: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return F.layer_norm(h, h.shape[-1:], weight, bias, self._weights.norm_eps)


def embed_tokens(weights: EncoderWeights, tokens: PackedTokens) -> Tensor:
    """Compute what enters the first layer, [tokens, hidden]."""
    w = weights
    h = F.embedding(tokens.input_ids, w.words)
    if w.positions is not None:
        h = h + F.embedding(tokens.position, w.positions)
    h = F.layer_norm(h, h.shape[-1:], w.embedding_norm_weight, w.embedding_norm_bias, w.norm_eps)
    if w.projection_weight is None:
        return h
    return F.linear(filled_up(h), w.projection_weight, w.projection_bias)[: len(h)]


def end_layers(weights: EncoderWeights, h: Tensor) -> Tensor:
    """Turn the last layer's output into the last hidden states, [tokens, hidden]."""
    w = weights
    if w.final_norm_weight is None:
        return h
    return F.layer_norm(h, h.shape[-1:], w.final_norm_weight, w.final_norm_bias, w.norm_eps)


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
    """A `LayerDelta` in Pfeiffer's place: x = LN(f + a), then LN(f + a + delta(x)).

    In a pre-LayerNorm layer, which has no LayerNorm there, x = f + a, then f + a + delta(x).
    """

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
