"""Many frozen adapters of one shape side by side: mixed-tenant batches and teachers' outputs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from adapterdistill.adapters.bottleneck import BottleneckAdapter
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
            """Zero units up to the widest bottleneck; the bottleneck is axis 1."""
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

    def without(self, adapter: int) -> "AdapterStack":
        """All but one; a stack of none adds nothing."""
        others = [n for n in range(self.num_adapters) if n != adapter]
        return AdapterStack(
            self.down[:, others],
            self.down_bias[:, others],
            self.up[:, others],
            self.up_bias[:, others],
        )

    def bottleneck(self, layer: int, x: Float[Tensor, "tokens d"]) -> Float[Tensor, "tokens units"]:
        """relu(D_n x + b_n) of all adapters side by side: [tokens, N * r]."""
        down = self.down[layer].flatten(0, 1)
        a: Tensor = F.relu(F.linear(x, down, self.down_bias[layer].flatten()))
        return a

    def weighted(
        self, layer: int, a: Float[Tensor, "tokens units"], weights: Float[Tensor, "tokens N"]
    ) -> Float[Tensor, "tokens d"]:
        """sum_n weights_n u_n from the bottleneck activations `a`, without building any u_n."""
        scaled = (a.unflatten(1, self.down.shape[1:3]) * weights[:, :, None]).flatten(1)
        out: Tensor = scaled @ self.up[layer].flatten(0, 1) + weights @ self.up_bias[layer]
        return out

    def mean(self, weights: Float[Tensor, " N"] | None = None) -> LayerDelta:
        """The adapters' mean output (or a fixed convex combination), as one `LayerDelta`."""
        n = self.num_adapters
        share = torch.full((n,), 1 / n) if weights is None else weights
        share = share.to(self.down)
        ups = (self.up * share[:, None, None]).flatten(1, 2)
        biases = share @ self.up_bias

        def delta(layer: int, x: Tensor) -> Tensor:
            return torch.addmm(biases[layer], self.bottleneck(layer, x), ups[layer])

        return delta

    def mixed(self, slot_of_row: Int[Tensor, " rows"], tokens: PackedTokens) -> LayerDelta:
        """Each row through its own adapter, in one forward of the mixed batch.

        Args:
            slot_of_row: index of each row's adapter, in the caller's order; -1 for none.
        """
        # Rows in layout order: runs of equally long rows are then plain views.
        slots = slot_of_row.to(self.down.device)[tokens.row_of_token[tokens.position == 0]]
        active = (slots >= 0).to(self.down.dtype)
        all_active = bool((slots >= 0).all())
        index = slots.clamp(min=0)

        def delta(layer: int, x: Tensor) -> Tensor:
            down = self.down[layer].index_select(0, index)
            up = self.up[layer].index_select(0, index)
            down_bias = self.down_bias[layer].index_select(0, index)
            up_bias = self.up_bias[layer].index_select(0, index) * active[:, None]
            if not all_active:
                up = up * active[:, None, None]
            outputs, first_row, first_token = [], 0, 0
            for rows, length in tokens.groups:
                span = slice(first_row, first_row + rows)
                chunk = x[first_token : first_token + rows * length].view(rows, length, -1)
                a = torch.baddbmm(down_bias[span, None], chunk, down[span].transpose(1, 2))
                u = torch.baddbmm(up_bias[span, None], F.relu(a), up[span])
                outputs.append(u.flatten(0, 1))
                first_row += rows
                first_token += rows * length
            return torch.cat(outputs)

        return delta
