"""The drill of adapters that are made to break whoever loads them."""

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from adapterdistill.actors.teachers import Teachers, fetch_teachers
from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder, load_encoder
from adapterdistill.checkpoint import (
    adapter_config,
    golden_vectors,
    load_proven,
    pack_adapter,
    probe_sentences,
    unpack_adapter,
)
from adapterdistill.distill.conditional_distillation import ConditionalSettings
from adapterdistill.distill.method import Variant
from adapterdistill.distill.variants import pack_variant, unpack_variant
from adapterdistill.drills.drill import Outcome
from adapterdistill.drills.registry.acknowledged import OWNER, fsck_findings
from adapterdistill.drills.registry.mutations import dumped, mutated_json, mutated_payload
from adapterdistill.errors import AdapterDistillError
from adapterdistill.manifest import Manifest, VersionRef, sha256_hex
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.testbed.random_adapters import (
    Shape,
    adapter,
    new_adapter,
    publish_adapter,
    random_adapters,
    random_manifest,
)
from adapterdistill.testbed.registry import registry_process
from adapterdistill.testbed.tiny_encoder import make_tiny_encoder

Upload = tuple[Manifest, bytes]
_TIMEOUT_S = 30.0


def poisoned_teacher(folder: Path, draw: random.Random, *, payloads: int) -> Outcome:
    """Offer poisoned adapters beside a sound one, from a registry that checks and one that does
    not; then give mutated payloads to every loader."""
    root = folder / "registry"
    encoder = load_encoder(str(make_tiny_encoder(folder / "encoder")), dtype="float32")
    with (
        registry_process(root) as server,
        _Unchecked(server.address, timeout_s=_TIMEOUT_S) as client,
    ):
        good, *places = (
            publish_adapter(client, encoder, f"tenant-{n}", one)
            for n, one in enumerate(random_adapters(encoder, 1 + len(poisoned(encoder, "any"))))
        )
        for tenant in ("eve", "mallory"):
            for manifest, payload in poisoned(encoder, tenant).values():
                try:
                    client.publish(manifest, payload)
                except AdapterDistillError:
                    continue  # refused at once: nobody meets it
        began = time.monotonic()
        for place, upload in zip(places, poisoned(encoder, "any").values(), strict=True):
            client.instead[place.name] = upload
        found = _fetch(client, encoder)
        seconds = time.monotonic() - began
    findings = [f"poisoned teacher {name} was used" for name in {*found.payloads} - {good.name}]
    if good.name not in found.payloads:
        findings.append("the sound teacher was not used")
    findings += (
        f"{p.name} was not named as refused" for p in places if p.name not in found.refused
    )
    for (loader, error), number in uncaught(loaders(encoder, draw), draw, payloads).items():
        findings.append(f"{loader}: {number} x {error} was not caught")
    return Outcome(seconds, (*findings, *fsck_findings(root)))


class _Unchecked(RegistryClient):
    """A client of a registry that hands out other things than it admitted."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.instead: dict[str, Upload] = {}

    def fetch(self, ref: VersionRef, **options: Any) -> Upload:
        return self.instead.get(ref.name) or super().fetch(ref, **options)


def _fetch(client: RegistryClient, encoder: Encoder) -> Teachers:
    rows = encoder.tokenize(probe_sentences())
    return fetch_teachers(client, encoder, tenant=OWNER, rows=rows, max_teachers=100)


def poisoned(encoder: Encoder, tenant: str) -> Mapping[str, Upload]:
    """Make one upload of each kind of poison, with manifests that agree with their payloads."""
    sound = new_adapter(encoder, seed=7)
    silent = sound.copy().requires_grad_(False)
    silent.up_weight.zero_()
    silent.up_bias.zero_()
    loud = golden_vectors(encoder, silent).model_copy(
        update={"distances": (0.9,) * len(probe_sentences()), "tolerance": 2.0}
    )
    inactive = pack_adapter(silent, model_name="x")
    found = {
        "moves nothing": (
            random_manifest(encoder, silent, inactive, tenant=tenant, golden=loud),
            inactive,
        ),
        "other settings": _with_encoder(encoder, sound, tenant, model_type="other"),
        "nested settings": _with_settings(encoder, sound, tenant, "[" * 30_000),
        "malformed settings": _with_settings(encoder, sound, tenant, '{"config":[]}'),
    }
    layers, hidden = encoder.num_layers, encoder.hidden_size
    for name, shape in {
        "other hidden size": Shape(layers, 2 * hidden, 3),
        "fewer layers": Shape(layers - 1, hidden, 3),
        "more layers": Shape(layers + 1, hidden, 3),
    }.items():
        manifest, payload = adapter(shape, 1, tenant=tenant, name=name.replace(" ", "-"))
        told = {"num_layers": shape.layers, "hidden_size": shape.hidden}
        like = golden_vectors(encoder, silent)
        update = {"encoder": encoder.ref.model_copy(update=told), "golden": like}
        payload = _rewritten(payload, json.dumps(_settings_of(shape)))
        found[name] = _honest(manifest.model_copy(update=update), payload)
    return found


def _settings_of(shape: Shape) -> dict[str, Any]:
    """Make the settings that an adapter of this shape declares."""
    one = BottleneckAdapter.new(shape.layers, shape.hidden, shape.bottleneck, seed=0)
    return adapter_config(one, model_name="x")


def _with_encoder(encoder: Encoder, one: BottleneckAdapter, tenant: str, **changes: Any) -> Upload:
    payload = pack_adapter(one, model_name="y")
    manifest = random_manifest(encoder, one, payload, tenant=tenant)
    return manifest.model_copy(update={"encoder": encoder.ref.model_copy(update=changes)}), payload


def _with_settings(encoder: Encoder, one: BottleneckAdapter, tenant: str, text: str) -> Upload:
    payload = _rewritten(pack_adapter(one, model_name="x"), text)
    return random_manifest(encoder, one, payload, tenant=tenant), payload


def _rewritten(payload: bytes, text: str) -> bytes:
    """The payload with another `adapter_config`."""
    length = int.from_bytes(payload[:8], "little")
    header = json.loads(payload[8 : 8 + length]) | {"__metadata__": {"adapter_config": text}}
    written = json.dumps(header).encode()
    return len(written).to_bytes(8, "little") + written + payload[8 + length :]


def _honest(manifest: Manifest, payload: bytes) -> Upload:
    told = {"version": sha256_hex(payload), "payload_bytes": len(payload)}
    return manifest.model_copy(update=told), payload


Loaders = Mapping[str, tuple[bytes, Callable[[bytes], object]]]
"""A sound payload and what reads it, by name."""


def loaders(encoder: Encoder, draw: random.Random) -> Loaders:
    """List what reads payloads of other owners, or of the owner's own store."""
    one = new_adapter(encoder, seed=1)
    sound = pack_adapter(one, model_name="x")
    told = json.loads(random_manifest(encoder, one, sound, tenant="acme").canonical_json())

    def proven(payload: bytes) -> None:
        manifest = told if draw.random() < 0.5 else mutated_json(told, draw)
        load_proven(encoder, Manifest.from_json(dumped(manifest)), payload)

    settings = ConditionalSettings(bottleneck_size=4, speed=2.0, least=3, to_all=True)
    variant = pack_variant(Variant(settings, settings.new(encoder, seed=0)))
    return {
        "unpack_adapter": (sound, unpack_adapter),
        "load_proven": (sound, proven),
        "unpack_variant": (variant, lambda payload: unpack_variant(payload, encoder)),
    }


def uncaught(loaders: Loaders, draw: random.Random, payloads: int) -> Counter[tuple[str, str]]:
    """Give mutated payloads to each loader; count errors that no caller expects, by loader."""
    seen: Counter[tuple[str, str]] = Counter()
    for name, (sound, load) in loaders.items():
        for _ in range(payloads):
            try:
                load(mutated_payload(sound, draw))
            except AdapterDistillError:
                pass
            except Exception as error:
                seen[name, type(error).__name__] += 1
    return seen
