"""AdapterFusion (Pfeiffer et al., 2021, eq. 3), exact, without the [tokens, N, hidden] tensor.

Per layer, with u_n = U_n a_n + c_n the output of adapter n (no residual) and x the layer's
post-LayerNorm hidden state: s = softmax_n <Q x + b, K u_n>, o = sum_n s_n V u_n. As published in
the adapters library: no division by sqrt(d), softmax over adapters, values before the sum. A bias
on K would add the same number to every score and drops out of the softmax, so there is none.

Re-associated: <Q x + b, K u_n> = (U_n^T q') . a_n + c_n . q' with q' = K^T (Q x + b), and
o = V (sum_n s_n U_n a_n + sum_n s_n c_n). Memory and work grow with N * bottleneck_size instead
of N * hidden_size.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from adapterdistill.adapters.stack import AdapterStack
from adapterdistill.backbone import LayerDelta

VALUE_OFF_DIAGONAL = 1e-6


class Fusion(nn.Module):
    """Trainable queries, keys and values of all layers over the adapters of a stack.

    Parameters (float32): `query_weight` [L, d, d], `query_bias` [L, d], `key_weight` [L, d, d],
    `value_weight` [L, d, d]; weights act on column vectors.
    """

    def __init__(
        self, query_weight: Tensor, query_bias: Tensor, key_weight: Tensor, value_weight: Tensor
    ):
        super().__init__()
        self.query_weight = nn.Parameter(query_weight)
        self.query_bias = nn.Parameter(query_bias)
        self.key_weight = nn.Parameter(key_weight)
        self.value_weight = nn.Parameter(value_weight)

    @classmethod
    def new(cls, num_layers: int, hidden_size: int, *, seed: int) -> "Fusion":
        """Start near the teachers' mean: Q, K from N(0, 0.02^2), V = I plus 1e-6 elsewhere."""
        generator = torch.Generator().manual_seed(seed)
        shape = (num_layers, hidden_size, hidden_size)
        value = torch.full(shape, VALUE_OFF_DIAGONAL)
        value.diagonal(dim1=1, dim2=2).fill_(1.0)
        return cls(
            torch.randn(shape, generator=generator) * 0.02,
            torch.zeros(num_layers, hidden_size),
            torch.randn(shape, generator=generator) * 0.02,
            value,
        )

    def over(self, stack: AdapterStack) -> LayerDelta:
        """Fuse the stack's adapters, for one forward of the encoder."""
        # All layers at once: indexing one by itself makes a gradient of the size of all layers.
        layers = list(zip(*(p.unbind() for p in self.parameters()), strict=True))
        return lambda layer, x: _fused(layer, x, stack, *layers[layer])

    def attention(
        self, layer: int, x: Float[Tensor, "tokens d"], stack: AdapterStack
    ) -> Float[Tensor, "tokens N"]:
        """Compute the attention weights (sum 1) at `layer`."""
        query, query_bias, key, _ = (p[layer] for p in self.parameters())
        return _attention(layer, x, stack, query, query_bias, key)[1]

    def forward(
        self, layer: int, x: Float[Tensor, "tokens d"], stack: AdapterStack
    ) -> Float[Tensor, "tokens d"]:
        """Compute o, the attention-weighted sum of the adapters' values, at `layer`."""
        return self.over(stack)(layer, x)

    def value_regulariser(self) -> Tensor:
        """Compute sum_l ||I - V_l||_F^2, of which the adapters library adds 0.01 to the loss."""
        eye = torch.eye(self.value_weight.shape[1], device=self.value_weight.device)
        return (self.value_weight - eye).square().sum()


def _attention(
    layer: int, x: Tensor, stack: AdapterStack, query: Tensor, query_bias: Tensor, key: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute bottleneck activations [tokens, N * r] and attention weights [tokens, N]."""
    a = stack.bottleneck(layer, x)
    q = F.linear(x, query.to(x.dtype), query_bias.to(x.dtype)) @ key.to(x.dtype)
    per_unit = F.linear(q, stack.up[layer].flatten(0, 1)) * a
    scores = per_unit.unflatten(1, stack.down.shape[1:3]).sum(-1, dtype=torch.float32)
    scores = scores + F.linear(q, stack.up_bias[layer])
    return a, scores.softmax(-1).to(x.dtype)


def _fused(
    layer: int,
    x: Tensor,
    stack: AdapterStack,
    query: Tensor,
    query_bias: Tensor,
    key: Tensor,
    value: Tensor,
) -> Tensor:
    a, weights = _attention(layer, x, stack, query, query_bias, key)
    return F.linear(stack.weighted(layer, a, weights), value.to(x.dtype))
