"""Packed batches: rows laid end to end without padding, and attention within each row.

Matrix products see real tokens only. Rows are sorted by length, so that rows of one length are
neighbours and their attention is one call without a mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from adapterdistill.backbone.positions import Bias, positions_of


@dataclass(frozen=True)
class PackedTokens:
    """A batch of rows, their tokens laid end to end in order of length."""

    input_ids: Tensor
    """[tokens] int64."""
    row_of_token: Tensor
    """[tokens] int64, the row (in the caller's order) that each token belongs to."""
    position: Tensor
    """[tokens] int64, 0-based position of each token within its row."""
    lengths: tuple[int, ...]
    """[rows] tokens of each row, in the caller's order."""
    groups: tuple[tuple[int, int], ...]
    """(rows, length) of each run of equally long rows, in layout order."""

    @cached_property
    def place(self) -> Tensor:
        """[tokens] int64, the row that each token belongs to, counted in layout order."""
        in_layout = torch.tensor([length for rows, length in self.groups for _ in range(rows)])
        places = torch.repeat_interleave(torch.arange(len(in_layout)), in_layout)
        return places.to(self.position.device)


@dataclass(frozen=True)
class ChosenTokens:
    """Some tokens of every row of a packed batch, in the batch's order."""

    index: Tensor
    """[chosen] int64, ascending places among the batch's tokens."""
    groups: tuple[tuple[int, int, int], ...]
    """(rows, chosen tokens of each, length of each) of each run of equally long rows."""


def pack(rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> PackedTokens:
    """Lay `rows` of token ids end to end.

    Raises:
        ValueError: there is no row, or a row has no token.
    """
    lengths = tuple(len(row) for row in rows)
    if not lengths or min(lengths) == 0:
        raise ValueError(f"every row needs a token, got rows of lengths {lengths[:8]}")
    order = sorted(range(len(rows)), key=lengths.__getitem__)
    in_order = torch.tensor([lengths[row] for row in order])
    starts = torch.repeat_interleave(in_order.cumsum(0) - in_order, in_order)
    return PackedTokens(
        input_ids=torch.tensor([i for row in order for i in rows[row]]).to(device),
        row_of_token=torch.repeat_interleave(torch.tensor(order), in_order).to(device),
        position=(torch.arange(int(in_order.sum())) - starts).to(device),
        lengths=lengths,
        groups=tuple((len(list(run)), length) for length, run in groupby(in_order.tolist())),
    )


def joined(tokens: PackedTokens, longest: int) -> PackedTokens:
    """Put rows 2i and 2i + 1 into one row, cut at `longest` tokens, as BERT reads a pair.

    The second row loses its first token, which opens a text; the first keeps the one that ends it.
    """
    order = torch.argsort(tokens.row_of_token * max(tokens.lengths) + tokens.position)
    texts = tokens.input_ids[order].cpu().split(tokens.lengths)
    pairs = zip(texts[0::2], texts[1::2], strict=True)
    rows = [torch.cat([first, second[1:]])[:longest].tolist() for first, second in pairs]
    return pack(rows, tokens.input_ids.device)


def attend(qkv: Tensor, tokens: PackedTokens, num_heads: int, bias: Bias | None) -> Tensor:
    """Scaled dot-product attention of each token over the tokens of its own row.

    Args:
        qkv: [tokens, 3 * hidden], queries, keys and values side by side.
        bias: what is added to the scores; None for nothing.

    Returns:
        [tokens, hidden]
    """
    dtype = qkv.dtype
    qkv = _fit_for_attention(qkv)
    outputs = []
    for chunk, (rows, length) in zip(
        qkv.split([rows * length for rows, length in tokens.groups]), tokens.groups, strict=True
    ):
        q, k, v = chunk.view(rows, length, 3, num_heads, -1).permute(2, 0, 3, 1, 4)
        mask = None
        if bias is not None:
            at = positions_of(length, q)
            mask = bias(q, k, at, at).to(q.dtype)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        outputs.append(mixed.transpose(1, 2).reshape(rows * length, -1))
    return torch.cat(outputs).to(dtype)


def attention_scores(
    queries_keys: Tensor, tokens: PackedTokens, num_heads: int, bias: Bias | None
) -> Tensor:
    """Compute the scores before the softmax of `attend`, averaged over heads, float32.

    Args:
        queries_keys: queries and keys side by side, [tokens, 2 * hidden].
        bias: as in `attend`.

    Returns:
        [sum of squared lengths]: each row's flattened matrix, rows in the order of the layout.
    """
    outputs = []
    for chunk, (rows, length) in zip(
        queries_keys.split([rows * length for rows, length in tokens.groups]),
        tokens.groups,
        strict=True,
    ):
        # The mean of the heads' dot products is that of the whole vectors by the number of heads.
        chunk = chunk.float().view(rows, length, 2, -1)
        q, k = chunk.unbind(2)
        scores = q @ k.transpose(1, 2) / (num_heads * q.shape[-1]) ** 0.5
        if bias is not None:
            q, k = chunk.view(rows, length, 2, num_heads, -1).permute(2, 0, 3, 1, 4)
            at = positions_of(length, q)
            scores = scores + bias(q, k, at, at).float().mean(1)
        outputs.append(scores.flatten())
    return torch.cat(outputs)


def attend_chosen(
    queries: Tensor,
    keys_values: Tensor,
    tokens: PackedTokens,
    chosen: ChosenTokens,
    num_heads: int,
    bias: Bias | None = None,
) -> Tensor:
    """Let the chosen tokens attend to their row's chosen tokens, or to all tokens of their row.

    Args:
        queries: [chosen, hidden].
        keys_values: keys and values side by side, [chosen, 2 * hidden] or [tokens, 2 * hidden].
        bias: as in `attend`.

    Returns:
        [chosen, hidden]
    """
    to_all = len(keys_values) == len(tokens.position)
    asking = tokens.position[chosen.index]
    asked = tokens.position if to_all else asking
    groups = [(rows, k, length if to_all else k) for rows, k, length in chosen.groups]
    if not to_all:  # rows of equal k are neighbours, whatever their length
        runs = groupby(groups, key=lambda group: group[1])
        groups = [(sum(rows for rows, _, _ in run), k, k) for k, run in runs]
    dtype = queries.dtype
    queries, keys_values = _fit_for_attention(queries), _fit_for_attention(keys_values)
    outputs, first, first_asked = [], 0, 0
    for rows, k, length in groups:
        of_queries = slice(first, first + rows * k)
        of_keys = slice(first_asked, first_asked + rows * length)
        q = queries[of_queries].view(rows, k, num_heads, -1).transpose(1, 2)
        both = keys_values[of_keys].view(rows, length, 2, num_heads, -1)
        keys, values = both.permute(2, 0, 3, 1, 4)
        mask = None
        if bias is not None:
            at_q, at_k = asking[of_queries].view(rows, k), asked[of_keys].view(rows, length)
            mask = bias(q, keys, at_q, at_k).to(q.dtype)
        mixed = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        outputs.append(mixed.transpose(1, 2).reshape(rows * k, -1))
        first, first_asked = of_queries.stop, of_keys.stop
    return torch.cat(outputs).to(dtype)


def one_of_few(count: int) -> int:
    """Round `count` up, to one of at most 16 values between a power of two and the next.

    On the CPU, a bfloat16 product is compiled for every shape that it meets. That takes 0.2 ms and
    keeps 0.5 MB, so sizes that depend on the traffic must be few.
    """
    step = 1 << max(0, count.bit_length() - 5)
    return -(-count // step) * step


def filled_up(x: Tensor) -> Tensor:
    """Pad `x` with rows of zeros where few shapes of products pay: see `one_of_few`."""
    if x.device.type != "cpu" or x.dtype != torch.bfloat16 or x.requires_grad:
        return x
    return F.pad(x, (0, 0, 0, one_of_few(len(x)) - len(x)))


def _fit_for_attention(projected: Tensor) -> Tensor:
    # On the CPU, bfloat16 attention is slower than float32: 1.1 times at 256 tokens a row, 1.5 at
    # 11 and 3 at 4; 2.5 to 4 times in the backward pass.
    return projected.float() if projected.device.type == "cpu" else projected


def mean_pool(hidden: Tensor, tokens: PackedTokens) -> Tensor:
    """Average each row's tokens in float32: [tokens, hidden] to [rows, hidden]."""
    lengths = torch.tensor(tokens.lengths, device=hidden.device, dtype=torch.float32)
    sums = hidden.new_zeros(len(tokens.lengths), hidden.shape[1], dtype=torch.float32)
    return sums.index_add(0, tokens.row_of_token, hidden.float()) / lengths[:, None]
