"""The modules of sentence-transformers that follow pooling, read from their folders."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from adapterdistill.backbone.folder import ModuleFolder, module_conversion, weight_files
from adapterdistill.errors import EncoderError

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "torch.nn.modules.activation.GELU": nn.GELU,
    "torch.nn.modules.activation.ReLU": nn.ReLU,
    "torch.nn.modules.activation.SiLU": nn.SiLU,
    "torch.nn.modules.activation.Sigmoid": nn.Sigmoid,
    "torch.nn.modules.activation.Tanh": nn.Tanh,
    "torch.nn.modules.linear.Identity": nn.Identity,
}
_DENSE_SETTINGS = (
    "in_features",
    "out_features",
    "bias",
    "activation_function",
    "module_input_name",
    "module_output_name",
)


class Normalize(nn.Module):
    """Brings rows to unit length."""

    def forward(self, pooled: Tensor) -> Tensor:
        return F.normalize(pooled, dim=-1)


def read_module(module: ModuleFolder, name: str, *, size: int) -> tuple[nn.Module, str, list[Path]]:
    """Read one module that takes vectors of `size`.

    Returns:
        The module, frozen; what it is, for the `EncoderRef`; the files of its weights.

    Raises:
        EncoderError: a file is missing or damaged, or a setting is not supported.
    """
    if module.kind == "Normalize":
        return Normalize(), "Normalize", []
    subject = f"encoder {name!r}: {module.path.name}"
    files = list(weight_files(module.path, name, convert=module_conversion(module.path)))
    made, said = _dense(module, subject) if module.kind == "Dense" else _layer_norm(module, subject)
    try:
        tensors = safetensors.torch.load(b"".join(file.read_bytes() for file in files))
        made.load_state_dict({key: value.float() for key, value in tensors.items()})
    except (SafetensorError, RuntimeError, ValueError):
        raise EncoderError(
            f"{subject}/model.safetensors does not hold what its config.json says"
        ) from None
    taken = made.linear.in_features if isinstance(made, Dense) else size
    if taken != size:
        raise EncoderError(f"{subject}/config.json takes vectors of {taken}, but gets {size}")
    if not all(bool(p.isfinite().all()) for p in made.parameters()):
        raise EncoderError(f"{subject}/model.safetensors holds numbers that are not finite")
    return made.requires_grad_(False), said, files


class Dense(nn.Module):
    """A linear layer with an activation."""

    def __init__(self, in_features: int, out_features: int, bias: bool, activation: str) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features, bias=bias)
        self.activation = _ACTIVATIONS[activation]()

    def forward(self, pooled: Tensor) -> Tensor:
        activated: Tensor = self.activation(self.linear(pooled))
        return activated


class LayerNorm(nn.Module):
    """A LayerNorm of the vectors."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dimension)

    def forward(self, pooled: Tensor) -> Tensor:
        normed: Tensor = self.norm(pooled)
        return normed


def _dense(module: ModuleFolder, subject: str) -> tuple[nn.Module, str]:
    settings = module.settings
    for key, value in settings.items():
        if key not in _DENSE_SETTINGS and value not in (None, False):
            raise EncoderError(f"{subject}/config.json sets {key}, which is not supported")
    for key in ("module_input_name", "module_output_name"):
        if settings.get(key) not in (None, "sentence_embedding"):
            raise EncoderError(f"{subject}/config.json sets {key} to what is not supported")
    activation = settings.get("activation_function", "torch.nn.modules.activation.Tanh")
    if activation not in _ACTIVATIONS:
        raise EncoderError(
            f"{subject}/config.json sets activation_function to {str(activation)[:100]!r}: "
            f"expected one of {', '.join(_ACTIVATIONS)}"
        )
    taken, made = _size(settings, "in_features", subject), _size(settings, "out_features", subject)
    dense = Dense(taken, made, bool(settings.get("bias", True)), activation)
    return dense, f"Dense {made} {activation.rsplit('.', 1)[-1]}"


def _layer_norm(module: ModuleFolder, subject: str) -> tuple[nn.Module, str]:
    return LayerNorm(_size(module.settings, "dimension", subject)), "LayerNorm"


def _size(settings: Mapping[str, Any], key: str, subject: str) -> int:
    found = settings.get(key)
    if not isinstance(found, int) or not 0 < found <= 1 << 16:
        raise EncoderError(f"{subject}/config.json needs {key}, a number of 1 to {1 << 16}")
    return found
