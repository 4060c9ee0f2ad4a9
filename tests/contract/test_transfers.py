"""Uploads and downloads that break off, are damaged, or run at once, over real gRPC."""

import contextlib
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from adapterdistill import errors
from adapterdistill.manifest import Manifest
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.server import handler, service, transfers
from adapterdistill.registry.streams import Download, chunk_message, upload_messages
from adapterdistill.registry.v1 import registry_pb2 as pb
from adapterdistill.registry.v1 import registry_pb2_grpc
from tests.contract.recording_proxy import RecordingProxy
from tests.contract.running_registry import Running, believing, parts, refusal, wait_until
from tests.drills.test_registry_process import Process
from tests.unit.registry.samples import large_sample, sample

MIB = 1 << 20


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (handler, service):
            patch.setattr(module, "caller_of", believing)
        running = Running(tmp_path_factory.mktemp("registry"))
        yield running
        running.close()


class CuttingProxy(RecordingProxy):
    """Breaks its first connection once `cut_after` bytes passed in one direction."""

    def __init__(self, target: str, cut_after: int) -> None:
        self._cut_after = cut_after
        self.broke = False
        super().__init__(target)

    def _pass_on(self, source: socket.socket, sink: socket.socket, part: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                part += data
                if len(part) > self._cut_after and not self.broke:
                    self.broke = True
                    for one in (source, sink):
                        one.shutdown(socket.SHUT_RDWR)
                    return
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("direction", ["upload", "download"])
def test_a_transfer_goes_on_after_its_connection_broke(registry: Running, direction: str) -> None:
    manifest, payload = large_sample(1, tenant=direction)
    if direction == "download":
        registry.client.publish(manifest, payload)
    proxy = CuttingProxy(registry.address, cut_after=6 * MIB)
    seen: list[int] = []

    def on_progress(done_bytes: int, total_bytes: int) -> None:
        assert total_bytes == len(payload)
        seen.append(done_bytes)

    try:
        with RegistryClient(proxy.address, timeout_s=20) as client:
            if direction == "upload":
                assert client.publish(manifest, payload, on_progress=on_progress) == manifest
            else:
                got = client.fetch(manifest.ref, on_progress=on_progress)
                assert got == (manifest, payload)
    finally:
        proxy.close()
    assert registry.client.fetch(manifest.ref) == (manifest, payload)
    assert seen[-1] == len(payload)
    assert proxy.broke
    # It went on: only the first attempt began with the first chunk.
    assert seen.count(MIB) == 1


def broken_off(
    registry: Running, caller: str, manifest: Manifest, payload: bytes, sent_bytes: int
) -> int:
    """An upload that is cancelled after some bytes; answers how many the registry kept."""
    hold, sent = threading.Event(), threading.Event()

    def stalling() -> Iterator[pb.PublishRequest]:
        yield from parts(manifest, payload[:sent_bytes])
        sent.set()
        hold.wait(10)

    stub = registry.stub_of(caller)
    call = stub.Publish.future(stalling(), timeout=20)
    assert sent.wait(5)
    query = pb.QueryUploadRequest(name=manifest.ref.name)
    wait_until(lambda: any(manifest.version in name for name in registry.files()))
    time.sleep(0.2)
    call.cancel()
    hold.set()
    wait_until(lambda: stub.QueryUpload(query).offset == sent_bytes)
    return int(stub.QueryUpload(query).offset)


def test_what_is_on_disk_is_told_to_its_caller_alone(registry: Running) -> None:
    manifest, payload = large_sample(2, tenant="acme")
    offset = broken_off(registry, "owner/acme", manifest, payload, 3 * MIB)
    query = pb.QueryUploadRequest(name=manifest.ref.name)
    error = refusal(lambda: registry.stub_of("owner/brook").QueryUpload(query))
    assert type(error) is errors.NotPermittedError
    mine, _ = large_sample(2, tenant="brook")
    assert mine.version == manifest.version  # the same payload, as somebody else's
    brook = registry.stub_of("owner/brook")
    assert brook.QueryUpload(pb.QueryUploadRequest(name=mine.ref.name)).offset == 0
    header = pb.PublishHeader(name=mine.ref.name, manifest_json=mine.canonical_json())
    error = refusal(lambda: brook.Publish(upload_messages(header, payload, offset, None)))
    assert type(error) is errors.UploadIncompleteError
    with registry.client_of("owner/acme") as client:
        seen: list[int] = []
        client.publish(manifest, payload, on_progress=lambda done, _: seen.append(done))
        assert seen[0] == offset + MIB
        assert client.fetch(manifest.ref) == (manifest, payload)
    answer = registry.stub_of("owner/acme").QueryUpload(query)
    assert (answer.published, answer.offset) == (True, 0)


def test_bytes_that_were_damaged_on_the_registrys_disk_are_sent_again(registry: Running) -> None:
    manifest, payload = large_sample(3, tenant="acme")
    broken_off(registry, "owner/acme", manifest, payload, 3 * MIB)
    staged = registry.root / "staging" / "owner.acme" / manifest.version
    content = bytearray(staged.read_bytes())
    content[MIB] ^= 1
    staged.write_bytes(content)
    with registry.client_of("owner/acme") as client:
        assert client.publish(manifest, payload) == manifest
    assert not staged.exists()


def test_a_payload_that_the_disk_changed_is_taken_again_as_one_that_it_lost(
    registry: Running,
) -> None:
    manifest, payload = sample(5, tenant="healed")
    registry.client.publish(manifest, payload)
    blob = registry.root / "blobs" / manifest.version[:2] / manifest.version
    blob.write_bytes(bytes([payload[0] ^ 1]) + payload[1:])  # of the same size
    query = pb.QueryUploadRequest(name=manifest.ref.name)
    assert not registry.stub.QueryUpload(query).published
    with pytest.raises(errors.DigestMismatchError):
        registry.client.fetch(manifest.ref)
    assert registry.client.publish(manifest, payload) == manifest
    assert blob.read_bytes() == payload
    assert registry.client.fetch(manifest.ref) == (manifest, payload)
    assert registry.stub.QueryUpload(query).published


def test_a_chunk_with_a_wrong_crc_is_refused_and_what_came_before_it_counts(
    registry: Running,
) -> None:
    manifest, payload = large_sample(4)
    messages = list(parts(manifest, payload))
    for message in messages[1:]:
        message.chunk.CopyFrom(chunk_message(message.chunk.offset, message.chunk.data))
    messages[4].chunk.crc32c ^= 1
    error = refusal(lambda: registry.stub.Publish(iter(messages)))
    assert type(error) is errors.ChunkChecksumError
    query = pb.QueryUploadRequest(name=manifest.ref.name)
    assert registry.stub.QueryUpload(query).offset == 3 * MIB
    assert registry.client.publish(manifest, payload) == manifest


def test_a_download_carries_a_crc_for_each_chunk_and_begins_where_it_is_told(
    registry: Running,
) -> None:
    manifest, payload = large_sample(5)
    registry.client.publish(manifest, payload)
    for offset in (0, 1, 5 * MIB + 7, len(payload)):
        request = pb.FetchRequest(name=manifest.ref.name, offset=offset)
        _, *responses = registry.stub.Fetch(request)
        assert b"".join(one.chunk.data for one in responses) == payload[offset:]
        assert all(one.chunk.HasField("crc32c") for one in responses)
    for offset in (-1, len(payload) + 1):
        request = pb.FetchRequest(name=manifest.ref.name, offset=offset)
        error = refusal(lambda request=request: list(registry.stub.Fetch(request)))  # type: ignore[misc]
        assert type(error) is errors.ConfigError and error.field == "offset"


def test_a_damaged_chunk_is_noticed_by_the_client_and_asked_for_again(registry: Running) -> None:
    manifest, payload = large_sample(6)
    registry.client.publish(manifest, payload)
    name = manifest.ref.name
    messages = list(registry.stub.Fetch(pb.FetchRequest(name=name)))
    messages[3].chunk.data = messages[3].chunk.data[:-1] + b"?"
    download = Download(manifest.ref)
    with pytest.raises(errors.ChunkChecksumError):
        download.take(iter(messages))
    assert download.size == 2 * MIB
    rest = registry.stub.Fetch(pb.FetchRequest(name=name, offset=download.size))
    assert download.take(rest) == (manifest, payload)


def test_two_uploads_of_one_version_at_once_both_succeed(registry: Running) -> None:
    manifest, payload = large_sample(7, tenant="race")
    results: list[Manifest] = []
    threads = [
        threading.Thread(target=lambda: results.append(registry.client.publish(manifest, payload)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert results == [manifest] * 3
    assert registry.client.fetch(manifest.ref)[1] == payload
    assert not list((registry.root / "staging").rglob(f"*{manifest.version}*"))


def test_an_upload_survives_kill_9_of_the_registry(tmp_path: Path) -> None:
    manifest, payload = large_sample(8)
    process = Process(tmp_path / "root")
    port = process.address.rpartition(":")[2]
    started = [process]
    staged = tmp_path / "root" / "staging" / "anyone.anonymous" / manifest.version
    seen: list[int] = []

    def restart_amid(done_bytes: int, _total_bytes: int) -> None:
        seen.append(done_bytes)
        if len(started) == 1 and done_bytes >= 6 * MIB:
            wait_until(lambda: staged.exists() and staged.stat().st_size >= 3 * MIB)
            started[0].end(signal.SIGKILL)
            started.append(Process(tmp_path / "root", "--port", port))

    try:
        with RegistryClient(process.address, timeout_s=30) as client:
            assert client.publish(manifest, payload, on_progress=restart_amid) == manifest
            assert client.fetch(manifest.ref) == (manifest, payload)
    finally:
        for one in started:
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired, ValueError):
                one.end(signal.SIGKILL)
    assert len(started) == 2
    assert seen.count(MIB) == 1  # it went on


def test_a_transfer_that_is_too_slow_makes_room_and_may_continue(
    registry: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers, "MIN_BYTES_PER_S", 1 << 40)
    monkeypatch.setattr(registry.server._service._transfers, "_idle_timeout_s", 1.0)
    manifest, payload = large_sample(9)

    def dripping() -> Iterator[pb.PublishRequest]:
        for part in parts(manifest, payload):
            yield part
            time.sleep(0.3)

    error = refusal(lambda: registry.stub.Publish(dripping()))
    assert type(error) is errors.RegistryUnavailableError
    assert "slower than" in str(error)
    query = pb.QueryUploadRequest(name=manifest.ref.name)
    assert registry.stub.QueryUpload(query).offset >= 2 * MIB


WITHOUT: dict[str, Callable[[Any], object]] = {
    "Publish": lambda stub: stub.Publish(parts(*sample(1))),
    "Fetch": lambda stub: list(stub.Fetch(pb.FetchRequest(name="x"))),
    "GetVersion": lambda stub: stub.GetVersion(pb.GetVersionRequest(name="x")),
    "ListVersions": lambda stub: stub.ListVersions(pb.ListVersionsRequest()),
    "GetAlias": lambda stub: stub.GetAlias(pb.GetAliasRequest(name="x")),
    "SetAlias": lambda stub: stub.SetAlias(pb.SetAliasRequest()),
    "GetLineage": lambda stub: stub.GetLineage(pb.GetLineageRequest(name="x")),
    "QueryUpload": lambda stub: stub.QueryUpload(pb.QueryUploadRequest(name="x")),
    "GetAdapter": lambda stub: stub.GetAdapter(pb.GetAdapterRequest()),
    "SetConsent": lambda stub: stub.SetConsent(pb.SetConsentRequest()),
    "Withdraw": lambda stub: stub.Withdraw(pb.WithdrawRequest()),
    "ReleaseVersion": lambda stub: stub.ReleaseVersion(pb.ReleaseVersionRequest()),
    "RenewCertificates": lambda stub: stub.RenewCertificates(pb.RenewCertificatesRequest()),
}


def test_every_call_without_a_deadline_is_refused_but_watch_and_health(registry: Running) -> None:
    calls = pb.DESCRIPTOR.services_by_name["RegistryService"].methods_by_name
    assert set(WITHOUT) == set(calls) - {"Watch"}
    stub: Any = registry_pb2_grpc.RegistryServiceStub(registry.channel)  # type: ignore[no-untyped-call]
    for name, call in WITHOUT.items():
        error = refusal(lambda call=call: call(stub))  # type: ignore[misc]
        assert type(error) is errors.DeadlineRequiredError, name
    watch = stub.Watch(pb.WatchRequest())
    assert next(watch).revision >= 0
    watch.cancel()
    health: Any = health_pb2_grpc.HealthStub(registry.channel)
    assert health.Check(health_pb2.HealthCheckRequest()).status


def test_the_deadline_is_refused_as_an_argument(registry: Running) -> None:
    call = registry.channel.unary_unary(
        "/adapterdistill.registry.v1.RegistryService/GetVersion",
        request_serializer=None,
        response_deserializer=None,
    )
    with pytest.raises(grpc.RpcError) as caught:
        call(b"")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
