"""Adapters of random numbers that prove what their manifests say, as teachers must."""

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder
from adapterdistill.bench.random_manifest import random_manifest
from adapterdistill.checkpoint import pack_adapter
from adapterdistill.manifest import VersionRef
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
    signature = Probes(encoder).signature(adapter)
    manifest = random_manifest(
        encoder, adapter, payload, tenant=tenant, teachers=teachers, signature=signature
    )
    return client.publish(manifest, payload).ref
