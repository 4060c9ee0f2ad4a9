"""Random adapters with manifests as long as real ones: the only generator of both."""

from dataclasses import dataclass

import numpy as np
import torch
from safetensors.numpy import save

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import golden_vectors, pack_adapter, tensor_specs
from adapterdistill.manifest import (
    FINGERPRINT_BYTES,
    EncoderRef,
    Fingerprint,
    GoldenVectors,
    Manifest,
    Metric,
    TensorSpec,
    VersionRef,
    sha256_hex,
)
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.selection import Probes

BOTTLENECK_SIZE = 24

STRENGTH = 0.04
"""Standard deviation of every parameter of `random_adapters`: it moves embeddings by about 0.3 and
costs no accuracy (measured), so that tenants differ and rankings still mean something."""
_METRICS = {
    f"held_out_{name}": Metric(value=0.123456, count=50)
    for name in ("mrr", "recall_at_1", "recall_at_3", "recall_at_5")
}
_PRIVACY = "Random numbers, learnt from nobody: made for a measurement or a test. " * 4


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
    encoder = EncoderRef(
        name=f"random-{shape.layers}x{shape.hidden}",
        model_type="bert",
        hidden_size=shape.hidden,
        num_layers=shape.layers,
        # An encoder has one shape only, by which registries know it.
        weights_sha256=sha256_hex(f"{shape.layers}x{shape.hidden}".encode()),
        tokenizer_sha256="b" * 64,
    )
    specs = {key: TensorSpec(dtype="F32", shape=size) for key, size in sizes.items()}
    golden = GoldenVectors(probe_sha256="d" * 64, distances=(0.123456,) * 8, tolerance=0.02)
    fingerprint = Fingerprint.of("f" * 64, random.bytes(FINGERPRINT_BYTES))
    manifest = _manifest(
        encoder, specs, payload, golden,
        tenant=tenant, name=name, seed=seed, teachers=teachers, fingerprint=fingerprint,
    )  # fmt: skip
    return manifest, payload


def random_adapters(
    encoder: Encoder,
    count: int,
    *,
    bottleneck_size: int = BOTTLENECK_SIZE,
    strength: float = STRENGTH,
) -> list[BottleneckAdapter]:
    """Seeded adapters that each move the encoder another way."""
    adapters = []
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        shape = (encoder.num_layers, encoder.hidden_size, bottleneck_size)
        adapter = BottleneckAdapter.new(*shape, seed=seed).requires_grad_(False)
        for parameter in adapter.parameters():
            parameter.normal_(0, strength, generator=generator)
        adapters.append(adapter)
    return adapters


def new_adapter(
    encoder: Encoder, seed: int, bottleneck_size: int = BOTTLENECK_SIZE
) -> BottleneckAdapter:
    """An untrained adapter on the encoder's device."""
    shape = (encoder.num_layers, encoder.hidden_size, bottleneck_size)
    return BottleneckAdapter.new(*shape, seed=seed).to(encoder.device)


def random_manifest(
    encoder: Encoder,
    adapter: BottleneckAdapter,
    payload: bytes,
    *,
    tenant: str,
    seed: int = 0,
    teachers: tuple[str, ...] = (),
    golden: GoldenVectors | None = None,
    fingerprint: Fingerprint | None = None,
) -> Manifest:
    """The manifest of the tenant's adapter "faq", packed as `payload`; makes `golden` if needed."""
    return _manifest(
        encoder.ref, tensor_specs(adapter), payload, golden or golden_vectors(encoder, adapter),
        tenant=tenant, seed=seed, teachers=teachers, fingerprint=fingerprint,
    )  # fmt: skip


def _manifest(
    encoder: EncoderRef,
    tensors: dict[str, TensorSpec],
    payload: bytes,
    golden: GoldenVectors,
    *,
    tenant: str,
    name: str = "faq",
    seed: int,
    teachers: tuple[str, ...],
    fingerprint: Fingerprint | None,
) -> Manifest:
    """A manifest that is as long as a real one."""
    return Manifest(
        tenant=tenant,
        adapter=name,
        version=sha256_hex(payload),
        payload_bytes=len(payload),
        kind="bottleneck",
        encoder=encoder,
        tensors=tensors,
        method="adapter_distillation",
        config_sha256="0" * 64,
        seed=seed,
        metrics=_METRICS,
        teachers=teachers,
        privacy=_PRIVACY,
        golden=golden,
        fingerprint=fingerprint,
    )


def publish_adapter(
    client: RegistryClient,
    encoder: Encoder,
    tenant: str,
    adapter: BottleneckAdapter,
    teachers: tuple[str, ...] = (),
) -> VersionRef:
    """Publish the adapter as the tenant's "faq"; raises as the client does."""
    payload = pack_adapter(adapter, model_name=encoder.ref.name)
    fingerprint = Probes(encoder).fingerprint(adapter)
    manifest = random_manifest(
        encoder, adapter, payload, tenant=tenant, teachers=teachers, fingerprint=fingerprint
    )
    return client.publish(manifest, payload).ref
