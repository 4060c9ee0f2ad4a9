"""Loading an encoder by name or folder, offline first, with digests of what was loaded."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adapterdistill.backbone.encoder import DTYPES, Encoder
from adapterdistill.backbone.families import (
    check_supported,
    num_positions,
    open_tensors,
    read_weights,
)
from adapterdistill.backbone.folder import EncoderFolder, file_sha256, read_folder
from adapterdistill.backbone.linear import check_int8
from adapterdistill.backbone.modules import read_module
from adapterdistill.backbone.packaged import DEFAULT_ENCODER, PACKAGED
from adapterdistill.backbone.pooling import Head, Prompt
from adapterdistill.backbone.tokens import TextReader, Tokenizer, read_tokenizer
from adapterdistill.backbone.weights import EncoderWeights
from adapterdistill.errors import ConfigError, EncoderError
from adapterdistill.manifest import EncoderRef, canonical_json, sha256_hex
from adapterdistill.sections import EncoderConfig

_DOWNLOADED = ["*.json", "*.safetensors", "vocab.txt"]
_NOT_DOWNLOADED = ["onnx/*", "openvino/*"]


def load_configured(config: EncoderConfig) -> Encoder:
    """Load the encoder of a run's TOML. Raises as `load_encoder` does."""
    return load_encoder(**config.model_dump())


def load_reader(name: str = DEFAULT_ENCODER, *, max_tokens: int | None = None) -> TextReader:
    """Load what reads texts for an encoder, without its weights. Raises as `load_encoder` does."""
    folder = read_folder(encoder_folder(name), name)
    tokenizer, _ = read_tokenizer(folder)
    positions = num_positions(folder.config)
    own = min(folder.max_tokens or positions, positions)
    return TextReader(tokenizer, max_tokens or own, folder.query_prompt, folder.passage_prompt)


def load_encoder(
    name: str = DEFAULT_ENCODER,
    *,
    dtype: str = "auto",
    device: str = "cpu",
    max_tokens: int | None = None,
    query_prompt: str | None = None,
    passage_prompt: str | None = None,
) -> Encoder:
    """Load a frozen encoder.

    Args:
        name: one of `PACKAGED`, such as `minilm-l6` (embedded), a local folder, or the name of a
            model in the local Hugging Face cache; it is downloaded only if none of these has it
            and `HF_HUB_OFFLINE` is not set.
        dtype: `float32`, `bfloat16`, `int8`, or `auto`: bfloat16 where the device computes in it.
            In int8, the layers' matrices are multiplied in int8 where no gradient is asked for, and
            all else is as with `auto`.
        max_tokens: length at which texts are cut; None: the encoder's own.
        query_prompt: put before every query; None: the encoder's own.
        passage_prompt: put before every FAQ text; None: the encoder's own.

    Raises:
        ConfigError: `dtype` or `max_tokens` is out of range, there is no such device, or it does
            not compute in int8.
        EncoderError: the encoder is not found, broken, of an unsupported family, or has a setting
            that is not supported.
    """
    if dtype not in ("auto", "int8", *DTYPES):
        raise ConfigError(f"dtype must be auto, float32, bfloat16 or int8, got {dtype!r}")
    if max_tokens is not None and not 8 <= max_tokens <= 8192:
        raise ConfigError(f"max_tokens must be from 8 to 8192, got {max_tokens}")
    place = _device(device)
    if dtype == "int8":
        check_int8(place)
    known = PACKAGED.get(name)
    path = encoder_folder(name)
    folder = read_folder(path, name)
    tokenizer, tokenizer_sha256 = read_tokenizer(folder)
    weights = _read(folder, place, DTYPES.get(dtype) or _auto_dtype(place))
    _check_tokens(folder, tokenizer, weights, max_tokens)
    prompts = _prompts(folder, query_prompt, passage_prompt)
    head, of_head, head_files = _head(folder, weights.hidden_size, tokenizer, prompts)
    weights_sha256 = _digest(path, (*folder.weights, *head_files), of_head)
    if known is not None:
        known.check(weights_sha256)
    own = min(folder.max_tokens or weights.num_positions, weights.num_positions)
    ref = EncoderRef(
        name=path.name if known is None else name,
        model_type=folder.config["model_type"],
        hidden_size=weights.hidden_size,
        num_layers=len(weights.layers),
        weights_sha256=weights_sha256,
        tokenizer_sha256=tokenizer_sha256,
        max_tokens=max_tokens or own,
        **of_head,
        **prompts,
    )
    return Encoder(weights, tokenizer, ref, head=head.to(place), int8=dtype == "int8")


def _prompts(folder: EncoderFolder, query: str | None, passage: str | None) -> dict[str, str]:
    return {
        "query_prompt": folder.query_prompt if query is None else query,
        "passage_prompt": folder.passage_prompt if passage is None else passage,
    }


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


def encoder_folder(name: str) -> Path:
    """The folder that `load_encoder` reads; `name` and errors as there."""
    return PACKAGED[name].folder() if name in PACKAGED else _folder(name)


def _folder(name: str) -> Path:
    expanded = os.path.expandvars(name)
    if "$" in expanded:
        raise EncoderError(f"encoder {name!r} names an environment variable that is not set")
    folder = Path(expanded).expanduser()
    if folder.is_dir():
        return folder
    if expanded.startswith((".", "/", "~")):
        raise EncoderError(f"encoder folder does not exist: {name}")
    from huggingface_hub import snapshot_download

    offline_only = (True,) if os.environ.get("HF_HUB_OFFLINE") else (True, False)
    for local in offline_only:
        try:
            return Path(
                snapshot_download(
                    expanded,
                    allow_patterns=_DOWNLOADED,
                    ignore_patterns=_NOT_DOWNLOADED,
                    local_files_only=local,
                )
            )
        except Exception as error:
            failure = type(error).__name__
    raise EncoderError(
        f"encoder {name!r} is not a folder, not in the local cache and could not be downloaded "
        f"({failure})"
    )


def _read(folder: EncoderFolder, device: torch.device, dtype: torch.dtype) -> EncoderWeights:
    """Read the weights; none of them is a mapped file afterwards. No code of the folder runs."""
    from safetensors import SafetensorError

    try:
        if "model_type" not in folder.config:
            raise ValueError("config.json names no family")
        check_supported(folder.config)
        tensors = open_tensors(folder.weights)
    except EncoderError:
        raise
    except Exception as error:  # whatever a damaged configuration leads to
        damaged = isinstance(error, SafetensorError)
        why = "not a whole safetensors file" if damaged else "a file is damaged or of another kind"
        raise EncoderError(f"encoder {folder.name!r} cannot be loaded: {why}") from error
    with torch.no_grad():
        return read_weights(folder.config, tensors).copied_to(device, dtype)


def _check_tokens(
    folder: EncoderFolder, tokenizer: Tokenizer, weights: EncoderWeights, max_tokens: int | None
) -> None:
    """Refuse weights that cannot embed all that the tokenizer makes."""
    for name, tensor in weights.tensors().items():
        if not bool(tensor.isfinite().all()):
            raise EncoderError(
                f"encoder {folder.name!r}: its weights hold numbers that are not finite, in {name}"
            )
    if tokenizer.largest_id >= len(weights.words):
        raise EncoderError(
            f"encoder {folder.name!r}: its tokenizer has tokens up to number "
            f"{tokenizer.largest_id}, its weights embed {len(weights.words)}: resize the "
            "embeddings, or bring the tokenizer that belongs to them"
        )
    if max_tokens is not None and max_tokens > weights.num_positions:
        raise EncoderError(
            f"encoder has positions for {weights.num_positions} tokens, fewer than "
            f"max_tokens={max_tokens}"
        )


def _head(
    folder: EncoderFolder, hidden_size: int, tokenizer: Tokenizer, prompts: dict[str, str]
) -> tuple[Head, dict[str, Any], list[Path]]:
    """The head, what an `EncoderRef` says of it, and the files of its weights."""
    size = hidden_size * len(folder.pooling)
    modules: list[nn.Module] = []
    named, files = [], []
    for one in folder.modules:
        module, said, its_files = read_module(one, folder.name, size=size)
        size = getattr(getattr(module, "linear", None), "out_features", size)
        modules.append(module)
        named.append(said)
        files += its_files
    left_out = []
    if not folder.include_prompt:
        left_out = [Prompt(*tokenizer.start_of(text)) for text in prompts.values() if text]
    said_of_it: dict[str, Any] = {
        "pooling": folder.pooling,
        "modules": tuple(named),
        "include_prompt": folder.include_prompt,
    }
    if size != hidden_size:
        said_of_it["dimensions"] = size
    return Head(folder.pooling, tuple(modules), tuple(left_out)), said_of_it, files


def _digest(root: Path, files: tuple[Path, ...], of_head: dict[str, Any]) -> str:
    """The digest of the weights' only file; of all files and the head if there is more to it."""
    digests = {str(file.relative_to(root)): file_sha256(file) for file in files}
    plain = {"pooling": ("mean",), "modules": (), "include_prompt": True}
    if of_head == plain and len(digests) == 1:
        return next(iter(digests.values()))
    head = {key: list(v) if isinstance(v, tuple) else v for key, v in of_head.items()}
    return sha256_hex(canonical_json({"files": digests, **head}))
