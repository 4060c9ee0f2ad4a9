"""Conversion from and to the `adapters` library (`seq_bn`, Pfeiffer) without loss.

That library has one module a layer; here all layers are side by side in one tensor. No value
changes, so a round trip gives the same bytes.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from adapterdistill.adapters.bottleneck import BottleneckAdapter
from adapterdistill.errors import ConfigError, FileError, InvalidPayloadError

_CONFIG, _WEIGHTS, _PICKLED = "adapter_config.json", "adapter.safetensors", "pytorch_adapter.bin"
_MODELS = {"bert": "BertModel", "roberta": "RobertaModel", "xlm-roberta": "XLMRobertaModel"}
"""Encoders whose adapters have the same place in that library, and its class of each."""

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


def write_folder(
    folder: Path,
    adapter: BottleneckAdapter,
    *,
    name: str,
    model_type: str,
    config: Mapping[str, Any],
) -> None:
    """Write an adapter as that library's `save_adapter` does, with safetensors.

    Args:
        folder: is made; must not be there.
        name: the adapter's name in the library, without dots.
        model_type: of the encoder, as in its `config.json`.
        config: keys of the library's configuration, with the encoder's name and width.

    Raises:
        ConfigError: the library does not have such encoders.
        FileError: the folder is there, or cannot be made.
    """
    if model_type not in _MODELS:
        raise ConfigError(
            f"encoder of type {model_type}: adapters of {', '.join(sorted(_MODELS))} are exported"
        )
    name = name.replace(".", "_")
    described = {
        **config,
        "name": name,
        "model_type": model_type,
        "model_class": _MODELS[model_type],
        "version": "adapters.1.3.0",
    }
    try:
        folder.mkdir(parents=True)
        weights = safetensors.torch.save(to_library(adapter, name=name), {"format": "pt"})
        (folder / _WEIGHTS).write_bytes(weights)
        (folder / _CONFIG).write_text(json.dumps(described, indent=2) + "\n", "utf-8")
    except OSError as error:
        raise FileError(f"{folder}: {error.strerror}") from None


def read_folder(folder: Path) -> tuple[BottleneckAdapter, str]:
    """Read an adapter that the library's `save_adapter` wrote, and the name of its encoder.

    Raises:
        FileError: a file is missing or cannot be read.
        InvalidPayloadError: it holds no adapter of the kind `seq_bn`, or a malformed one.
    """
    if not (folder / _WEIGHTS).exists() and (folder / _PICKLED).exists():
        raise InvalidPayloadError(
            f"{folder} has only {_PICKLED}, which may run code: save it again with "
            "`model.save_adapter(FOLDER, NAME, use_safetensors=True)`"
        )
    try:
        described = json.loads((folder / _CONFIG).read_bytes())
        tensors = safetensors.torch.load((folder / _WEIGHTS).read_bytes())
        name, model, config = (described[key] for key in ("name", "model_name", "config"))
        wanted = {"non_linearity": "relu", "mh_adapter": False, "output_adapter": True}
        others = [key for key, value in wanted.items() if config[key] != value]
        if config.get("scaling", 1.0) != 1.0:
            others.append("scaling")
    except OSError as error:
        raise FileError(f"{folder}: {error.strerror} ({_CONFIG} and {_WEIGHTS})") from None
    except (ValueError, KeyError, TypeError, RecursionError, SafetensorError):
        raise InvalidPayloadError(
            f"{folder} does not hold an adapter of the adapters library: {_CONFIG} or {_WEIGHTS} "
            "is malformed"
        ) from None
    if others:
        raise InvalidPayloadError(
            f"{folder}: not an adapter of the kind seq_bn: {', '.join(others)} differ in {_CONFIG}"
        )
    return from_library(tensors, name=str(name)), str(model)
