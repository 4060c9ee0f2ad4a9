"""Manifests of adapters of random numbers, which prove what their manifests say."""

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import golden_vectors, tensor_specs
from adapterdistill.manifest import GoldenVectors, Manifest, Signature, sha256_hex


def random_manifest(
    encoder: Encoder,
    adapter: BottleneckAdapter,
    payload: bytes,
    *,
    tenant: str,
    teachers: tuple[str, ...] = (),
    golden: GoldenVectors | None = None,
    signature: Signature | None = None,
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
        signature=signature,
    )
