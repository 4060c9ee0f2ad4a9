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


def bert_embedded(model: Any, ids: Sequence[int]) -> Tensor:
    """What enters the first layer of a Hugging Face BERT, [tokens, hidden]."""
    e = model.embeddings
    tokens = torch.tensor(ids)
    h = e.word_embeddings.weight.double()[tokens]
    h = h + e.position_embeddings.weight.double()[: len(tokens)]
    return layer_norm(h + e.token_type_embeddings.weight.double()[0], e.LayerNorm)


def bert_residual(model: Any, index: int, own: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """f and a of one layer, [tokens, hidden] each, for the tokens `own` that attend to `seen`."""
    layer, heads = model.encoder.layer[index], model.config.num_attention_heads
    attention, mixed = layer.attention.self, []
    q = linear(own, attention.query).chunk(heads, -1)
    k, v = (linear(seen, part).chunk(heads, -1) for part in (attention.key, attention.value))
    for head in range(heads):
        scores = q[head] @ k[head].T / math.sqrt(q[head].shape[-1])
        mixed.append(torch.softmax(scores, -1) @ v[head])
    after = layer.attention.output
    a = layer_norm(linear(torch.cat(mixed, -1), after.dense) + own, after.LayerNorm)
    return linear(gelu(linear(a, layer.intermediate.dense)), layer.output.dense), a


def bert_hidden(model: Any, ids: Sequence[int], delta: Delta64 | None = None) -> Tensor:
    """Last hidden states [tokens, hidden] of one row through a Hugging Face BERT.

    With an adapter at every layer, placed as the adapters library's `seq_bn`: the residual of the
    adapter is the FFN's output f, its input is LN(f + a), and LN(f + delta + a) leaves the layer
    through the same LayerNorm.
    """
    h = bert_embedded(model, ids)
    for index, layer in enumerate(model.encoder.layer):
        f, a = bert_residual(model, index, h, h)
        h = layer_norm(f + a, layer.output.LayerNorm)
        if delta is not None:
            h = layer_norm(f + delta(index, h) + a, layer.output.LayerNorm)
    return h


def parallel_hidden(model: Any, ids: Sequence[int], parallel: Delta64) -> Tensor:
    """The same with the adapter on each layer's input: LN(f + a + P(X))."""
    h = bert_embedded(model, ids)
    for index, layer in enumerate(model.encoder.layer):
        f, a = bert_residual(model, index, h, h)
        h = layer_norm(f + a + parallel(index, h), layer.output.LayerNorm)
    return h


def conditional_embedding(
    model: Any,
    ids: Sequence[int],
    adapter: Delta64,
    skipping: Delta64,
    router: Tensor,
    k: int,
    *,
    parallel: bool,
    to_all: bool,
) -> Tensor:
    """CoDA, token by token: k pass every layer as in the dense model, the others are X + S(X)."""
    h = bert_embedded(model, ids)
    centred = h - h.mean(-1, keepdim=True)
    spread = ((centred**2).mean(-1, keepdim=True) + 1e-5) ** 0.5
    scores = (centred / spread @ router.double()).tolist()
    places = range(len(ids))

    def merit(token: int) -> tuple[bool, bool, float]:
        return token in (0, len(ids) - 1), ids[token] not in ids[:token], scores[token]

    own = sorted(sorted(places, key=merit, reverse=True)[:k])
    for index, layer in enumerate(model.encoder.layer):
        f, a = bert_residual(model, index, h[own], h if to_all else h[own])
        norm = layer.output.LayerNorm
        added = adapter(index, h[own] if parallel else layer_norm(f + a, norm))
        h = h + skipping(index, h)
        h[own] = layer_norm(f + a + added, norm)
    pooled = h[own].mean(0)
    return pooled / pooled.norm()


def bisected_top_k(scores: Tensor, k: int, epsilon: float) -> Tensor:
    """Soft top-k of one row: min(1, exp((s + a) / epsilon)), a by bisection on the sum."""
    low, high = -float(scores.max()) - 100.0, -float(scores.min()) + 100.0
    for _ in range(200):
        a = (low + high) / 2
        total = sum(min(1.0, math.exp(min(0.0, (float(s) + a) / epsilon))) for s in scores)
        low, high = (a, high) if total < k else (low, a)
    return torch.exp(((scores.double() + high) / epsilon).clamp(max=0))


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
