"""CoDA, conditional adapters (Lei et al., 2023), for a post-LayerNorm encoder.

At every layer all tokens pass a parallel bottleneck adapter, and k of a row's n tokens the frozen
layer. The paper's layer, of a pre-LayerNorm model, is Y = X + Z_adapter + m * Z_cond, m the soft
top-k weights of a router's scores on the k highest, 0 on the others. There the residual stream
passes a layer unnormalised. Here a layer returns LN(f + a), so that what it adds to the stream is

    Z_adapter = P(X)    Z_cond = LN(f + a + P(X)) - (X + Z_adapter)

with P the bottleneck adapter on the layer's input X, a the attention block's output and f the
FFN's. So Y = (1 - m) (X + P(X)) + m LN(f + a + P(X)): at m = 1 the dense layer with the parallel
adapter exactly, at m = 0 exactly X + Z_adapter, and with a zero up-projection and k = n the frozen
encoder. m is the router's only path to a gradient.

Tokens that are not chosen cost the adapter and the router's score alone: the chosen are gathered,
and the results scattered. A row's choice depends on its own tokens only.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from adapterdistill.adapters.bottleneck import BottleneckAdapter
from adapterdistill.adapters.soft_top_k import (
    descending_ranks,
    exact_soft_top_k,
    soft_top_k,
)
from adapterdistill.backbone import ChosenTokens, FrozenLayer, LayerRule, PackedTokens
from adapterdistill.errors import ConfigError

_INITIAL_SPREAD = 3.0
"""Standard deviation of a new router's scores: far enough apart that m is near 1 on most of k."""


@dataclass(frozen=True)
class Routing:
    """How many tokens pass the frozen layers, and what these see.

    Raises:
        ConfigError: `speed` or `epsilon` is out of range.
    """

    speed: float
    """n / k: of a row of n tokens, k = ceil(n / speed) pass each frozen layer. 1: all, at m = 1."""
    to_all: bool = False
    """Chosen tokens attend to all tokens of their row (k-to-all), else to each other (k-to-k)."""
    epsilon: float = 1.0
    """Softness of the choice's weights."""
    exact: bool = False
    """The optimum of soft top-k instead of the paper's 20 steps towards it."""

    def __post_init__(self) -> None:
        if not 1 <= self.speed < math.inf:
            raise ConfigError(
                f"speed is tokens by chosen tokens, n / k: expected 1 (all) or more, got "
                f"{self.speed}"
            )
        if not 0 < self.epsilon < math.inf:
            raise ConfigError(f"epsilon must be above 0, got {self.epsilon}")

    def chosen_of(self, length: int) -> int:
        """k for a row of this many tokens."""
        return min(length, math.ceil(length / self.speed))


class Parallel(LayerRule):
    """The dense layer with the adapter on its input: LN(f + a + P(X))."""

    def __init__(self, adapter: BottleneckAdapter) -> None:
        self._adapter = adapter

    def run(self, layer: FrozenLayer, h: Tensor, tokens: PackedTokens) -> Tensor:
        return layer.norm(layer.residual(h, tokens) + self._adapter(layer.index, h))


class ConditionalAdapter(nn.Module):
    """A parallel adapter and a router for all layers.

    Parameters (float32; L layers, d hidden): the adapter's, and `router` [L, d].
    """

    def __init__(self, adapter: BottleneckAdapter, router: Float[Tensor, "L d"]) -> None:
        super().__init__()
        expected = (adapter.num_layers, adapter.hidden_size)
        if router.shape != expected:
            raise ValueError(f"router has shape {tuple(router.shape)}, expected {expected}")
        self.adapter = adapter
        self.router = nn.Parameter(router)

    @classmethod
    def new(cls, adapter: BottleneckAdapter, *, seed: int) -> "ConditionalAdapter":
        """A copy of `adapter` with a random router."""
        shape = (adapter.num_layers, adapter.hidden_size)
        generator = torch.Generator().manual_seed(seed)
        router = torch.randn(shape, generator=generator) * (_INITIAL_SPREAD / shape[1] ** 0.5)
        return cls(adapter.copy(), router.to(adapter.down_weight.device))

    def at(self, routing: Routing) -> LayerRule:
        """What the encoder runs; at speed 1 the dense layer with the parallel adapter."""
        return Parallel(self.adapter) if routing.speed == 1 else Conditional(self, routing)

    def scores(self, layer: int, h: Float[Tensor, "tokens d"]) -> Float[Tensor, " tokens"]:
        """The router's scores s = LN(X) w, float32; the LayerNorm has no weights."""
        return F.layer_norm(h.float(), h.shape[-1:]) @ self.router[layer]


class Conditional(LayerRule):
    """The conditional layer at one speed."""

    def __init__(self, conditional: ConditionalAdapter, routing: Routing) -> None:
        self._conditional = conditional
        self._routing = routing

    def run(self, layer: FrozenLayer, h: Tensor, tokens: PackedTokens) -> Tensor:
        chosen, m = choose(self._conditional.scores(layer.index, h), tokens, self._routing)
        return self.with_choice(layer, h, tokens, chosen, m)

    def with_choice(
        self, layer: FrozenLayer, h: Tensor, tokens: PackedTokens, chosen: ChosenTokens, m: Tensor
    ) -> Tensor:
        """The layer's output when `chosen` tokens pass it with weights m, [chosen]."""
        added = self._conditional.adapter(layer.index, h)
        past = h + added
        residual = layer.residual_of(h, tokens, chosen, to_all=self._routing.to_all)
        through = layer.norm(residual + added[chosen.index])
        mixed = past[chosen.index].lerp(through, m.to(h.dtype)[:, None])
        output: Tensor = past.index_copy(0, chosen.index, mixed)
        return output


def choose(
    scores: Float[Tensor, " tokens"], tokens: PackedTokens, routing: Routing
) -> tuple[ChosenTokens, Float[Tensor, " chosen"]]:
    """Each row's k highest scores (ties: the earlier token), and their soft top-k weights.

    Rows of which all tokens are chosen have weights of 1.
    """
    groups = tuple((rows, routing.chosen_of(length), length) for rows, length in tokens.groups)
    each = [(k, length) for rows, k, length in groups for _ in range(rows)]
    k, lengths = torch.tensor(each, device=scores.device).T
    padded = scores.new_full((len(each), groups[-1][2]), -torch.inf)
    padded = padded.index_put((tokens.place, tokens.position), scores)
    solve = exact_soft_top_k if routing.exact else soft_top_k
    weights = solve(padded, k, epsilon=routing.epsilon)
    weights = torch.where((k == lengths)[:, None], 1.0, weights)
    is_chosen = (descending_ranks(padded) < k[:, None])[tokens.place, tokens.position]
    index = is_chosen.nonzero().flatten()
    return ChosenTokens(index, groups), weights[tokens.place[index], tokens.position[index]]
