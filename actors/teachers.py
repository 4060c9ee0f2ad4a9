"""Which adapters of other tenants teach, and the proof that they are what they say."""

from dataclasses import dataclass, field

from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import prove_active, unpack_adapter
from adapterdistill.errors import EncoderMismatchError, InvalidPayloadError
from adapterdistill.registry.client import RegistryClient


@dataclass
class Teachers:
    """Payloads by version name, sorted by name; `refused` names those that failed the proof."""

    payloads: dict[str, bytes] = field(default_factory=dict)
    refused: tuple[str, ...] = ()


def fetch_teachers(
    registry: RegistryClient, encoder: Encoder, *, tenant: str, max_teachers: int
) -> Teachers:
    """The newest adapter of each other tenant on this encoder, at most `max_teachers`.

    One that does not move the encoder as its manifest says is passed over: otherwise a single
    tenant's broken adapter would keep all others from joining.
    """
    found = Teachers()
    seen: set[str] = set()
    listed = registry.list(encoder=encoder.ref, exclude_tenant=tenant) if max_teachers else ()
    for manifest in listed:
        name = manifest.ref.name
        if manifest.kind != "bottleneck" or manifest.tenant in seen:
            continue
        seen.add(manifest.tenant)
        try:
            manifest, payload = registry.fetch(manifest.ref, encoder=encoder.ref)
            prove_active(encoder, unpack_adapter(payload), manifest.golden)
        except (EncoderMismatchError, InvalidPayloadError):
            found.refused += (name,)
            continue
        found.payloads[name] = payload
        if len(found.payloads) == max_teachers:
            break
    found.payloads = dict(sorted(found.payloads.items()))
    return found
