"""Refusals of the registry over real gRPC: the right error, and nothing left behind."""

import functools
import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapterdistill import errors
from adapterdistill.manifest import VersionRef
from adapterdistill.registry.admission.admission import Limits
from adapterdistill.registry.server import server as server_module
from adapterdistill.registry.server.service import RegistryService
from adapterdistill.registry.server.transfers import MAX_TRANSFERS
from adapterdistill.registry.v1 import registry_pb2 as pb
from tests.contract.running_registry import Running, parts, refusal, refused_upload, wait_until
from tests.unit.registry.samples import (
    arrays,
    encoder_fields,
    manifest_of,
    payload_of,
    raw_payload,
    sample,
)

MAX_PAYLOAD_BYTES = 3 << 20


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("registry")
    running = Running(root, limits=Limits(MAX_PAYLOAD_BYTES))
    yield running
    running.close()


def test_client_refuses_to_send_what_its_manifest_does_not_name(registry: Running) -> None:
    manifest, payload = sample(7)
    with pytest.raises(errors.DigestMismatchError):
        registry.client.publish(manifest, payload + b"x")


def test_bytes_tampered_on_the_way_are_refused(registry: Running) -> None:
    manifest, payload = sample(8)
    tampered = payload[:-1] + bytes([payload[-1] ^ 1])
    error = refused_upload(registry, parts(manifest, tampered))
    assert type(error) is errors.DigestMismatchError


def nan_payload(value: float) -> tuple[bytes, dict[str, Any]]:
    tensors = arrays(9)
    tensors["up.weight"][0, 0, 0] = value
    return payload_of(tensors), {}


BAD_CONTENT: dict[str, tuple[bytes, dict[str, Any], str]] = {
    "pickle": (b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix", {}, "pickle"),
    "zip": (b"PK\x03\x04 and more of it", {}, "zip"),
    "text": (b"how do I reset my password?", {}, "not safetensors"),
    "other dtype": (payload_of(arrays(9, "float16")), {}, "payload and manifest differ"),
    "float64": (payload_of(arrays(9, "float64")), {}, "payload and manifest differ"),
    "nan": (*nan_payload(float("nan")), "NaN or infinity"),
    "infinity": (*nan_payload(float("inf")), "NaN or infinity"),
    "metadata": (payload_of(arrays(9), {"note": "x"}), {}, "metadata"),
    "trailing": (payload_of(arrays(9)) + b"x", {}, "bytes"),
    "bad header": (raw_payload(b"{]", b""), {}, "JSON"),
}


@pytest.mark.parametrize("fault", BAD_CONTENT)
def test_unfit_payload_is_refused_and_leaves_nothing(registry: Running, fault: str) -> None:
    payload, changes, message = BAD_CONTENT[fault]
    manifest = manifest_of(payload, **changes)
    error = refused_upload(registry, parts(manifest, payload))
    assert type(error) is errors.InvalidPayloadError
    assert message in str(error)
    assert "password" not in str(error)
    with pytest.raises(errors.NotFoundError):
        registry.client.get(manifest.ref)


def test_shapes_that_are_not_the_encoders_are_refused(registry: Running) -> None:
    manifest, payload = sample(10, encoder=encoder_fields() | {"hidden_size": 9})
    error = refused_upload(registry, parts(manifest, payload))
    assert type(error) is errors.InvalidManifestError
    assert "hidden size 9" in str(error)


def test_fusion_is_refused(registry: Running) -> None:
    manifest, payload = sample(10, kind="fusion")
    error = refused_upload(registry, parts(manifest, payload))
    assert type(error) is errors.InvalidManifestError


def test_oversize_is_refused_at_the_header_before_any_chunk(registry: Running) -> None:
    manifest, _ = sample(10, payload_bytes=MAX_PAYLOAD_BYTES + 1)

    def header_only() -> Iterator[pb.PublishRequest]:
        yield next(parts(manifest, b""))
        done.wait(9)  # the stream stays open: the refusal must not wait for its end

    done = threading.Event()
    started = time.monotonic()
    error = refused_upload(registry, header_only())
    done.set()
    assert type(error) is errors.PayloadTooLargeError
    assert time.monotonic() - started < 8


def test_adapter_keeps_its_encoder(registry: Running) -> None:
    registry.client.publish(*sample(11, tenant="keeper"))
    with pytest.raises(errors.EncoderMismatchError):
        registry.client.publish(*sample(12, tenant="keeper", encoder=encoder_fields("e")))


def test_payload_whose_entry_is_refused_in_the_end_is_removed(
    registry: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulate two uploads of a new adapter that race, for different encoders."""
    same, other = sample(61, tenant="racer"), sample(61, tenant="winner")
    index = registry.server._service._index

    def refuse(*_: object, **__: object) -> None:
        raise errors.EncoderMismatchError("another was first")

    with monkeypatch.context() as patch:
        patch.setattr(index, "add", refuse)
        with pytest.raises(errors.EncoderMismatchError, match="another was first"):
            registry.client.publish(*same)
        assert same[0].version not in registry.files()
        patch.undo()
        registry.client.publish(*other)
        patch.setattr(index, "add", refuse)
        with pytest.raises(errors.EncoderMismatchError, match="another was first"):
            registry.client.publish(*same)
    assert registry.client.fetch(other[0].ref) == other  # the same bytes, which are named


def test_registry_started_for_one_encoder_refuses_others(tmp_path: Path) -> None:
    running = Running(tmp_path, limits=Limits(encoder_weights_sha256="a" * 64))
    try:
        running.client.publish(*sample(1))
        with pytest.raises(errors.EncoderMismatchError):
            running.client.publish(*sample(2, tenant="x", encoder=encoder_fields("e")))
    finally:
        running.close()


def test_unknown_names_are_not_found_and_malformed_ones_invalid(registry: Running) -> None:
    ref = VersionRef(tenant="nobody", adapter="faq", version="0" * 64)
    for call in (registry.client.get, registry.client.fetch, registry.client.lineage):
        with pytest.raises(errors.NotFoundError):
            call(ref)
    with pytest.raises(errors.NotFoundError):
        registry.client.resolve_alias("nobody", "faq", "live")
    for name in ("", "tenants/../adapters/a/versions/" + "0" * 64, "tenants/a", "x" * 999):
        error = refusal(lambda name=name: registry.stub.GetVersion(pb.GetVersionRequest(name=name)))  # type: ignore[misc]
        assert type(error) is errors.InvalidManifestError
        error = refusal(lambda name=name: registry.stub.GetAlias(pb.GetAliasRequest(name=name)))  # type: ignore[misc]
        assert type(error) is errors.InvalidManifestError


def broken_streams() -> dict[str, list[pb.PublishRequest]]:
    manifest, payload = sample(15)
    header, *chunks = parts(manifest, payload, chunk_bytes=100)

    def chunk(offset: int, data: bytes) -> pb.PublishRequest:
        return pb.PublishRequest(chunk=pb.Chunk(offset=offset, data=data))

    renamed = pb.PublishHeader(name=sample(16)[0].ref.name, manifest_json=manifest.canonical_json())
    return {
        "nothing": [],
        "no header": chunks,
        "empty message": [pb.PublishRequest(), *chunks],
        "header twice": [header, header, *chunks],
        "empty part": [header, pb.PublishRequest(), *chunks],
        "no chunk": [header],
        "gap": [header, chunks[0], *chunks[2:]],
        "repeated": [header, chunks[0], chunks[0], *chunks[1:]],
        "backwards": [header, *reversed(chunks)],
        "negative": [header, chunk(-1, b"x")],
        "empty chunk": [header, chunk(0, b"")],
        "too short": [header, *chunks[:-1]],
        "too long": [header, *chunks, chunk(len(payload), b"x")],
        "chunk too large": [header, chunk(0, bytes((1 << 20) + 1))],
        "other name": [pb.PublishRequest(header=renamed), *chunks],
        "other json": [
            pb.PublishRequest(
                header=pb.PublishHeader(
                    name=manifest.ref.name, manifest_json=manifest.canonical_json() + b"\n"
                )
            ),
            *chunks,
        ],
    }


@pytest.mark.parametrize("fault", broken_streams())
def test_upload_that_breaks_the_protocol_is_refused(registry: Running, fault: str) -> None:
    error = refused_upload(registry, broken_streams()[fault])
    expected = {"no chunk": "ended at 0 of", "too short": "ended at"}.get(fault, "")
    assert isinstance(error, errors.InvalidPayloadError) and expected in str(error)
    with pytest.raises(errors.NotFoundError):
        registry.client.get(sample(15)[0].ref)


def test_refusal_with_a_huge_message_still_carries_its_reason(registry: Running) -> None:
    text = b'{"' + b"\xc3\xbc" * 20_000 + b'":1}'
    header = pb.PublishRequest(header=pb.PublishHeader(name="x", manifest_json=text))
    assert type(refused_upload(registry, [header])) is errors.InvalidManifestError


def test_interrupted_upload_leaves_nothing(registry: Running) -> None:
    manifest, payload = sample(17)
    before = registry.files()
    hold, sent = threading.Event(), threading.Event()

    def stalling() -> Iterator[pb.PublishRequest]:
        header, first, *_ = parts(manifest, payload, chunk_bytes=100)
        yield header
        yield first
        sent.set()
        hold.wait(10)

    call = registry.stub.Publish.future(stalling(), timeout=10)
    assert sent.wait(5)
    wait_until(lambda: registry.files() != before)
    call.cancel()
    hold.set()
    wait_until(lambda: registry.files() == before)
    with pytest.raises(errors.NotFoundError):
        registry.client.get(manifest.ref)
    registry.client.publish(manifest, payload)


def test_student_of_an_unpublished_teacher_is_refused(registry: Running) -> None:
    teacher = f"tenants/ghost/adapters/faq/versions/{hashlib.sha256(b'ghost').hexdigest()}"
    with pytest.raises(errors.InvalidManifestError, match="not published"):
        registry.client.publish(*sample(40, teachers=[teacher]))


def test_transfers_of_stalled_clients_are_given_up_and_freed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient = functools.partial(RegistryService, idle_timeout_s=0.2)
    monkeypatch.setattr(server_module, "RegistryService", impatient)
    running = Running(tmp_path)
    running.client.publish(*sample(2))
    done = threading.Event()

    def stalling() -> Iterator[pb.PublishRequest]:
        yield next(parts(*sample(1)))
        done.wait(10)

    try:
        for _ in range(MAX_TRANSFERS + 1):
            running.stub.Publish.future(stalling(), timeout=10)
        assert running.client.fetch(sample(2)[0].ref)[1] == sample(2)[1]  # it does not wait
        assert type(refused_upload(running, stalling())) is errors.RegistryUnavailableError
        running.client.publish(*sample(1))
    finally:
        done.set()
        running.close()
