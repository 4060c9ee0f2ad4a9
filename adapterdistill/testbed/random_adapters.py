"""Random adapters for the registry's benchmarks, with manifests as long as real ones."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors.numpy import save

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import golden_vectors, pack_adapter, tensor_specs
from adapterdistill.manifest import (
    FINGERPRINT_BYTES,
    Fingerprint,
    GoldenVectors,
    Manifest,
    VersionRef,
    sha256_hex,
)
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.selection import Probes

BOTTLENECK_SIZE = 24

_METRICS = ("mrr", "recall_at_1", "recall_at_3", "recall_at_5")
_PRIVACY = "Random numbers: made by the registry's benchmark, learnt from nobody. " * 4


@dataclass(frozen=True)
class Shape:
    """An encoder's sizes and its adapters' bottleneck."""

    layers: int
    hidden: int
    bottleneck: int


MINILM = Shape(6, 384, 24)
SMALL = Shape(2, 8, 3)


def adapter(
    shape: Shape, seed: int, *, tenant: str, name: str, teachers: tuple[str, ...] = ()
) -> tuple[Manifest, bytes]:
    """An adapter that may be published: manifest and payload."""
    random = np.random.default_rng(seed)
    sizes = {
        "down.weight": (shape.layers, shape.bottleneck, shape.hidden),
        "down.bias": (shape.layers, shape.bottleneck),
        "up.weight": (shape.layers, shape.hidden, shape.bottleneck),
        "up.bias": (shape.layers, shape.hidden),
    }
    tensors = {
        key: 0.02 * random.standard_normal(size, dtype="float32") for key, size in sizes.items()
    }
    payload = save(tensors, {"adapter_config": "{}"})
    fields: dict[str, Any] = {
        "tenant": tenant,
        "adapter": name,
        "version": sha256_hex(payload),
        "payload_bytes": len(payload),
        "kind": "bottleneck",
        "encoder": {
            "name": f"random-{shape.layers}x{shape.hidden}",
            "model_type": "bert",
            "hidden_size": shape.hidden,
            "num_layers": shape.layers,
            "weights_sha256": "a" * 64,
            "tokenizer_sha256": "b" * 64,
        },
        "tensors": {key: {"dtype": "F32", "shape": size} for key, size in sizes.items()},
        "method": "adapter_distillation",
        "config_sha256": "0" * 64,
        "seed": seed,
        "metrics": {f"held_out_{key}": {"value": 0.123456, "count": 50} for key in _METRICS},
        "teachers": teachers,
        "privacy": _PRIVACY,
        "golden": {"probe_sha256": "d" * 64, "distances": [0.123456] * 8, "tolerance": 0.02},
        "fingerprint": Fingerprint.of("f" * 64, random.bytes(FINGERPRINT_BYTES)),
    }
    return Manifest.model_validate(fields), payload


def random_manifest(
    encoder: Encoder,
    adapter: BottleneckAdapter,
    payload: bytes,
    *,
    tenant: str,
    teachers: tuple[str, ...] = (),
    golden: GoldenVectors | None = None,
    fingerprint: Fingerprint | None = None,
) -> Manifest:
    """Of the tenant's adapter "faq", packed as `payload`; `golden` is made unless it is given."""
    return Manifest(
        tenant=tenant,
        adapter="faq",
        version=sha256_hex(payload),
        payload_bytes=len(payload),
        kind="bottleneck",
        encoder=encoder.ref,
        tensors=tensor_specs(adapter),
        method="random",
        config_sha256="0" * 64,
        seed=0,
        teachers=teachers,
        privacy="made of random numbers",
        golden=golden or golden_vectors(encoder, adapter),
        fingerprint=fingerprint,
    )


def publish_adapter(
    client: RegistryClient,
    encoder: Encoder,
    tenant: str,
    adapter: BottleneckAdapter,
    teachers: tuple[str, ...] = (),
) -> VersionRef:
    """Raises as the client does."""
    payload = pack_adapter(adapter, model_name=encoder.ref.name)
    fingerprint = Probes(encoder).fingerprint(adapter)
    manifest = random_manifest(
        encoder, adapter, payload, tenant=tenant, teachers=teachers, fingerprint=fingerprint
    )
    return client.publish(manifest, payload).ref
