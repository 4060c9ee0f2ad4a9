"""CoDA, conditional adapters (Lei et al., 2023), for a post-LayerNorm encoder.

A router chooses k of a row's n tokens. These pass the frozen layers; the others pass a bottleneck
adapter only. The paper's layer (pre-LayerNorm) is Y = X + Z_adapter + m * Z_cond, where m holds the
soft top-k weights of the k highest router scores and 0 for all other tokens. Here

    Z_adapter = S(X)    Z_cond = D(X) - (X + S(X))    so Y = (1 - m) (X + S(X)) + m D(X)

where S is the adapter of skipping tokens and D is the tenant's dense layer with its own adapter.
So a token with m = 1 passes as in the dense model, and k = n is exactly the dense model.

Departures from the paper (figures in docs/measurements/skipping-tokens.md):
- Tokens are chosen once a text, from the input of the first layer. The layers of a post-LayerNorm
  encoder differ so much that a token which skipped one is out of distribution for the next.
- The embedding is the mean of the chosen tokens, because the states of the skipped ones would
  dominate it.
- m is 1 for chosen tokens and has the gradient of the soft top-k (straight-through estimator): as a
  factor it would mix states of different layers.
- The first and the last token are special tokens, on which attention rests, so they are always
  chosen. Repeated tokens rank below all others, because a score of one token cannot know that the
  row had it before.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from adapterdistill.adapters.bottleneck import BottleneckAdapter
from adapterdistill.adapters.soft_top_k import descending_ranks, exact_soft_top_k, soft_top_k
from adapterdistill.backbone import (
    ChosenTokens,
    FrozenLayer,
    Head,
    LayerRule,
    PackedTokens,
    rule_of,
)
from adapterdistill.errors import ConfigError

LEAST = 16
_APART = 100.0
"""Added to special tokens' scores and subtracted from repeated ones'; scores differ by less."""


@dataclass(frozen=True)
class Routing:
    """How many tokens pass the frozen layers, and which tokens they attend to.

    Raises:
        ConfigError: `speed`, `least` or `epsilon` is out of range.
    """

    speed: float
    """n / k: k = ceil(n / speed) of a row's n tokens pass the frozen layers; at 1 all do."""
    least: int = LEAST
    """Tokens that pass in any case: a short text has none to spare and saves little time."""
    to_all: bool = True
    """Whether chosen tokens attend to their whole row (k-to-all) or to each other (k-to-k)."""
    epsilon: float = 1.0
    """Softness of the choice; only gradients depend on it."""
    exact: bool = True
    """Whether to solve soft top-k exactly in one sort, not by the paper's 20 annealed steps."""

    def __post_init__(self) -> None:
        if not 1 <= self.speed < math.inf:
            raise ConfigError(
                f"speed is tokens by chosen tokens, n / k: expected 1 (all) or more, got "
                f"{self.speed}"
            )
        if self.least < 3:
            raise ConfigError(
                f"least must leave a token beside the two special ones: 3 or more, got {self.least}"
            )
        if not 0 < self.epsilon < math.inf:
            raise ConfigError(f"epsilon must be above 0, got {self.epsilon}")

    def chosen_of(self, length: int) -> int:
        """Compute k for a row of this many tokens."""
        return min(length, max(self.least, math.ceil(length / self.speed)))

    def skips(self, length: int) -> bool:
        """Say whether any token is skipped in a row of this many."""
        return self.chosen_of(length) < length


class Parallel(LayerRule):
    """The dense layer with an adapter on its input: LN(f + a + P(X))."""

    def __init__(self, adapter: BottleneckAdapter) -> None:
        self._adapter = adapter

    def finish(self, layer: FrozenLayer, residual: Tensor, h: Tensor) -> Tensor:
        return layer.norm(residual + self._adapter(layer.index, h))


class ConditionalAdapter(nn.Module):
    """A tenant's adapter, an adapter for the tokens that skip the frozen layers, and a router.

    Parameters (float32): those of both adapters, and `router` [d].
    """

    def __init__(
        self,
        adapter: BottleneckAdapter,
        skipping: BottleneckAdapter,
        router: Float[Tensor, " d"],
        *,
        parallel: bool = False,
    ) -> None:
        """
        Args:
            parallel: put `adapter` on the layers' input as the paper does, not in Pfeiffer's place.

        Raises:
            ValueError: the parts differ in hidden size or layers.
        """
        super().__init__()
        shape = (adapter.num_layers, adapter.hidden_size)
        found = (skipping.num_layers, skipping.hidden_size)
        if found != shape or router.shape != shape[1:]:
            raise ValueError(
                f"skipping adapter of {found} layers and hidden size, router of "
                f"{tuple(router.shape)}: the adapter has {shape}"
            )
        self.adapter = adapter
        self.skipping = skipping
        self.router = nn.Parameter(router)
        self._parallel = parallel

    @classmethod
    def new(
        cls, adapter: BottleneckAdapter, *, skipping_size: int, seed: int, parallel: bool = False
    ) -> "ConditionalAdapter":
        """Copy `adapter` and add an untrained skipping adapter and router."""
        layers, hidden = adapter.num_layers, adapter.hidden_size
        skipping = BottleneckAdapter.new(layers, hidden, skipping_size, seed=seed)
        router = torch.randn(hidden, generator=torch.Generator().manual_seed(seed)) / hidden**0.5
        device = adapter.down_weight.device
        return cls(adapter.copy(), skipping.to(device), router.to(device), parallel=parallel)

    @property
    def dense(self) -> LayerRule:
        """The model in which every token passes: with the tenant's adapter, nothing skipped."""
        return Parallel(self.adapter) if self._parallel else rule_of(self.adapter)

    def at(self, routing: Routing) -> LayerRule:
        """Make the rule that the encoder runs; at speed 1 it is the dense model."""
        return self.dense if routing.speed == 1 else Conditional(self, routing)

    def scores(self, h: Float[Tensor, "tokens d"]) -> Float[Tensor, " tokens"]:
        """Compute the router's scores s = LN(X) w, float32; the LayerNorm has no weights."""
        return F.layer_norm(h.float(), h.shape[-1:]) @ self.router


class Conditional(LayerRule):
    """The rule of all batches at one speed. Each forward has a `Passage` of its own."""

    def __init__(self, conditional: ConditionalAdapter, routing: Routing) -> None:
        self._conditional = conditional
        self._routing = routing

    def started(self, h: Tensor, tokens: PackedTokens) -> "Passage":
        chosen, m = choose(self._conditional.scores(h), tokens, self._routing)
        return Passage(self._conditional, chosen, m, to_all=self._routing.to_all)

    def finish(self, layer: FrozenLayer, residual: Tensor, h: Tensor) -> Tensor:
        raise AssertionError("a conditional rule must be started for each batch")


class Passage(LayerRule):
    """The rule of one batch: its chosen tokens, with weights m [chosen]."""

    def __init__(
        self, conditional: ConditionalAdapter, chosen: ChosenTokens, m: Tensor, *, to_all: bool
    ) -> None:
        self._conditional, self._dense = conditional, conditional.dense
        self.chosen, self.m, self._to_all = chosen, m, to_all

    def finish(self, layer: FrozenLayer, residual: Tensor, h: Tensor) -> Tensor:
        """Finish the layer as the dense model does."""
        return self._dense.finish(layer, residual, h)

    def run(self, layer: FrozenLayer, h: Tensor, tokens: PackedTokens) -> Tensor:
        """Compute Y of every token. In k-to-k, nothing reads skipped tokens again: they stay X."""
        index = self.chosen.index
        past = h + self._conditional.skipping(layer.index, h) if self._to_all else h
        residual = layer.residual_of(h, tokens, self.chosen, to_all=self._to_all)
        passed = self.finish(layer, residual, h[index])
        if self.m.requires_grad:
            passed = past[index].lerp(passed, self.m.to(h.dtype)[:, None])
        return past.index_copy(0, index, passed)

    def pool(self, h: Tensor, tokens: PackedTokens, head: Head) -> Tensor:
        """Average the chosen tokens with weights m, [rows, hidden] float32.

        The first and the last token are always chosen, so that poolings which read no other stay.

        Raises:
            ConfigError: the encoder's pooling reads tokens that may be skipped.
        """
        if not head.left_out and set(head.pooling) <= {"cls", "lasttoken"}:
            return head.pool(h, tokens)
        if head != Head(modules=head.modules):
            raise ConfigError(
                f"skipping tokens needs an encoder that pools by mean, cls or lasttoken, with the "
                f"prompt, not by {', '.join(head.pooling)}: choose another training.method"
            )
        rows = tokens.row_of_token[self.chosen.index]
        weighted = h[self.chosen.index].float() * self.m[:, None]
        counts = torch.bincount(rows, minlength=len(tokens.lengths))
        sums = weighted.new_zeros(len(tokens.lengths), h.shape[1])
        return sums.index_add(0, rows, weighted) / counts[:, None]


def choose(
    scores: Float[Tensor, " tokens"], tokens: PackedTokens, routing: Routing
) -> tuple[ChosenTokens, Float[Tensor, " chosen"]]:
    """Choose k tokens of each row: the first, the last and the highest scores; return their m, too.

    The earlier of equal scores is chosen. m is 1, with the gradient of the row's soft top-k
    weights, which are solved only if gradients are asked for.
    """
    groups = tuple((rows, routing.chosen_of(length), length) for rows, length in tokens.groups)
    each = [(k, length) for rows, k, length in groups for _ in range(rows)]
    k, lengths = torch.tensor(each, device=scores.device).T
    padded = scores.new_full((len(each), groups[-1][2]), -torch.inf)
    special = (tokens.position == 0) | (tokens.position == lengths[tokens.place] - 1)
    scores = scores - _APART * repeated(tokens, padded.shape)
    scores = scores.masked_fill(special, _APART)
    padded = padded.index_put((tokens.place, tokens.position), scores)
    ranks = descending_ranks(padded)
    index = (ranks < k[:, None])[tokens.place, tokens.position].nonzero().flatten()
    m = torch.ones(len(index), device=scores.device)
    if scores.requires_grad:
        solve = exact_soft_top_k if routing.exact else soft_top_k
        weights = solve(padded, k, epsilon=routing.epsilon)
        soft = weights[tokens.place[index], tokens.position[index]]
        m = m + soft - soft.detach()
    return ChosenTokens(index, groups), m


def repeated(tokens: PackedTokens, shape: Sequence[int]) -> Float[Tensor, " tokens"]:
    """Mark repeated tokens: 1 where the row had the token before, 0 elsewhere.

    Args:
        shape: (rows, longest row).
    """
    padded = tokens.input_ids.new_full(tuple(shape), -1)
    padded = padded.index_put((tokens.place, tokens.position), tokens.input_ids)
    same = (padded[:, :, None] == padded[:, None, :]).tril(-1).any(-1)
    return same[tokens.place, tokens.position].float()
