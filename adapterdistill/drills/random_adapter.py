"""Adapters of random numbers that prove what their manifests say, as teachers must."""

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import golden_vectors, pack_adapter, tensor_specs
from adapterdistill.manifest import Manifest, VersionRef, sha256_hex
from adapterdistill.registry.client import RegistryClient
from adapterdistill.selection import Probes


def publish_adapter(
    client: RegistryClient,
    encoder: Encoder,
    tenant: str,
    adapter: BottleneckAdapter,
    teachers: tuple[str, ...] = (),
) -> VersionRef:
    """Raises as the client does."""
    payload = pack_adapter(adapter, model_name=encoder.ref.name)
    manifest = Manifest(
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
        golden=golden_vectors(encoder, adapter),
        signature=Probes(encoder).signature(adapter),
    )
    return client.publish(manifest, payload).ref
