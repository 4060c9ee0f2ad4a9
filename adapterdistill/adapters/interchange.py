"""Conversion from and to the `adapters` library (`seq_bn`, Pfeiffer) without loss.

That library has one module a layer; here all layers are side by side in one tensor. No value
changes, so a round trip gives the same bytes.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from adapterdistill.adapters.bottleneck import BottleneckAdapter
from adapterdistill.errors import InvalidPayloadError

_PARTS = {
    "down_weight": "adapter_down.0.weight",
    "down_bias": "adapter_down.0.bias",
    "up_weight": "adapter_up.weight",
    "up_bias": "adapter_up.bias",
}
_NAME = re.compile(
    r"(?:^|.*\.)layer\.(?P<layer>\d+)\.output\.adapters\.(?P<adapter>[^.]+)\.(?P<part>.+)"
)


def to_library(adapter: BottleneckAdapter, *, name: str, prefix: str = "") -> dict[str, Tensor]:
    """Convert an adapter to that library's state dict of a BERT encoder.

    Args:
        name: the adapter's name in the library.
        prefix: path of the encoder within the model, such as "bert.".
    """
    tensors = {}
    for layer in range(adapter.num_layers):
        place = f"{prefix}encoder.layer.{layer}.output.adapters.{name}."
        for ours, theirs in _PARTS.items():
            tensors[place + theirs] = getattr(adapter, ours)[layer].detach().clone()
    return tensors


def from_library(tensors: Mapping[str, Tensor], *, name: str) -> BottleneckAdapter:
    """Read the adapter `name` from that library's state dict; ignore other tensors.

    Raises:
        InvalidPayloadError: the adapter is not there, or is not a whole `seq_bn`.
    """
    found: dict[str, dict[int, Tensor]] = {part: {} for part in _PARTS.values()}
    for key, value in tensors.items():
        match = _NAME.fullmatch(key)
        if match is None or match["adapter"] != name:
            continue
        if match["part"] not in found:
            raise InvalidPayloadError(
                "adapter is not a plain seq_bn of the adapters library: it has other tensors than "
                "its down- and up-projections"
            )
        found[match["part"]][int(match["layer"])] = value
    layers = sorted(found["adapter_up.weight"])
    complete = layers == list(range(len(layers))) and layers
    if not complete or any(sorted(part) != layers for part in found.values()):
        raise InvalidPayloadError("state dict does not hold the named adapter at every layer")
    stacked = {
        ours: torch.stack([found[theirs][layer].detach().float() for layer in layers])
        for ours, theirs in _PARTS.items()
    }
    try:
        return BottleneckAdapter(**stacked)
    except ValueError as error:
        raise InvalidPayloadError(f"adapter refused: {error}") from error
