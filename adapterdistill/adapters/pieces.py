"""Tokens of a mixed batch, brought together by adapter and cut into equal pieces.

A batched matrix product wants pieces of one length, each with its adapter's weights. Adapters have
from one to all of the batch's tokens, so those with many get several pieces, and the last piece of
each is filled up.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from adapterdistill.backbone import PackedTokens, one_of_few

WEIGHTS_COST_TOKENS = 10
"""What gathering the weights of one more piece costs, as tokens through the adapter: measured with
MiniLM and a bottleneck of 24 in bfloat16, where a piece's weights take 2.6 us and a token 0.26."""


@dataclass(frozen=True)
class Pieces:
    """Equal pieces of a batch's tokens; no piece has tokens of two adapters."""

    slots: Int[Tensor, " pieces"]
    """The adapter of each piece, -1 for none. The last pieces may hold no token of their own."""
    length: int
    """Tokens of a piece."""
    token_at: Int[Tensor, " places"]
    """[pieces * length], the token at each place; the first token where a piece is filled up."""
    place_of: Int[Tensor, " tokens"]

    def gather(self, x: Float[Tensor, "tokens d"]) -> Float[Tensor, "pieces length d"]:
        return x.index_select(0, self.token_at).view(-1, self.length, x.shape[1])

    def scatter(self, y: Float[Tensor, "pieces length d"]) -> Float[Tensor, "tokens d"]:
        return y.flatten(0, 1).index_select(0, self.place_of)


def cut(slot_of_row: Int[Tensor, " rows"], tokens: PackedTokens) -> Pieces:
    """Cut a batch so that weights to gather and places to fill up are few together.

    Args:
        slot_of_row: index of each row's adapter, in the caller's order; -1 for none.
    """
    device = tokens.position.device
    # On the host, where lengths are known: a device would be waited for at every step.
    lengths = torch.tensor(tokens.lengths)
    layout = lengths.argsort(stable=True)
    slot_of_token = slot_of_row.cpu()[layout].repeat_interleave(lengths[layout])
    by_slot = slot_of_token.argsort(stable=True)
    slots, counts = slot_of_token.unique(return_counts=True)
    length = _cheapest_length(counts)
    needed = -(-counts // length)
    count = one_of_few(int(needed.sum()))
    # A slot's pieces are neighbours: its tokens lie end to end from its first piece on.
    shift = (needed.cumsum(0) - needed) * length - (counts.cumsum(0) - counts)
    place = torch.arange(len(by_slot)) + shift.repeat_interleave(counts)
    token_at = torch.zeros(count * length, dtype=torch.int64)
    token_at[place] = by_slot
    place_of = torch.empty_like(place)
    place_of[by_slot] = place
    return Pieces(
        slots=F.pad(slots.repeat_interleave(needed), (0, count - int(needed.sum()))).to(device),
        length=length,
        token_at=token_at.to(device),
        place_of=place_of.to(device),
    )


def _cheapest_length(counts: Int[Tensor, " slots"]) -> int:
    """The piece length with the least work, out of the slots' numbers of tokens, rounded up."""
    candidates = torch.tensor(sorted({_rounded(count) for count in counts.tolist()}))
    pieces = -(-counts // candidates[:, None])
    work = pieces.sum(1) * (candidates + WEIGHTS_COST_TOKENS)
    return int(candidates[work.argmin()])


def _rounded(length: int) -> int:
    """Lengths are few for the reason that `one_of_few` gives, and short: fours are enough."""
    return one_of_few(-(-length // 4) * 4)
