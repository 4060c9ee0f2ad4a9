"""Small adapters made with numpy and the safetensors library: payloads and their manifests."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors.numpy import save

from adapterdistill.manifest import Manifest

LAYERS, HIDDEN, BOTTLENECK = 2, 8, 3
Arrays = dict[str, np.ndarray[Any, Any]]
DTYPE_NAMES = {"float32": "F32", "float16": "F16", "float64": "F64", "uint16": "BF16"}


def arrays(seed: int = 0, dtype: str = "float32") -> Arrays:
    random = np.random.default_rng(seed)
    shapes = {
        "down.weight": (LAYERS, BOTTLENECK, HIDDEN),
        "down.bias": (LAYERS, BOTTLENECK),
        "up.weight": (LAYERS, HIDDEN, BOTTLENECK),
        "up.bias": (LAYERS, HIDDEN),
    }
    return {name: random.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def payload_of(tensors: Arrays, metadata: Mapping[str, str] | None = None) -> bytes:
    config = {"adapter_config": "{}"} if metadata is None else dict(metadata)
    return save(tensors, config or None)


def raw_payload(header: object, data: bytes) -> bytes:
    """A file with any header at all, which the safetensors library would not write."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def manifest_of(payload: bytes, like: Arrays | None = None, /, **changes: Any) -> Manifest:
    """A manifest that tells the truth about `payload`, but for `changes`."""
    shown = arrays() if like is None else like
    fields: dict[str, Any] = {
        "tenant": "acme",
        "adapter": "faq",
        "version": hashlib.sha256(payload).hexdigest(),
        "payload_bytes": max(len(payload), 1),
        "kind": "bottleneck",
        "encoder": encoder_fields(),
        "tensors": {
            name: {"dtype": DTYPE_NAMES.get(array.dtype.name, "F32"), "shape": array.shape}
            for name, array in shown.items()
        },
        "method": "adapter-distillation",
        "config_sha256": "c" * 64,
        "seed": 0,
        "privacy": "none stated",
        "golden": {"probe_sha256": "d" * 64, "distances": [0.5, 0.25], "tolerance": 0.01},
    }
    return Manifest.model_validate(fields | changes)


def encoder_fields(digit: str = "a") -> dict[str, Any]:
    return {
        "name": f"tiny-{digit}",
        "model_type": "bert",
        "hidden_size": HIDDEN,
        "num_layers": LAYERS,
        "weights_sha256": digit * 64,
        "tokenizer_sha256": "b" * 64,
    }


def sample(seed: int = 0, **changes: Any) -> tuple[Manifest, bytes]:
    """A valid adapter with its own digest."""
    payload = payload_of(arrays(seed))
    return manifest_of(payload, **changes), payload


def large_sample(seed: int = 0, **changes: Any) -> tuple[Manifest, bytes]:
    """Make a sample of about 8 MiB, which takes several chunks."""
    hidden, bottleneck = 8192, 64
    encoder = encoder_fields("8") | {"hidden_size": hidden}
    shapes = {
        "down.weight": (LAYERS, bottleneck, hidden),
        "down.bias": (LAYERS, bottleneck),
        "up.weight": (LAYERS, hidden, bottleneck),
        "up.bias": (LAYERS, hidden),
    }
    random = np.random.default_rng(seed)
    # Weights of a usual strength: much stronger ones go into quarantine.
    tensors = {name: 0.02 * random.random(shape, "float32") for name, shape in shapes.items()}
    payload = payload_of(tensors)
    return manifest_of(payload, tensors, encoder=encoder, **changes), payload
