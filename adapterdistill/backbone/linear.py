"""Products with frozen matrices, which are prepared once for this processor.

On the CPU, a bfloat16 matrix is packed into the blocks that oneDNN multiplies by; otherwise every
call would pack it again. In int8, a matrix has one scale for each output and every token one of its
own, so that a token's result does not depend on its batch.

Both use operators of torch that PyTorch's compiler uses and that are not documented for others.
Where the installed torch lacks one, or it computes something else, bfloat16 takes the plain path
and int8 is refused.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adapterdistill.backbone.packed import filled_up, one_of_few
from adapterdistill.errors import ConfigError

_LEVELS = 127
_ZERO = 128
"""The unsigned level that stands for 0: the processor multiplies unsigned by signed numbers."""

Linear = Callable[[Tensor], Tensor]
"""Maps x [tokens, in] to x W' + b, [tokens, out]."""


class FrozenLinear:
    """x W' + b, by the fastest way that there is for x. Thread-safe.

    Where gradients are enabled, and for a matrix that is trained, it takes the plain path. Other
    calls use a prepared copy of the matrix, made at the first of them.
    """

    def __init__(self, weight: Tensor, bias: Tensor, *, int8: bool = False) -> None:
        self._weight, self._bias, self._int8 = weight, bias, int8
        self._prepared: Linear | None = None

    def filled_up(self, x: Tensor) -> Tensor:
        """Pad `x` with rows of zeros where that saves time here; see `packed.filled_up`."""
        return x if self._int8 else filled_up(x)

    @property
    def prepared_bytes(self) -> int:
        """Memory of the prepared copy, made yet or not."""
        if self._int8:
            return self._weight.numel()
        return self._weight.nbytes if self._is_packed() else 0

    def __call__(self, x: Tensor) -> Tensor:
        prepares = self._int8 or self._is_packed()
        if torch.is_grad_enabled() or self._weight.requires_grad or not prepares:
            return F.linear(x, self._weight, self._bias)
        if self._prepared is None:
            prepare = _in_int8 if self._int8 else _packed
            self._prepared = prepare(self._weight, self._bias)
        return self._prepared(x)

    def _is_packed(self) -> bool:
        weight = self._weight
        return weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and packs()


def check_int8(device: torch.device) -> None:
    """Raise ConfigError where int8 products are missing, slow or inexact."""
    if device.type != "cpu":
        raise ConfigError(
            f"dtype int8 runs on the CPU only, not on {device.type}: choose auto or bfloat16"
        )
    if not multiplies_int8():
        raise ConfigError(
            "dtype int8 needs a processor with VNNI or AMX, and a torch whose int8 products (oneDNN"
            f") are exact, which torch {torch.__version__} does not have here: choose auto"
        )


@cache
@torch.no_grad()
def packs() -> bool:
    """Say whether torch multiplies by a packed bfloat16 matrix here, as exactly as without."""
    if not _has("mkldnn", "_reorder_linear_weight", "_linear_pointwise"):
        return False
    x, weight, bias = _sample()
    expected = F.linear(x, weight, bias)
    try:
        found = _packed(weight.bfloat16(), bias.bfloat16())(x.bfloat16())
    except (RuntimeError, TypeError):  # of another signature, or not built for this processor
        return False
    return torch.allclose(found.float(), expected, rtol=2**-7, atol=2**-5)


@cache
@torch.no_grad()
def multiplies_int8() -> bool:
    """Say whether torch multiplies in int8 here, without an intermediate sum that saturates."""
    vnni = getattr(torch.cpu, "_is_vnni_supported", bool)()  # AMX has it, too
    if not vnni or not _has("onednn", "qlinear_prepack", "qlinear_pointwise"):
        return False
    levels = torch.full((3, 64), 255, dtype=torch.uint8)
    weight = torch.full((16, 64), _LEVELS, dtype=torch.int8)
    try:
        found = _int8_product(weight, torch.ones(16))(levels, torch.float32)
    except (RuntimeError, TypeError):
        return False
    return bool((found == (255 - _ZERO) * _LEVELS * 64).all())


def _has(namespace: str, *names: str) -> bool:
    return all(hasattr(getattr(torch.ops, namespace), name) for name in names)


def _sample() -> tuple[Tensor, Tensor, Tensor]:
    """Make numbers that bfloat16 holds exactly."""
    parts = [torch.arange(count).remainder(17).sub(8) / 8 for count in (5 * 64, 16 * 64, 16)]
    return parts[0].view(5, 64), parts[1].view(16, 64), parts[2]


def _packed(weight: Tensor, bias: Tensor) -> Linear:
    ops: Any = torch.ops.mkldnn
    blocks = ops._reorder_linear_weight(weight.contiguous(), None)

    def linear(x: Tensor) -> Tensor:
        product: Tensor = ops._linear_pointwise(x, blocks, bias, "none", [], "")
        return product

    return linear


def _in_int8(weight: Tensor, bias: Tensor) -> Linear:
    exact = weight.float()
    scales = exact.abs().amax(1).clamp_min_(1e-30) / _LEVELS
    product = _int8_product((exact / scales[:, None]).round_().to(torch.int8), scales)

    def linear(x: Tensor) -> Tensor:
        levels, scale = quantised(x)
        whole = product(levels, bias.dtype)[: len(x)]
        return torch.addcmul(bias, whole, scale.to(bias.dtype), out=whole)

    return linear


def quantised(x: Tensor) -> tuple[Tensor, Tensor]:
    """Round each token to 255 levels between its largest magnitude and minus that.

    Returns:
        uint8 levels, [tokens, in], of which 128 is 0; and what one level is, [tokens, 1] float32,
        exact in bfloat16. A row of zeros stays zeros; one that is not finite gets a scale that is
        not finite.
    """
    exact = x.to(torch.float32, copy=True)
    # Operators that torch vectorises, and in place: it does not vectorise a cast to uint8.
    largest = torch.maximum(exact.amax(1, keepdim=True), exact.amin(1, keepdim=True).neg_())
    scale = (largest.clamp_min_(1e-30) / _LEVELS).bfloat16().float()
    # Few shapes, for the reason that `one_of_few` gives; nobody reads the rows that are added.
    levels = torch.empty(one_of_few(len(x)), x.shape[1], dtype=torch.int8)
    levels[: len(x)] = exact.mul_(scale.reciprocal()).round_()
    return levels.view(torch.uint8).bitwise_xor_(_ZERO), scale


def _int8_product(weight: Tensor, scales: Tensor) -> Callable[[Tensor, torch.dtype], Tensor]:
    ops: Any = torch.ops.onednn
    blocks = ops.qlinear_prepack(weight, None)
    zeros = torch.zeros(len(weight), dtype=torch.int64)

    def product(levels: Tensor, dtype: torch.dtype) -> Tensor:
        found: Tensor = ops.qlinear_pointwise(
            *(levels, 1.0, _ZERO), *(blocks, scales, zeros), None, *(1.0, 0, dtype), "none", [], ""
        )
        return found

    return product
