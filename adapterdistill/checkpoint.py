"""Adapters as bytes, and the proof that a loaded adapter is active.

A payload is safetensors with one metadata key, `adapter_config`: JSON whose keys follow the
adapters library where it has one. Equal weights give equal bytes, and so the same version.
"""

import functools
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Embedder, Encoder
from adapterdistill.errors import EncoderMismatchError, InvalidPayloadError
from adapterdistill.manifest import (
    MAX_HEADER_BYTES,
    GoldenVectors,
    Manifest,
    TensorSpec,
    canonical_json,
    sha256_hex,
)

_NAMES = ("down.weight", "down.bias", "up.weight", "up.bias")
_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
GOLDEN_TOLERANCE = 0.02
"""Largest difference of a Euclidean distance between unit vectors. With MiniLM, bfloat16 instead of
float32 changed one by at most 0.003 where adapters move the probes by 0.2 to 0.9; a test requires
less than a quarter of this tolerance."""
INT8_TOLERANCE = 0.05
"""The same for an encoder that multiplies in int8, which changed a distance by up to 0.031. Without
its adapter, a sentence that `telling_probes` chooses is twice as far from what the manifest says."""
_LEAST_WEIGHT = 1e-15
_TELLING = 5.0
"""How many tolerances an adapter moves a probe sentence that alone proves it active."""


def pack_adapter(adapter: BottleneckAdapter, *, model_name: str) -> bytes:
    """Serialise an adapter; equal adapters give equal bytes."""
    tensors = {
        name: p.detach().cpu().contiguous()
        for name, p in zip(_NAMES, adapter.parameters(), strict=True)
    }
    config = adapter_config(adapter, model_name=model_name)
    return safetensors.torch.save(tensors, {"adapter_config": canonical_json(config).decode()})


def adapter_config(adapter: BottleneckAdapter, *, model_name: str) -> dict[str, Any]:
    """Describe an adapter with the configuration keys of the adapters library (`seq_bn`)."""
    return {
        "model_name": model_name,
        "hidden_size": adapter.hidden_size,
        "config": {
            "architecture": None,
            "mh_adapter": False,
            "output_adapter": True,
            "reduction_factor": adapter.hidden_size / adapter.bottleneck_size,
            "non_linearity": "relu",
            "original_ln_before": True,
            "original_ln_after": True,
            "ln_before": False,
            "ln_after": False,
            "residual_before_ln": True,
            "adapter_residual_before_ln": False,
            "is_parallel": False,
            "scaling": 1.0,
        },
    }


def tensor_specs(adapter: BottleneckAdapter) -> dict[str, TensorSpec]:
    """Describe dtype and shape of each tensor of the payload, for the manifest."""
    return {
        name: TensorSpec(dtype=_DTYPES[p.dtype], shape=tuple(p.shape))
        for name, p in zip(_NAMES, adapter.parameters(), strict=True)
    }


def unpack_adapter(payload: bytes) -> BottleneckAdapter:
    """Read the adapter in a payload, float32.

    Raises:
        InvalidPayloadError: not safetensors, or not the tensors of a bottleneck adapter.
    """
    if int.from_bytes(payload[:8], "little") > MAX_HEADER_BYTES:
        raise InvalidPayloadError(f"payload's header has more than {MAX_HEADER_BYTES} bytes")
    try:
        tensors = safetensors.torch.load(payload)
    except (SafetensorError, ValueError, KeyError) as error:
        raise InvalidPayloadError("payload is not valid safetensors") from error
    if set(tensors) != set(_NAMES):
        raise InvalidPayloadError(
            f"payload holds {len(tensors)} tensors, expected exactly {', '.join(_NAMES)}"
        )
    if not all(t.dtype in _DTYPES and bool(t.isfinite().all()) for t in tensors.values()):
        raise InvalidPayloadError("payload holds a tensor that is not finite floating point")
    try:
        adapter = BottleneckAdapter(*(_flushed(tensors[name].float()) for name in _NAMES))
    except ValueError as error:
        raise InvalidPayloadError(f"payload refused: {error}") from error
    _check_declared(payload, adapter)
    return adapter


def _flushed(weights: Tensor) -> Tensor:
    """Make zeros of weights whose products are denormal: these slow every tenant's batch down."""
    return weights.where(weights.abs() >= _LEAST_WEIGHT, 0.0)


def _check_declared(payload: bytes, adapter: BottleneckAdapter) -> None:
    """Refuse a payload that declares another kind of adapter."""
    declared = metadata_of(payload, "adapter_config")
    if declared is None:
        return
    expected = adapter_config(adapter, model_name="")["config"]
    try:
        found = json.loads(declared)["config"]
        different = sorted(key for key, value in expected.items() if found[key] != value)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InvalidPayloadError("payload's adapter_config is malformed") from None
    if different:
        raise InvalidPayloadError(
            f"payload declares another kind of adapter: {', '.join(different)} differ"
        )


def metadata_of(payload: bytes, key: str) -> str | None:
    """Read one entry of the metadata of sound safetensors; None if it is absent."""
    header = json.loads(payload[8 : 8 + int.from_bytes(payload[:8], "little")])
    found = (header.get("__metadata__") or {}).get(key)  # null is sound to safetensors
    return None if found is None else str(found)


@functools.cache
def probe_sentences() -> tuple[str, ...]:
    """Load the fixed probe sentences that ship with the project; they belong to no tenant."""
    text = resources.files("adapterdistill.samples").joinpath("probes.json").read_text("utf-8")
    return tuple(json.loads(text))


@functools.cache
def _probe_sha256() -> str:
    return sha256_hex(canonical_json(list(probe_sentences())))


def golden_vectors(encoder: Encoder, delta: Embedder) -> GoldenVectors:
    """Measure how far `delta` moves each probe sentence from its embedding by the bare encoder."""
    moved = _distances(encoder, delta, range(len(probe_sentences())))
    return GoldenVectors(
        probe_sha256=_probe_sha256(),
        distances=tuple(round(d, 6) for d in moved.tolist()),
        tolerance=GOLDEN_TOLERANCE,
    )


def prove_active(encoder: Encoder, delta: Embedder, golden: GoldenVectors) -> None:
    """Check that `delta` moves this encoder as its manifest says.

    Raises:
        EncoderMismatchError: it does not, so the encoder differs or the adapter is not active.
    """
    _check_probes(golden)
    chosen = range(len(probe_sentences()))
    _check_distances(encoder, _distances(encoder, delta, chosen), golden, chosen)


def load_proven(encoder: Encoder, manifest: Manifest, payload: bytes) -> BottleneckAdapter:
    """Read another owner's adapter, and prove that it is what its manifest says.

    Raises:
        EncoderMismatchError: it is not for exactly this encoder, or moves it otherwise.
        InvalidPayloadError: the payload is not an adapter, or not of the declared shapes.
    """
    if not manifest.encoder.same_as(encoder.ref):
        raise EncoderMismatchError(
            "manifest describes another encoder, or the same weights with other settings"
        )
    adapter = unpack_adapter(payload)
    found = {name: spec.shape for name, spec in tensor_specs(adapter).items()}
    if found != {name: spec.shape for name, spec in manifest.tensors.items()}:
        raise InvalidPayloadError("payload's tensors have other shapes than its manifest says")
    if (adapter.num_layers, adapter.hidden_size) != (encoder.num_layers, encoder.hidden_size):
        raise EncoderMismatchError(
            f"adapter has {adapter.num_layers} layers of hidden size {adapter.hidden_size}, the"
            f" encoder {encoder.num_layers} of {encoder.hidden_size}"
        )
    prove_active(encoder, adapter, manifest.golden)
    return adapter


def probe_rows(encoder: Encoder, golden: GoldenVectors) -> list[list[int]]:
    """Token ids of `telling_probes`, for a batch with other rows; `check_probe_rows` reads it.

    Raises:
        EncoderMismatchError: the golden vectors were made with other probe sentences.
    """
    _check_probes(golden)
    ids = _probe_ids(encoder)
    return [ids[n] for n in telling_probes(golden)]


def check_probe_rows(encoder: Encoder, golden: GoldenVectors, embedded: Tensor) -> None:
    """Check how far the adapter under test moved its `probe_rows`.

    Args:
        embedded: [probe rows, hidden], through the adapter.

    Raises:
        EncoderMismatchError: not as far as the manifest says.
    """
    chosen = telling_probes(golden)
    _check_distances(encoder, _moved(encoder, embedded, chosen), golden, chosen)


def _check_probes(golden: GoldenVectors) -> None:
    if golden.probe_sha256 != _probe_sha256() or len(golden.distances) != len(probe_sentences()):
        raise EncoderMismatchError("golden vectors were made with other probe sentences")


def _check_distances(
    encoder: Encoder, found: Tensor, golden: GoldenVectors, chosen: Sequence[int]
) -> None:
    tolerance = INT8_TOLERANCE if encoder.precision == "int8" else GOLDEN_TOLERANCE
    expected = torch.tensor([golden.distances[n] for n in chosen], device=found.device)
    worst = float((found - expected).abs().max())
    if not worst <= tolerance:  # this order also refuses NaN
        raise EncoderMismatchError(
            f"adapter moves the probe sentences by up to {worst:.4f} other than its manifest "
            f"says (tolerance {tolerance}): another encoder, or the adapter is not active"
        )


def telling_probes(golden: GoldenVectors) -> Sequence[int]:
    """Find the probe sentences that prove at least cost that an adapter is active.

    This is the shortest sentence that the adapter moves by `_TELLING` tolerances or more: without
    the adapter, or with other weights, the encoder does not. If there is none, it is all of them.
    """
    lengths = list(map(len, probe_sentences()))
    far = [n for n, moved in enumerate(golden.distances) if moved >= _TELLING * GOLDEN_TOLERANCE]
    return [min(far, key=lengths.__getitem__)] if far else range(len(lengths))


def _distances(encoder: Encoder, delta: Embedder, chosen: Sequence[int]) -> Tensor:
    embedded = encoder.embed_texts([probe_sentences()[n] for n in chosen], delta, kind="probe")
    return _moved(encoder, embedded, chosen)


def _moved(encoder: Encoder, embedded: Tensor, chosen: Sequence[int]) -> Tensor:
    return (embedded - _bare_probes(encoder)[list(chosen)]).square().sum(-1).sqrt()


@functools.lru_cache(maxsize=2)
def _bare_probes(encoder: Encoder) -> Tensor:
    """Embed the probes by the bare encoder, once: a server proves thousands of adapters."""
    return encoder.embed_texts(probe_sentences(), kind="probe")


@functools.lru_cache(maxsize=2)
def _probe_ids(encoder: Encoder) -> list[list[int]]:
    return encoder.tokenize(probe_sentences(), "probe")


def state_digest(module: torch.nn.Module) -> str:
    """Digest a module's parameters, to prove that they did not change."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
