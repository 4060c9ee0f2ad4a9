"""Checks before publishing: of a manifest, and of a payload against its manifest.

The `safetensors` library (0.8) guarantees that a file is well formed, but accepts NaN, megabytes of
metadata and thousands of empty tensors; the limits here are ours. The header is bounded, parsed
and compared with the manifest before a tensor byte is read, and tensors are read in pieces.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from adapterdistill.errors import (
    EncoderMismatchError,
    InvalidManifestError,
    InvalidPayloadError,
    PayloadTooLargeError,
)
from adapterdistill.manifest import MAX_HEADER_BYTES, EncoderRef, Manifest, TensorSpec

MAX_MANIFEST_BYTES = 64 * 1024
MAX_LAYERS = 256
MAX_BOTTLENECK = 1024
MAX_WORK = 10**10
"""Greatest number of multiplications for the weight statistics of an adapter: some seconds."""
METADATA_KEYS = frozenset({"adapter_config"})
_PIECE_BYTES = 1 << 20
_FOREIGN = {
    b"PK\x03\x04": "a zip archive (as torch.save writes)",
    **{bytes([0x80, protocol]): "a pickle" for protocol in range(2, 6)},
}
# Bytes of an element, and its exponent bits. They are all set in NaN and infinity alone. Elements
# are tested as integers, because numpy has no bfloat16.
_EXPONENT: dict[str, tuple[int, int]] = {
    "F32": (4, 0x7F800000),
    "F16": (2, 0x7C00),
    "BF16": (2, 0x7F80),
}
# Smaller numbers than these types represent with full precision take up to a hundred times as long
# to compute with. Those of F16 are ordinary numbers in the float32 that servers compute in.
_DENORMAL = frozenset({"F32", "BF16"})


@dataclass(frozen=True)
class Limits:
    """Limits on what this registry accepts."""

    max_payload_bytes: int = 64 * 1024 * 1024
    encoder_weights_sha256: str | None = None
    refuse_descendants: bool = False
    """Hide the descendants of withdrawn versions from other owners."""


def parse_manifest(manifest_json: bytes) -> Manifest:
    """Parse a manifest; raises InvalidManifestError unless it is valid canonical JSON."""
    if len(manifest_json) > MAX_MANIFEST_BYTES:
        raise InvalidManifestError(
            f"manifest refused: {len(manifest_json)} bytes, at most {MAX_MANIFEST_BYTES} allowed"
        )
    manifest = Manifest.from_json(manifest_json)
    if manifest.canonical_json() != manifest_json:
        raise InvalidManifestError("manifest refused: not in canonical JSON")
    return manifest


def check_manifest(manifest: Manifest, limits: Limits) -> None:
    """Check that a payload as declared by the manifest may be published here.

    Raises:
        PayloadTooLargeError, EncoderMismatchError: the manifest violates `limits`.
        InvalidManifestError: the tensors do not fit the kind and the encoder.
    """
    if manifest.payload_bytes > limits.max_payload_bytes:
        raise PayloadTooLargeError(
            f"payload of {manifest.payload_bytes} bytes; this registry takes at most"
            f" {limits.max_payload_bytes}"
        )
    expected = limits.encoder_weights_sha256
    if expected is not None and manifest.encoder.weights_sha256 != expected:
        raise EncoderMismatchError(
            f"this registry serves encoder {expected[:12]}, the adapter belongs to"
            f" {manifest.encoder.weights_sha256[:12]}"
        )
    if manifest.kind != "bottleneck":
        raise InvalidManifestError(f"adapters of kind {manifest.kind} cannot be published")
    _check_bottleneck(manifest.tensors, manifest.encoder)


def _check_bottleneck(tensors: Mapping[str, TensorSpec], encoder: EncoderRef) -> None:
    layers, hidden = encoder.num_layers, encoder.hidden_size
    down = tensors.get("down.weight")
    bottleneck = down.shape[1] if down is not None and len(down.shape) == 3 else 0
    if bottleneck < 1:
        raise InvalidManifestError("down.weight must have shape (layers, bottleneck, hidden)")
    # The time of the weight statistics grows with the layers and the cube of the bottleneck size.
    if layers > MAX_LAYERS or bottleneck > MAX_BOTTLENECK:
        raise InvalidManifestError(
            f"{layers} layers with bottlenecks of {bottleneck}; at most {MAX_LAYERS} with"
            f" {MAX_BOTTLENECK} can be published"
        )
    if layers * min(bottleneck, hidden) ** 2 * (hidden + bottleneck) > MAX_WORK:
        raise InvalidManifestError(
            f"{layers} layers of bottlenecks of {bottleneck} and hidden size {hidden} take too long"
            " to measure: publish a smaller bottleneck"
        )
    expected = {
        "down.weight": (layers, bottleneck, hidden),
        "down.bias": (layers, bottleneck),
        "up.weight": (layers, hidden, bottleneck),
        "up.bias": (layers, hidden),
    }
    if tensors.keys() != expected.keys():
        raise InvalidManifestError(
            f"a bottleneck adapter has exactly the tensors {', '.join(sorted(expected))};"
            f" the manifest has {len(tensors)}, of which"
            f" {len(tensors.keys() & expected.keys())} have these names"
        )
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            raise InvalidManifestError(
                f"{name}: expected shape {shape} for {layers} layers of hidden size {hidden},"
                f" got {tensors[name].shape}"
            )


def check_payload(path: Path, manifest: Manifest) -> None:
    """Check that the file is safetensors with exactly the declared tensors, finite and normal.

    Raises:
        InvalidPayloadError: it is not; the message names the tensor at fault.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = _header_size(file.read(9), size)
        file.seek(8)
        spans = _check_header(
            _parse_header(file.read(header_bytes)), manifest.tensors, size - 8 - header_bytes
        )
        try:  # The library that loaders use must accept the header, too.
            with safe_open(path, framework="numpy"):
                pass
        except SafetensorError:
            raise InvalidPayloadError("payload refused by the safetensors library") from None
        for name, (start, end) in spans.items():
            file.seek(8 + header_bytes + start)
            _check_finite(file, end - start, manifest.tensors[name].dtype, name)


def _header_size(prefix: bytes, payload_bytes: int) -> int:
    declared = int.from_bytes(prefix[:8], "little")
    if len(prefix) == 9 and prefix[8:] == b"{" and declared <= payload_bytes - 8:
        if declared > MAX_HEADER_BYTES:
            raise InvalidPayloadError(
                f"safetensors header of {declared} bytes; at most {MAX_HEADER_BYTES} allowed"
            )
        return declared
    for magic, kind in _FOREIGN.items():
        if prefix.startswith(magic):
            raise InvalidPayloadError(
                f"payload is {kind}, which can run code when loaded; only safetensors is accepted"
            )
    raise InvalidPayloadError("payload is not safetensors: no header at its start")


def _parse_header(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(
            text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError):
        raise InvalidPayloadError("safetensors header is not valid JSON") from None
    if not isinstance(header, dict):
        raise InvalidPayloadError("safetensors header is not a JSON object")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _check_header(
    header: dict[str, Any], declared: Mapping[str, TensorSpec], data_bytes: int
) -> dict[str, tuple[int, int]]:
    """Return the byte span of each tensor; together the spans fill the data without gaps."""
    metadata = header.pop("__metadata__", {})
    if (
        not isinstance(metadata, dict)
        or not METADATA_KEYS.issuperset(metadata)
        or not all(isinstance(value, str) for value in metadata.values())
    ):
        raise InvalidPayloadError(
            f"safetensors metadata may hold only texts named {', '.join(METADATA_KEYS)}"
        )
    for name, text in metadata.items():
        _check_settings(name, text)
    if header.keys() != declared.keys():
        raise InvalidPayloadError(
            f"payload has {len(header)} tensors, of which {len(header.keys() & declared.keys())}"
            f" are among the {len(declared)} of its manifest"
        )
    spans = {name: _check_entry(name, header[name], declared[name]) for name in declared}
    position = 0
    for start, end in sorted(spans.values()):
        if start != position:
            raise InvalidPayloadError("safetensors tensors overlap or leave gaps")
        position = end
    if position != data_bytes:
        raise InvalidPayloadError(
            f"safetensors tensors take {position} bytes, the payload holds {data_bytes}"
        )
    return spans


def _check_settings(name: str, text: str) -> None:
    """Refuse metadata that loaders cannot parse, however deeply nested."""
    try:
        settings = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise InvalidPayloadError(f"{name} in the safetensors metadata is not valid JSON") from None
    if not isinstance(settings, dict):
        raise InvalidPayloadError(f"{name} in the safetensors metadata is not a JSON object")


def _check_entry(name: str, entry: object, declared: TensorSpec) -> tuple[int, int]:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise InvalidPayloadError(f"{name}: malformed safetensors entry")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise InvalidPayloadError(f"{name}: malformed safetensors shape or offsets")
    if entry["dtype"] != declared.dtype or tuple(shape) != declared.shape:
        raise InvalidPayloadError(
            f"{name}: payload and manifest differ; the manifest declares {declared.dtype}"
            f" {declared.shape}"
        )
    expected_bytes = math.prod(shape) * _EXPONENT[declared.dtype][0]
    if offsets[1] - offsets[0] != expected_bytes:
        raise InvalidPayloadError(f"{name}: expected {expected_bytes} bytes for its shape")
    return offsets[0], offsets[1]


def _are_sizes(value: object) -> bool:
    # type() and not isinstance(): in Python, True is an int.
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_finite(file: IO[bytes], size: int, dtype: str, name: str) -> None:
    item_bytes, exponent = _EXPONENT[dtype]
    while size > 0:
        piece = file.read(min(size, _PIECE_BYTES))
        if not piece:
            raise InvalidPayloadError(f"{name}: payload ends early")
        bits = np.frombuffer(piece, dtype=f"<u{item_bytes}")
        if np.any((bits & exponent) == exponent):
            raise InvalidPayloadError(f"{name}: holds NaN or infinity")
        if dtype in _DENORMAL and np.any((bits & exponent == 0) & (bits << 1 != 0)):
            raise InvalidPayloadError(f"{name}: holds a number so small that it slows servers down")
        size -= len(piece)
