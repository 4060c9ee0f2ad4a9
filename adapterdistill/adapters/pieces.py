"""A mixed batch's tokens, grouped by adapter and cut into pieces of equal length.

A batched matrix product needs pieces of one length, each with its adapter's weights. An adapter has
from one to all of the batch's tokens, so one with many gets several pieces. The last piece of each
is padded.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from adapterdistill.backbone import PackedTokens, one_of_few

WEIGHTS_COST_TOKENS = 10
"""Cost of gathering one more piece's weights, in tokens through the adapter. Measured with MiniLM
and a bottleneck of 24 in bfloat16: a piece's weights take 2.6 us, a token 0.26."""


@dataclass(frozen=True)
class Pieces:
    """Equal pieces of a batch's tokens; no piece has tokens of two adapters."""

    slots: Int[Tensor, " pieces"]
    """The adapter of each piece, -1 for none. The last pieces may hold no token of their own."""
    length: int
    """Tokens of a piece."""
    token_at: Int[Tensor, " places"]
    """[pieces * length], the token at each place; the first token where a piece is padded."""
    place_of: Int[Tensor, " tokens"]

    def gather(self, x: Float[Tensor, "tokens d"]) -> Float[Tensor, "pieces length d"]:
        return x.index_select(0, self.token_at).view(-1, self.length, x.shape[1])

    def scatter(self, y: Float[Tensor, "pieces length d"]) -> Float[Tensor, "tokens d"]:
        return y.flatten(0, 1).index_select(0, self.place_of)


def cut(slot_of_row: Int[Tensor, " rows"], tokens: PackedTokens) -> Pieces:
    """Cut a batch so that gathering weights and padding cost least together.

    Args:
        slot_of_row: index of each row's adapter, in the caller's order; -1 for none.
    """
    device = tokens.position.device
    # On the host, where lengths are known: on a device, every step would wait for it.
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
    """Choose the piece length with the least work among the slots' rounded numbers of tokens."""
    candidates = torch.tensor(sorted({_rounded(count) for count in counts.tolist()}))
    pieces = -(-counts // candidates[:, None])
    work = pieces.sum(1) * (candidates + WEIGHTS_COST_TOKENS)
    return int(candidates[work.argmin()])


def _rounded(length: int) -> int:
    """Round up to a multiple of 4, and further for the reason that `one_of_few` gives."""
    return one_of_few(-(-length // 4) * 4)
