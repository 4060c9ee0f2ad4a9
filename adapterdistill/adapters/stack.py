"""Many frozen adapters of one shape side by side: mixed-tenant batches and teachers' outputs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from adapterdistill.adapters.bottleneck import BottleneckAdapter
from adapterdistill.adapters.pieces import cut
from adapterdistill.backbone import LayerDelta, PackedTokens


@dataclass(frozen=True)
class AdapterStack:
    """N frozen adapters; L layers, r bottleneck, d hidden.

    `up` is stored transposed, so that all N adapters are also one adapter of bottleneck N * r:
    `down[l].view(N * r, d)` and `up[l].view(N * r, d)`, without a copy.
    """

    down: Float[Tensor, "L N r d"]
    down_bias: Float[Tensor, "L N r"]
    up: Float[Tensor, "L N r d"]
    up_bias: Float[Tensor, "L N d"]

    @classmethod
    def of(
        cls,
        adapters: Sequence[BottleneckAdapter],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> "AdapterStack":
        """Stack `adapters`; narrower bottlenecks are padded with zero units, which is exact.

        Raises:
            ValueError: there is no adapter, or they differ in layers or hidden size.
        """
        shapes = {(a.num_layers, a.hidden_size) for a in adapters}
        if len(shapes) != 1:
            raise ValueError(f"adapters to stack need one shape, got {sorted(shapes)}")
        widest = max(a.bottleneck_size for a in adapters)

        def stack(parts: list[Tensor]) -> Tensor:
            return torch.stack(parts, dim=1).to(device, dtype).contiguous()

        def pad(part: Tensor) -> Tensor:
            """Pad the bottleneck, axis 1, with zero units up to the widest one."""
            missing = widest - part.shape[1]
            return F.pad(part, (0, 0) * (part.dim() - 2) + (0, missing))

        with torch.no_grad():
            return cls(
                down=stack([pad(a.down_weight) for a in adapters]),
                down_bias=stack([pad(a.down_bias) for a in adapters]),
                up=stack([pad(a.up_weight.transpose(1, 2)) for a in adapters]),
                up_bias=stack([a.up_bias for a in adapters]),
            )

    @property
    def num_adapters(self) -> int:
        return self.down.shape[1]

    def only(self, adapter: int) -> "AdapterStack":
        """Select one adapter without a copy."""
        one = slice(adapter, adapter + 1)
        return AdapterStack(
            self.down[:, one], self.down_bias[:, one], self.up[:, one], self.up_bias[:, one]
        )

    def without(self, adapter: int) -> "AdapterStack":
        """Select all adapters but one. A stack without adapters adds nothing."""
        others = [n for n in range(self.num_adapters) if n != adapter]
        return AdapterStack(
            self.down[:, others],
            self.down_bias[:, others],
            self.up[:, others],
            self.up_bias[:, others],
        )

    def bottleneck(self, layer: int, x: Float[Tensor, "tokens d"]) -> Float[Tensor, "tokens units"]:
        """Compute relu(D_n x + b_n) of all adapters side by side: [tokens, N * r]."""
        down = self.down[layer].flatten(0, 1)
        a: Tensor = F.relu(F.linear(x, down, self.down_bias[layer].flatten()))
        return a

    def weighted(
        self, layer: int, a: Float[Tensor, "tokens units"], weights: Float[Tensor, "tokens N"]
    ) -> Float[Tensor, "tokens d"]:
        """Compute sum_n weights_n u_n from the bottleneck activations `a`, without any u_n."""
        scaled = (a.unflatten(1, self.down.shape[1:3]) * weights[:, :, None]).flatten(1)
        out: Tensor = scaled @ self.up[layer].flatten(0, 1) + weights @ self.up_bias[layer]
        return out

    def mean(self, weights: Float[Tensor, " N"] | None = None) -> LayerDelta:
        """Combine the adapters into one `LayerDelta`: their mean, or a fixed convex combination."""
        n = self.num_adapters
        share = torch.full((n,), 1 / n) if weights is None else weights
        share = share.to(self.down)
        ups = (self.up * share[:, None, None]).flatten(1, 2)
        biases = share @ self.up_bias

        def delta(layer: int, x: Tensor) -> Tensor:
            return torch.addmm(biases[layer], self.bottleneck(layer, x), ups[layer])

        return delta

    def mixed(self, slot_of_row: Int[Tensor, " rows"], tokens: PackedTokens) -> LayerDelta:
        """Apply to each row its own adapter, in one forward of the mixed batch.

        Args:
            slot_of_row: index of each row's adapter, in the caller's order; -1 for none.
        """
        pieces = cut(slot_of_row, tokens)
        slots = pieces.slots.clamp(min=0)
        active = None if bool((slot_of_row >= 0).all()) else (pieces.slots >= 0).to(self.down.dtype)

        def delta(layer: int, x: Tensor) -> Tensor:
            # One layer at a time, so that the copy is used while it is in the cache.
            down, up, down_bias, up_bias = (
                part[layer].index_select(0, slots)
                for part in (self.down, self.up, self.down_bias, self.up_bias)
            )
            if active is not None:
                up, up_bias = up * active[:, None, None], up_bias * active[:, None]
            a = torch.baddbmm(down_bias[:, None], pieces.gather(x), down.transpose(1, 2))
            return pieces.scatter(torch.baddbmm(up_bias[:, None], F.relu(a), up))

        return delta
