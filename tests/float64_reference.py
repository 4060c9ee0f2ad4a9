"""The published formulas in float64, written out plainly: what the fast forms are held to."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from adapterdistill.adapters import BottleneckAdapter

Delta64 = Callable[[int, Tensor], Tensor]


def layer_norm(x: Tensor, norm: Any) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    spread = (centred**2).mean(-1, keepdim=True)
    return centred / (spread + norm.eps) ** 0.5 * norm.weight.double() + norm.bias.double()


def linear(x: Tensor, module: Any) -> Tensor:
    return x @ module.weight.double().T + module.bias.double()


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def adapter_output(adapter: BottleneckAdapter) -> Delta64:
    """u = U relu(D x + b) + c, without residual."""

    def u(layer: int, x: Tensor) -> Tensor:
        down, down_bias, up, up_bias = (p.detach().double()[layer] for p in adapter.parameters())
        return torch.clamp(x @ down.T + down_bias, min=0) @ up.T + up_bias

    return u


def bert_hidden(model: Any, ids: Sequence[int], delta: Delta64 | None = None) -> Tensor:
    """Last hidden states [tokens, hidden] of one row through a Hugging Face BERT.

    With an adapter at every layer, placed as the adapters library's `seq_bn`: the residual of the
    adapter is the FFN's output f, its input is LN(f + a), and LN(f + delta + a) leaves the layer
    through the same LayerNorm.
    """
    e = model.embeddings
    tokens = torch.tensor(ids)
    h = e.word_embeddings.weight.double()[tokens]
    h = h + e.position_embeddings.weight.double()[: len(tokens)]
    h = layer_norm(h + e.token_type_embeddings.weight.double()[0], e.LayerNorm)
    heads = model.config.num_attention_heads
    for index, layer in enumerate(model.encoder.layer):
        own, mixed = layer.attention.self, []
        q, k, v = (
            part.chunk(heads, -1)
            for part in (linear(h, own.query), linear(h, own.key), linear(h, own.value))
        )
        for head in range(heads):
            scores = q[head] @ k[head].T / math.sqrt(q[head].shape[-1])
            mixed.append(torch.softmax(scores, -1) @ v[head])
        after = layer.attention.output
        a = layer_norm(linear(torch.cat(mixed, -1), after.dense) + h, after.LayerNorm)
        f = linear(gelu(linear(a, layer.intermediate.dense)), layer.output.dense)
        h = layer_norm(f + a, layer.output.LayerNorm)
        if delta is not None:
            h = layer_norm(f + delta(index, h) + a, layer.output.LayerNorm)
    return h


def fused_output(
    x: Tensor, outputs: Tensor, query: Tensor, query_bias: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor]:
    """AdapterFusion by its formula, with keys and values of every adapter: (o, weights).

    Args:
        x: [tokens, d].
        outputs: [tokens, N, d], the adapters' outputs u_n.
    """
    asked = x @ query.T + query_bias
    keys, values = outputs @ key.T, outputs @ value.T
    weights = torch.softmax((asked[:, None] * keys).sum(-1), -1)
    return (weights[..., None] * values).sum(1), weights
