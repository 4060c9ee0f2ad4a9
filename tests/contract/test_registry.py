"""The registry over real gRPC on loopback: what its callers may rely on."""

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from adapterdistill import errors
from adapterdistill.manifest import EncoderRef, Fingerprint, Manifest, VersionRef
from adapterdistill.registry import wire
from adapterdistill.registry.admission.admission import Limits
from adapterdistill.registry.server.server import SERVICE_NAME
from adapterdistill.registry.v1 import registry_pb2 as pb
from tests.contract.running_registry import Running, parts, refusal, wait_until
from tests.unit.registry.samples import (
    encoder_fields,
    manifest_of,
    payload_of,
    sample,
)

MAX_PAYLOAD_BYTES = 3 << 20


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("registry")
    running = Running(root, limits=Limits(MAX_PAYLOAD_BYTES))
    yield running
    running.close()


def test_published_adapter_comes_back_byte_for_byte(registry: Running) -> None:
    manifest, payload = sample(1)
    assert registry.client.publish(manifest, payload) == manifest
    assert registry.client.get(manifest.ref) == manifest
    assert registry.client.fetch(manifest.ref) == (manifest, payload)


def test_payload_of_many_chunks_comes_back_byte_for_byte(registry: Running) -> None:
    hidden = 16384
    shapes = {
        "down.weight": (2, 9, hidden),
        "down.bias": (2, 9),
        "up.weight": (2, hidden, 9),
        "up.bias": (2, hidden),
    }
    tensors = {n: np.random.default_rng(0).normal(size=s).astype("f4") for n, s in shapes.items()}
    payload = payload_of(tensors)
    assert 2 << 20 < len(payload) < MAX_PAYLOAD_BYTES
    encoder = encoder_fields("9") | {"hidden_size": hidden}
    manifest = manifest_of(payload, tensors, adapter="large", encoder=encoder)
    registry.client.publish(manifest, payload)
    assert registry.client.fetch(manifest.ref)[1] == payload
    small = manifest_of(payload, tensors, adapter="large2", encoder=encoder)
    registry.stub.Publish(parts(small, payload, chunk_bytes=100_000), timeout=10)
    assert registry.client.fetch(small.ref)[1] == payload


def test_publishing_twice_is_harmless_and_makes_one_version(registry: Running) -> None:
    manifest, payload = sample(2, tenant="twice")
    assert registry.client.publish(manifest, payload) == registry.client.publish(manifest, payload)
    assert list(registry.client.list(tenant="twice", latest_only=False)) == [manifest]


def test_concurrent_publishes_of_one_version_all_succeed(registry: Running) -> None:
    manifest, payload = sample(3, tenant="race")
    results: list[Manifest] = []
    threads = [
        threading.Thread(target=lambda: results.append(registry.client.publish(manifest, payload)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert results == [manifest] * 8
    assert list(registry.client.list(tenant="race", latest_only=False)) == [manifest]


def test_version_is_never_given_another_manifest(registry: Running) -> None:
    manifest, payload = sample(4)
    registry.client.publish(manifest, payload)
    with pytest.raises(errors.InvalidManifestError, match="never change"):
        registry.client.publish(manifest.model_copy(update={"seed": 99}), payload)
    assert registry.client.get(manifest.ref) == manifest


def test_payload_lost_from_disk_is_taken_again(registry: Running) -> None:
    manifest, payload = sample(5)
    registry.client.publish(manifest, payload)
    (registry.root / "blobs" / manifest.version[:2] / manifest.version).unlink()
    with pytest.raises(errors.RegistryError, match="missing"):
        registry.client.fetch(manifest.ref)
    registry.client.publish(manifest, payload)
    assert registry.client.fetch(manifest.ref)[1] == payload


def test_payload_changed_on_disk_is_noticed_by_the_client(registry: Running) -> None:
    manifest, payload = sample(6)
    registry.client.publish(manifest, payload)
    blob = registry.root / "blobs" / manifest.version[:2] / manifest.version
    blob.write_bytes(payload[:-1] + bytes([payload[-1] ^ 1]))
    with pytest.raises(errors.DigestMismatchError):
        registry.client.fetch(manifest.ref)


def test_encoder_filter_never_returns_another_encoder(registry: Running) -> None:
    mine, other = encoder_fields("1"), encoder_fields("2")
    first, payload = sample(13, tenant="mine", encoder=mine)
    second, payload2 = sample(14, tenant="other", encoder=other)
    registry.client.publish(first, payload)
    registry.client.publish(second, payload2)
    wanted = EncoderRef(**mine)
    assert list(registry.client.list(encoder=wanted)) == [first]
    assert registry.client.fetch(first.ref, encoder=wanted) == (first, payload)
    with pytest.raises(errors.EncoderMismatchError):
        registry.client.fetch(second.ref, encoder=wanted)


def test_listing_pages_over_250_versions_newest_first(registry: Running) -> None:
    manifests = []
    for number in range(250):
        manifest, payload = sample(1000 + number, tenant="many", adapter=f"a{number % 125}")
        registry.client.publish(manifest, payload)
        manifests.append(manifest)
    client = registry.client
    assert list(client.list(tenant="many", latest_only=False)) == manifests[::-1]
    assert list(client.list(tenant="many")) == manifests[:124:-1]
    assert all(m.tenant != "many" for m in client.list(exclude_tenant="many"))
    small = pb.ListVersionsRequest(filter=pb.VersionFilter(tenant="many"), page_size=99)
    sizes = []
    while True:
        page = registry.stub.ListVersions(small)
        sizes.append(len(page.versions))
        if not page.next_page_token:
            break
        small.page_token = page.next_page_token
    assert sizes == [99, 99, 52]
    small.filter.tenant = "acme"
    small.page_token = registry.stub.ListVersions(
        pb.ListVersionsRequest(filter=pb.VersionFilter(tenant="many"), page_size=1)
    ).next_page_token
    assert type(refusal(lambda: registry.stub.ListVersions(small))) is errors.ConfigError


def test_summaries_page_over_all_with_their_fingerprints(
    registry: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "MAX_PAGE", 7)
    encoder = encoder_fields("5")
    manifests = []
    for number in range(20):
        fingerprint = Fingerprint.of("a" * 64, bytes([number] * 256)) if number % 3 else None
        manifest, payload = sample(
            2000 + number, tenant=f"t{number % 12}", encoder=encoder, fingerprint=fingerprint
        )
        registry.client.publish(manifest, payload)
        manifests.append(manifest)
    found = list(registry.client.summaries(encoder=EncoderRef(**encoder), exclude_tenant="t11"))
    newest = {m.tenant: m for m in manifests if m.tenant != "t11"}
    assert {one.ref.tenant: one.fingerprint for one in found} == {
        tenant: manifest.fingerprint for tenant, manifest in newest.items()
    }
    # Newest first, as full views are listed.
    listed = registry.client.list(encoder=EncoderRef(**encoder), exclude_tenant="t11")
    assert [one.ref for one in found] == [manifest.ref for manifest in listed]


def test_a_summary_is_a_name_with_state_and_fingerprint_and_nothing_else(registry: Running) -> None:
    fingerprint = Fingerprint.of("a" * 64, bytes(range(256)))
    manifest, payload = sample(41, tenant="brief", fingerprint=fingerprint)
    registry.client.publish(manifest, payload)
    request = pb.ListVersionsRequest(filter=pb.VersionFilter(tenant="brief"))
    (full,) = registry.stub.ListVersions(request).versions
    request.view = pb.VERSION_VIEW_SUMMARY
    (brief,) = registry.stub.ListVersions(request).versions
    assert {field.name for field, _ in brief.ListFields()} == {
        "name",
        "revision",
        "signature",
        "state",
    }
    assert wire.read_fingerprint(brief) == wire.read_fingerprint(full) == fingerprint
    assert brief.ByteSize() < 256 + 64 + 150


def test_the_fingerprint_is_found_in_what_an_older_registry_sends(registry: Running) -> None:
    """Stand for an old registry, without summaries and fingerprints, that sends whole manifests."""
    fingerprint = Fingerprint.of("a" * 64, bytes(range(256)))
    for wanted in (fingerprint, None):
        manifest, _ = sample(42, fingerprint=wanted)
        version = pb.Version(name=manifest.ref.name, manifest_json=manifest.canonical_json())
        assert wire.read_fingerprint(version) == wanted
    version.signature.values = b"too short"
    with pytest.raises(errors.InvalidManifestError, match="fingerprint refused"):
        wire.read_fingerprint(version)


def test_alias_moves_with_its_etag_and_conflicts_without(registry: Running) -> None:
    client = registry.client
    one, two = (client.publish(*sample(20 + n, tenant="aliased")).ref for n in range(2))
    etag = client.set_alias(one, "live")
    assert client.resolve_alias("aliased", "faq", "live") == (one, etag)
    with pytest.raises(errors.AliasConflictError):
        client.set_alias(two, "live")
    moved = client.set_alias(two, "live", etag)
    with pytest.raises(errors.AliasConflictError):
        client.set_alias(one, "live", etag)
    assert client.resolve_alias("aliased", "faq", "live") == (two, moved)
    foreign = pb.Alias(
        name="tenants/aliased/adapters/other/aliases/live", version_name=one.name, etag=moved
    )
    error = refusal(lambda: registry.stub.SetAlias(pb.SetAliasRequest(alias=foreign)))
    assert type(error) is errors.InvalidManifestError


def test_lineage_reaches_two_generations_both_ways(registry: Running) -> None:
    client = registry.client
    oldest = client.publish(*sample(30, tenant="l0"))
    middle = client.publish(*sample(31, tenant="l1", teachers=[oldest.ref.name]))
    newest = client.publish(*sample(32, tenant="l2", teachers=[middle.ref.name, oldest.ref.name]))
    leaf = client.publish(*sample(33, tenant="l3", teachers=[newest.ref.name]))

    def pairs(relatives: Iterable[Any]) -> list[tuple[VersionRef, int]]:
        return [(one.ref, one.depth) for one in relatives]

    lineage = client.lineage(middle.ref)
    assert pairs(lineage.ancestors) == [(oldest.ref, 1)]
    assert pairs(lineage.descendants) == [(newest.ref, 1), (leaf.ref, 2)]
    assert not lineage.truncated
    assert set(pairs(client.lineage(leaf.ref).ancestors)) == {
        (newest.ref, 1),
        (middle.ref, 2),
        (oldest.ref, 2),
    }


def test_health_tells_whether_uploads_can_be_staged(tmp_path: Path) -> None:
    running = Running(tmp_path, readiness_interval_s=0.1)
    try:
        stub: Any = health_pb2_grpc.HealthStub(running.channel)
        assert running.client.health()
        named = stub.Check(health_pb2.HealthCheckRequest(service=SERVICE_NAME))
        assert named.status == health_pb2.HealthCheckResponse.SERVING
        (tmp_path / "staging").rename(tmp_path / "elsewhere")
        wait_until(lambda: not running.client.health())
        (tmp_path / "elsewhere").rename(tmp_path / "staging")
        wait_until(running.client.health)
    finally:
        running.close()


def test_reflection_is_off(registry: Running) -> None:
    call = registry.channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    )
    with pytest.raises(grpc.RpcError) as caught:
        list(call(iter([b""])))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
