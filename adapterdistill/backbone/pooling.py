"""The head of an encoder: from a row's last hidden states to its vector.

Pooling and the modules after it are those of sentence-transformers, in float32.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from adapterdistill.backbone.packed import PackedTokens, mean_pool
from adapterdistill.manifest import PoolingMode


@dataclass(frozen=True)
class Prompt:
    """A prompt that pooling leaves out."""

    start: tuple[int, ...]
    """Token ids that every text with the prompt begins with."""
    length: int
    """Tokens that are left out, special ones at the start included."""


@dataclass(frozen=True)
class Head:
    """Pooling, and the modules after it."""

    pooling: tuple[PoolingMode, ...] = ("mean",)
    modules: tuple[nn.Module, ...] = ()
    left_out: tuple[Prompt, ...] = ()

    def pool(self, hidden: Tensor, tokens: PackedTokens) -> Tensor:
        """Pool [tokens, hidden] to [rows, modes * hidden] float32."""
        if self.pooling == ("mean",) and not self.left_out:
            return mean_pool(hidden, tokens)
        kept = _Kept(hidden, tokens, self._skipped(tokens))
        return torch.cat([_POOL[mode](kept) for mode in self.pooling], dim=-1)

    def after(self, pooled: Tensor) -> Tensor:
        """Run the modules on pooled rows: [rows, modes * hidden] to [rows, dimensions]."""
        for module in self.modules:
            pooled = module(pooled)
        return pooled

    def to(self, device: torch.device) -> "Head":
        return replace(self, modules=tuple(module.to(device) for module in self.modules))

    def _skipped(self, tokens: PackedTokens) -> Tensor:
        """[rows] int64: how many tokens at each row's start are a prompt that is left out."""
        device = tokens.input_ids.device
        skipped = torch.zeros(len(tokens.lengths), dtype=torch.int64, device=device)
        for prompt in sorted(self.left_out, key=lambda one: len(one.start)):
            within = tokens.position < len(prompt.start)
            start = torch.tensor(prompt.start, device=device)
            same = tokens.input_ids[within] == start[tokens.position[within]]
            found = torch.zeros_like(skipped).index_add(0, tokens.row_of_token[within], same.long())
            skipped[found == len(prompt.start)] = prompt.length
        return skipped


class _Kept:
    """The tokens that pooling sees."""

    def __init__(self, hidden: Tensor, tokens: PackedTokens, skipped: Tensor) -> None:
        seen = tokens.position >= skipped[tokens.row_of_token]
        self.h = hidden.float()[seen]
        self.row, self.position = tokens.row_of_token[seen], tokens.position[seen]
        self.rows = len(tokens.lengths)
        lengths = torch.tensor(tokens.lengths, device=hidden.device)
        # A row that is all prompt keeps its first token.
        self.first = _row_places(hidden, tokens, torch.where(skipped < lengths, skipped, 0))
        self.last = _row_places(hidden, tokens, lengths - 1)

    def sums(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted sums of the rows' states, and the sums of the weights [rows, 1]."""
        total = self.h.new_zeros(self.rows, self.h.shape[1])
        weight = weights.new_zeros(self.rows, 1)
        return (
            total.index_add(0, self.row, self.h * weights[:, None]),
            weight.index_add(0, self.row, weights[:, None]).clamp(min=1e-9),
        )

    def ones(self) -> Tensor:
        return self.h.new_ones(len(self.h))


def _row_places(hidden: Tensor, tokens: PackedTokens, wanted: Tensor) -> Tensor:
    """Pick the state at position `wanted` [rows] of each row, [rows, hidden] float32."""
    at = (tokens.position == wanted[tokens.row_of_token]).nonzero().flatten()
    picked = hidden[at].float()
    return torch.empty_like(picked).index_copy(0, tokens.row_of_token[at], picked)


def _mean(kept: _Kept) -> Tensor:
    total, count = kept.sums(kept.ones())
    return total / count


def _mean_sqrt_length(kept: _Kept) -> Tensor:
    total, count = kept.sums(kept.ones())
    return total / count.sqrt()


def _weighted_mean(kept: _Kept) -> Tensor:
    total, weight = kept.sums((kept.position + 1).float())
    return total / weight


def _max(kept: _Kept) -> Tensor:
    lowest = kept.h.new_full((kept.rows, kept.h.shape[1]), -torch.inf)
    return lowest.scatter_reduce(0, kept.row[:, None].expand_as(kept.h), kept.h, "amax")


_POOL: dict[PoolingMode, Callable[[_Kept], Tensor]] = {
    "cls": lambda kept: kept.first,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt_length,
    "weightedmean": _weighted_mean,
    "lasttoken": lambda kept: kept.last,
}
