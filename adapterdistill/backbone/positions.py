"""How attention knows the places of tokens: rotated queries and keys, or a bias on the scores.

Rotary positions: Su et al., 2021. The relative bias is MPNet's (Song et al., 2020). Disentangled
attention is DeBERTa's (He et al., 2021), with the logarithmic distances of its version 2.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

Bias = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Maps queries [rows, heads, i, size], keys [rows, heads, j, size] and their positions, [rows, i]
and [rows, j], to what is added to the scores, [rows, heads, i, j]. Positions may have one row for
all, and what is added one row or head for all."""


@dataclass(frozen=True)
class Distances:
    """DeBERTa-v2's distances: exact up to half of `buckets`, logarithmic beyond."""

    buckets: int
    """Not above 0: all distances are exact."""
    longest: int
    """The distance at which the last bucket begins."""

    @property
    def span(self) -> int:
        """How many distances there are to each side."""
        return self.buckets if self.buckets > 0 else self.longest

    def index(self, distance: Tensor) -> Tensor:
        """Turn signed distances into rows of the position embeddings, int64."""
        if self.buckets > 0:
            mid = self.buckets // 2
            # The published code computes these in float32: the ceiling of another precision may
            # be another bucket.
            far = distance.abs().clamp(min=mid).float() / mid
            scale = torch.tensor((self.longest - 1) / mid).log()
            bucket = (far.log() / scale * (mid - 1)).ceil() + mid
            distance = torch.where(distance.abs() <= mid, distance, distance.sign() * bucket.long())
        return (distance + self.span).clamp(0, 2 * self.span - 1)


def rotated(x: Tensor, position: Tensor, frequencies: tuple[float, ...], *, longest: int) -> Tensor:
    """Rotate heads side by side by their tokens' positions.

    Args:
        x: [tokens, heads * size]; each head's dimensions i and i + size / 2 are one pair.
        position: [tokens], each below `longest`.
        frequencies: radians a position of each pair, size / 2 of them.
    """
    # Powers of two, so that few tables are kept.
    cos, sin = _rotation(frequencies, 1 << max(0, longest - 1).bit_length(), x.device)
    cos, sin = cos[position][:, None], sin[position][:, None]
    left, right = x.float().view(len(x), -1, 2, len(frequencies)).unbind(2)
    turned = torch.stack([left * cos - right * sin, right * cos + left * sin], dim=2)
    return turned.view(x.shape).to(x.dtype)


@lru_cache(maxsize=16)
def _rotation(
    frequencies: tuple[float, ...], length: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):
        angles = torch.arange(length).float()[:, None] * torch.tensor(frequencies)
        return angles.cos().to(device), angles.sin().to(device)


def rotary_frequencies(
    size: int, theta: float, *, ntk_factor: float | None = None
) -> tuple[float, ...]:
    """Compute theta^(-2i / size) for each pair i, in float32 as the published codes do.

    With `ntk_factor` the base grows by it and all frequencies shrink by ntk_factor^(2 / size), as
    in GTE's fixed NTK scaling.
    """
    base = theta if ntk_factor is None else theta * ntk_factor
    found = 1.0 / base ** (torch.arange(0, size, 2).float() / size)
    if ntk_factor is not None:
        found = found / ntk_factor ** (2 / size)
    return tuple(found.tolist())


def table_bias(table: Tensor) -> Bias:
    """Look up a bias of two positions in `table`, [heads, T, T]."""

    def bias(q: Tensor, k: Tensor, at_q: Tensor, at_k: Tensor) -> Tensor:
        return table[:, at_q[:, :, None], at_k[:, None, :]].transpose(0, 1)

    return bias


def window_bias(window: int) -> Bias:
    """Keep each token from those more than `window` tokens away."""

    def bias(q: Tensor, k: Tensor, at_q: Tensor, at_k: Tensor) -> Tensor:
        far = (at_q[:, :, None] - at_k[:, None, :]).abs() > window
        return q.new_zeros(far.shape).masked_fill(far, -torch.inf)[:, None]

    return bias


def disentangled_bias(
    position_keys: Tensor | None, position_queries: Tensor | None, distances: Distances
) -> Bias:
    """Compare queries and keys with embeddings of the distance between them."""

    def bias(q: Tensor, k: Tensor, at_q: Tensor, at_k: Tensor) -> Tensor:
        index = distances.index(at_q[:, :, None] - at_k[:, None, :])
        first = int(index.min())
        count = int(index.max()) - first + 1
        index = (index - first)[:, None].expand(*q.shape[:3], k.shape[2])
        added = q.new_zeros(())

        def compared(x: Tensor, embeddings: Tensor) -> Tensor:
            """Scale x's products with the distances' embeddings: [rows, heads, tokens, count]."""
            own = embeddings[first : first + count].to(x.dtype)
            by_head = own.view(count, x.shape[1], -1).transpose(0, 1)
            return x @ by_head.transpose(1, 2) / math.sqrt(x.shape[-1])

        if position_keys is not None:
            added = added + compared(q, position_keys).gather(-1, index)
        if position_queries is not None:
            seen = compared(k, position_queries).gather(-1, index.transpose(-1, -2))
            added = added + seen.transpose(-1, -2)
        return added

    return bias


def mpnet_buckets(length: int, num_buckets: int) -> Tensor:
    """Compute the bucket of each pair of positions, [length, length] int64: T5's, two-sided."""
    place = torch.arange(length)
    distance = place[:, None] - place[None, :]
    side = num_buckets // 2
    exact = side // 2
    far = (distance.abs().clamp(min=1).float() / exact).log() / math.log(128 / exact)
    log_bucket = (exact + (far * (side - exact)).long()).clamp(max=side - 1)
    found = torch.where(distance.abs() < exact, distance.abs(), log_bucket)
    return found + side * (distance < 0)


def positions_of(length: int, like: Tensor) -> Tensor:
    """Number a whole row's tokens, [1, length]."""
    return torch.arange(length, device=like.device)[None]
