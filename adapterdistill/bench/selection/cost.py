"""The cost of choosing teachers: bytes and seconds against the number of listed adapters.

The registry is real, a process of its own on loopback. The adapters are random, each with its own
weights, fingerprint and manifest; payloads are stored of those alone that will be chosen.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import grpc

from adapterdistill.actors.teachers import fetch_teachers
from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import (
    golden_vectors,
    pack_adapter,
    prove_active,
    unpack_adapter,
)
from adapterdistill.manifest import GoldenVectors, Manifest
from adapterdistill.registry import wire
from adapterdistill.registry.access import ANYONE
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.index.database import connect
from adapterdistill.registry.index.index import Index
from adapterdistill.registry.server.store import BlobStore
from adapterdistill.registry.v1 import registry_pb2 as pb
from adapterdistill.registry.v1 import registry_pb2_grpc
from adapterdistill.selection import Probes, by_relevance
from adapterdistill.testbed.progress import phase
from adapterdistill.testbed.random_adapters import new_adapter, random_manifest
from adapterdistill.testbed.registry import registry_process

ROUNDS = 7
_LINEAGE = 16


def measure_cost(
    encoder: Encoder,
    rows: Sequence[Sequence[int]],
    *,
    counts: Sequence[int],
    max_teachers: int,
    rounds: int = ROUNDS,
) -> dict[str, Any]:
    """Fill registries of each size and time a newcomer with these texts.

    Args:
        rows: token ids of the newcomer's texts.
    """
    probes = Probes(encoder)
    manifests = _synthetic(encoder, probes, max(counts))
    profile, wanted = probes.profile(rows), set()
    for count in counts:
        # The choice is known beforehand; other payloads need not be stored.
        order = by_relevance(profile, [manifest.fingerprint for manifest in manifests[:count]])
        wanted |= set(islice(order, max_teachers))
    found = []
    with tempfile.TemporaryDirectory() as folder:
        root, stored = Path(folder) / "registry", 0
        for count in sorted(counts):
            _fill(root, encoder, manifests, range(stored, count), wanted)
            stored = count
            with registry_process(root) as server:
                measured = _measure(server.address, encoder, rows, max_teachers, rounds)
            found.append({"adapters": count, **measured})
    return {
        "max_teachers": max_teachers,
        "rounds": rounds,
        "payload_bytes": manifests[0].payload_bytes,
        "own_texts": len(rows),
        "sizes": found,
    }


def _synthetic(encoder: Encoder, probes: Probes, count: int) -> list[Manifest]:
    """Manifests as long as real ones; their golden vectors are filled in where one is stored."""
    unproved = GoldenVectors(probe_sha256="0" * 64, distances=(0.123456,) * 8, tolerance=0.02)
    manifests: list[Manifest] = []
    with phase("drawing adapters", count) as done:
        for number in range(count):
            adapter = new_adapter(encoder, number)
            payload = pack_adapter(adapter, model_name=encoder.ref.name)
            teachers = tuple(m.ref.name for m in manifests[:_LINEAGE])
            manifests.append(
                random_manifest(
                    encoder, adapter, payload,
                    tenant=f"synthetic-{number:05d}", seed=number, teachers=teachers,
                    golden=unproved, fingerprint=probes.fingerprint(adapter),
                )
            )  # fmt: skip
            done()
    return manifests


def _fill(
    root: Path, encoder: Encoder, manifests: list[Manifest], places: range, wanted: set[int]
) -> None:
    """Add these to the registry's folder, which no process serves now."""
    store = BlobStore(root)
    index = Index(connect(root))
    with phase("filling the registry", len(places)) as done:
        for place in places:
            manifest = manifests[place]
            if place in wanted:
                adapter = new_adapter(encoder, place)
                golden = golden_vectors(encoder, adapter)
                manifest = manifest.model_copy(update={"golden": golden})
                payload = pack_adapter(adapter, model_name=encoder.ref.name)
                with store.staging.begin(ANYONE, manifest.version).open() as upload:
                    upload.write(payload)
                    store.commit(upload)
            index.add(manifest)
            done()
    index.close()
    store.close()


def _measure(
    address: str,
    encoder: Encoder,
    rows: Sequence[Sequence[int]],
    max_teachers: int,
    rounds: int,
) -> dict[str, Any]:
    newcomer = "newcomer"
    probes = Probes(encoder)
    with RegistryClient(address, timeout_s=600) as client:

        def summaries() -> list[Any]:
            return list(client.summaries(encoder=encoder.ref, exclude_tenant=newcomer))

        listed = summaries()

        def choose() -> list[int]:
            fingerprints = [one.fingerprint for one in listed]
            return list(islice(by_relevance(probes.profile(rows), fingerprints), max_teachers))

        def whole() -> Any:
            return fetch_teachers(
                client, encoder, tenant=newcomer, rows=rows, max_teachers=max_teachers
            )

        def fetch_and_prove() -> None:
            for ref in chosen:
                manifest, payload = client.fetch(ref, encoder=encoder.ref)
                adapter = unpack_adapter(payload)
                prove_active(encoder, adapter, manifest.golden)
                assert manifest.fingerprint is not None
                probes.prove(adapter, manifest.fingerprint)

        chosen = [listed[place].ref for place in choose()]
        teachers = whole()
        assert sorted(teachers.payloads) == sorted(ref.name for ref in chosen)
        assert not teachers.refused
        steps: dict[str, Callable[[], Any]] = {
            "list_s": summaries,
            "list_manifests_s": lambda: list(client.list(encoder=encoder.ref)),
            "choose_s": choose,
            "fetch_and_prove_s": fetch_and_prove,
            "whole_s": whole,
        }
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(rounds):
            for name, step in steps.items():
                started = time.perf_counter()
                step()
                seconds[name].append(time.perf_counter() - started)
    figures = {name: _figures(values) for name, values in seconds.items()}
    share = len(listed) / len(chosen)
    fetched_bytes = sum(map(len, teachers.payloads.values()))
    return {
        "listed": len(listed),
        "list_bytes": _listed_bytes(address, pb.VERSION_VIEW_SUMMARY),
        "list_manifests_bytes": _listed_bytes(address, pb.VERSION_VIEW_UNSPECIFIED),
        "fetched": len(chosen),
        "fetched_bytes": fetched_bytes,
        **figures,
        # All are of one size, so the cost of fetching all is computed.
        "all_bytes": round(fetched_bytes * share),
        "all_fetch_and_prove_s": round(figures["fetch_and_prove_s"]["median"] * share, 2),
    }


def _figures(values: Sequence[float]) -> dict[str, float]:
    return {"min": round(min(values), 4), "median": round(statistics.median(values), 4)}


def _listed_bytes(address: str, view: Any) -> int:
    """Bytes of all pages of a listing, as messages."""
    options = [("grpc.max_receive_message_length", wire.MAX_MESSAGE_BYTES)]
    request = pb.ListVersionsRequest(
        filter=pb.VersionFilter(latest_only=True), page_size=wire.MAX_PAGE, view=view
    )
    total = 0
    with grpc.insecure_channel(address, options=options) as channel:
        # Generated stubs have no annotations.
        stub: Any = registry_pb2_grpc.RegistryServiceStub(channel)  # type: ignore[no-untyped-call]
        while True:
            page = stub.ListVersions(request, timeout=60)
            total += int(page.ByteSize())
            if not page.next_page_token:
                return total
            request.page_token = page.next_page_token
