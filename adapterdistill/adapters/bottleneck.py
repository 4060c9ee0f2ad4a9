"""The Pfeiffer bottleneck adapter (Pfeiffer et al., 2021; `seq_bn` of the adapters library)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

INIT_STD = 0.02
"""Standard deviation of initial weights: near identity, as in the adapters library."""


class BottleneckAdapter(nn.Module):
    """One adapter for all layers: u_l(x) = U_l relu(D_l x + b_l) + c_l.

    Parameters (float32; L layers, r bottleneck, d hidden): `down_weight` [L, r, d],
    `down_bias` [L, r], `up_weight` [L, d, r], `up_bias` [L, d].
    """

    def __init__(self, down_weight: Tensor, down_bias: Tensor, up_weight: Tensor, up_bias: Tensor):
        super().__init__()
        layers, bottleneck, hidden = down_weight.shape
        expected = ((layers, bottleneck), (layers, hidden, bottleneck), (layers, hidden))
        found = tuple(tuple(t.shape) for t in (down_bias, up_weight, up_bias))
        if found != expected:
            raise ValueError(f"adapter tensors have shapes {found}, expected {expected}")
        if down_weight.numel() == 0:
            raise ValueError(f"adapter has no weights: down_weight is {tuple(down_weight.shape)}")
        self.down_weight = nn.Parameter(down_weight)
        self.down_bias = nn.Parameter(down_bias)
        self.up_weight = nn.Parameter(up_weight)
        self.up_bias = nn.Parameter(up_bias)

    @classmethod
    def new(
        cls, num_layers: int, hidden_size: int, bottleneck_size: int, *, seed: int
    ) -> "BottleneckAdapter":
        """Make a near-identity adapter: weights from N(0, 0.02^2), biases zero."""
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator) * INIT_STD

        return cls(
            draw(num_layers, bottleneck_size, hidden_size),
            torch.zeros(num_layers, bottleneck_size),
            draw(num_layers, hidden_size, bottleneck_size),
            torch.zeros(num_layers, hidden_size),
        )

    @property
    def num_layers(self) -> int:
        return self.down_weight.shape[0]

    @property
    def bottleneck_size(self) -> int:
        return self.down_weight.shape[1]

    @property
    def hidden_size(self) -> int:
        return self.down_weight.shape[2]

    def forward(
        self, layer: int, x: Float[Tensor, "tokens hidden"]
    ) -> Float[Tensor, "tokens hidden"]:
        """Compute what the adapter adds to the FFN's output at `layer`, in the dtype of `x`."""
        a = F.linear(x, self.down_weight[layer].to(x.dtype), self.down_bias[layer].to(x.dtype))
        return F.linear(
            F.relu(a), self.up_weight[layer].to(x.dtype), self.up_bias[layer].to(x.dtype)
        )

    def copy(self) -> "BottleneckAdapter":
        """Make a trainable copy that shares no memory."""
        return BottleneckAdapter(*(p.detach().clone() for p in self.parameters()))
