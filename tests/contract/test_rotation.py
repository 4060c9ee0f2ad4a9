"""Certificates that end, are revoked or renewed, while clients and server go on."""

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from adapterdistill.errors import (
    ConfigError,
    UnauthenticatedError,
)
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.status import from_call
from adapterdistill.registry.trust import pem
from adapterdistill.registry.trust.authority import opened
from adapterdistill.registry.trust.certificates import serial_of
from adapterdistill.registry.trust.credentials import read_credentials
from adapterdistill.registry.v1 import registry_pb2 as pb
from adapterdistill.registry.v1 import registry_pb2_grpc
from tests.contract.running_registry import Running, parts, signed_by
from tests.enrolment import ACME, BOLT, enrolled, listed, refused_at_once
from tests.unit.registry.samples import large_sample, sample

Connect = Callable[..., RegistryClient]


def test_expired_certificate_is_named_with_its_end(
    private_registry: Running, connect: Connect, tmp_path: Path
) -> None:
    client = connect(lifetime=-timedelta(minutes=1))
    own = read_credentials(tmp_path / str(ACME))
    end = own.certificate.not_valid_after_utc
    said = rf"certificate {serial_of(own.certificate)} of owner/acme expired at {end}"
    with refused_at_once(said.replace("+", r"\+")):
        listed(client)


def test_open_connection_does_not_outlive_its_certificate(connect: Connect, tmp_path: Path) -> None:
    client = connect(lifetime=timedelta(seconds=2))
    assert client.health()
    own = read_credentials(tmp_path / str(ACME))
    listed(client)
    ends = own.certificate.not_valid_after_utc + timedelta(seconds=1)  # its last second is valid
    time.sleep(max((ends - datetime.now(UTC)).total_seconds(), 0))
    with refused_at_once("owner/acme expired at"):
        listed(client)


def test_revoked_certificate_is_refused_on_its_open_connection_and_on_new_ones(
    private_registry: Running, connect: Connect
) -> None:
    client = connect(BOLT)
    listed(client)
    with opened(private_registry.root) as authority:
        authority.revoke(BOLT)
    for one in (client, connect(BOLT)):
        with refused_at_once("of owner/bolt is revoked"):
            listed(one)
    assert connect().health()


def test_revocation_ends_an_open_watch_and_an_upload_before_it_counts(
    private_registry: Running, connect: Connect, tmp_path: Path
) -> None:
    connect(BOLT)
    own = read_credentials(tmp_path / str(BOLT))
    manifest, payload = sample(6, tenant="bolt")
    revoked_at = 0.0

    def upload() -> Iterator[pb.PublishRequest]:
        nonlocal revoked_at
        yield from parts(manifest, payload, signed=signed_by(own, manifest))
        with opened(private_registry.root) as authority:
            authority.revoke(BOLT)
        revoked_at = time.monotonic()

    with grpc.secure_channel(private_registry.address, own.for_grpc()) as channel:
        stub = registry_pb2_grpc.RegistryServiceStub(channel)  # type: ignore[no-untyped-call]
        watch = stub.Watch(pb.WatchRequest(), timeout=20)
        next(watch)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Publish(upload(), timeout=10)
        assert isinstance(from_call(caught.value, "publish"), UnauthenticatedError)
        with pytest.raises(grpc.RpcError) as caught:
            list(watch)
        assert isinstance(from_call(caught.value, "watch"), UnauthenticatedError)
        assert time.monotonic() - revoked_at < 2
    assert manifest.ref not in {one.ref for one in private_registry.client.list(latest_only=False)}


def test_revocation_ends_a_download_that_has_begun(
    private_registry: Running, connect: Connect, tmp_path: Path
) -> None:
    manifest, payload = large_sample(6, tenant="acme")
    connect(ACME).publish(manifest, payload)
    connect(BOLT)
    own = read_credentials(tmp_path / str(BOLT))
    with grpc.secure_channel(private_registry.address, own.for_grpc()) as channel:
        stub = registry_pb2_grpc.RegistryServiceStub(channel)  # type: ignore[no-untyped-call]
        download = stub.Fetch(pb.FetchRequest(name=manifest.ref.name), timeout=20)
        next(download)
        with opened(private_registry.root) as authority:
            authority.revoke(BOLT)
        time.sleep(1.5)
        with pytest.raises(grpc.RpcError) as caught:
            list(download)
        assert isinstance(from_call(caught.value, "fetch"), UnauthenticatedError)


def test_unreadable_revocation_list_lets_nobody_in_until_it_is_mended(
    private_registry: Running, connect: Connect
) -> None:
    client = connect()
    listed(client)
    crl = private_registry.root / "server/crl.pem"
    good = crl.read_bytes()
    pem.write(crl, b"-----BEGIN X509 CRL-----\n")
    try:
        for one in (client, private_registry.client):
            with pytest.raises(UnauthenticatedError, match="refuses everyone"):
                listed(one)
    finally:
        pem.write(crl, good)
    listed(client)


def test_renewed_certificate_is_taken_up_by_a_client_that_stays(
    private_registry: Running, connect: Connect, tmp_path: Path
) -> None:
    """Revoke the old certificate after the renewal; a running call ends undisturbed."""
    client = connect()
    manifest, payload = sample(7)
    client.publish(manifest, payload)
    folder = tmp_path / str(ACME)
    old = serial_of(read_credentials(folder).certificate)
    listing = client.list()
    enrolled(private_registry.root, folder)
    with opened(private_registry.root) as authority:
        authority.revoke(serial=old)
    assert manifest in list(listing)
    assert client.fetch(manifest.ref)[1] == payload


def test_half_copied_certificates_leave_a_client_as_it_was(
    connect: Connect, tmp_path: Path
) -> None:
    client = connect()
    file = tmp_path / str(ACME) / pem.CERTIFICATES
    content = file.read_bytes()
    file.write_bytes(content[:500])
    listed(client)
    with pytest.raises(ConfigError, match=r"certificates\.pem"):
        connect()
    file.write_bytes(content)
    listed(connect())


def test_server_takes_up_its_renewed_certificate_without_restart(
    private_registry: Running, connect: Connect
) -> None:
    def shown() -> bytes:
        host, port = private_registry.address.split(":")
        return ssl.get_server_certificate((host, int(port)), timeout=5).encode()

    before = shown()
    client = connect()
    listed(client)
    with opened(private_registry.root) as authority:
        authority.certify_server()
    assert shown() != before
    for one in (client, connect()):
        listed(one)
    (private_registry.root / "server/server.pem").chmod(0o644)  # no longer a secret: not taken up
    try:
        listed(connect(BOLT))
    finally:
        (private_registry.root / "server/server.pem").chmod(0o600)


def test_watch_tells_nothing_that_happens_after_its_certificate_is_revoked(
    private_registry: Running, connect: Connect
) -> None:
    owner, reader = connect(), connect(BOLT)
    owner.publish(*sample(8))
    watch = reader.watch()
    next(watch)
    with opened(private_registry.root) as authority:
        authority.revoke(BOLT)
    later = sample(9)
    owner.publish(*later)
    told: list[str] = []
    with pytest.raises(UnauthenticatedError):
        told.extend(change.name for change in watch)
    assert later[0].ref.name not in told


def test_watch_goes_on_by_the_renewed_certificate_when_the_old_one_is_revoked(
    private_registry: Running, connect: Connect, tmp_path: Path
) -> None:
    client = connect()
    before, after = sample(8), sample(9)
    client.publish(*before)
    watch = client.watch()
    assert any(change.name == before[0].ref.name for change in watch)
    folder = tmp_path / str(ACME)
    old = serial_of(read_credentials(folder).certificate)
    enrolled(private_registry.root, folder)
    with opened(private_registry.root) as authority:
        authority.revoke(serial=old)
    client.publish(*after)
    assert next(watch).name == after[0].ref.name


def test_no_call_fails_while_certificates_are_renewed_again_and_again(
    private_registry: Running, connect: Connect, tmp_path: Path
) -> None:
    """The client's and the server's, under calls of four threads."""
    client = connect()
    done = threading.Event()
    calls: list[int] = []

    def call_on() -> None:
        while not done.is_set():
            calls.append(len(listed(client)))

    with ThreadPoolExecutor(4) as threads:
        working = [threads.submit(call_on) for _ in range(4)]
        for _ in range(10):
            enrolled(private_registry.root, tmp_path / str(ACME))
            with opened(private_registry.root) as authority:
                authority.certify_server()
            time.sleep(0.05)
        done.set()
        for one in working:
            one.result(timeout=10)
    assert len(calls) >= 10
