"""Drills of callers who take more than their part: another owner must hardly notice."""

import contextlib
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc

from adapterdistill.drills.drill import Outcome, seconds_until
from adapterdistill.drills.registry.acknowledged import Acknowledged, fsck_findings
from adapterdistill.drills.registry.bystander import PATIENT_S, Bystander
from adapterdistill.manifest import VersionRef
from adapterdistill.registry.access import EVERYONE, Caller
from adapterdistill.registry.admission.quotas import Quotas
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.client.signing import upload_header
from adapterdistill.registry.streams import upload_messages
from adapterdistill.registry.trust.authority import opened
from adapterdistill.registry.trust.credentials import read_credentials
from adapterdistill.registry.v1 import registry_pb2 as pb
from adapterdistill.registry.v1 import registry_pb2_grpc
from adapterdistill.testbed.random_adapters import Shape, adapter
from adapterdistill.testbed.registry import Federation, RegistryProcess, registry_process

SLOW_OWNERS = 4
_UPLOADS_EACH = 4
_SILENT = 200
_CLAIMED = Shape(4, 512, 128)
Flood = Callable[[Any], object]


def slow_clients(folder: Path, draw: random.Random, *, seconds: float) -> Outcome:
    """Hold silent connections, half handshakes and uploads that hardly move."""
    federation = Federation(folder)
    with ExitStack() as stack:
        server = stack.enter_context(registry_process(federation.root))
        bystander = stack.enter_context(Bystander.of(federation, server))
        undisturbed = bystander.reads(seconds / 2)
        stop = threading.Event()
        stack.callback(stop.set)
        for number in range(SLOW_OWNERS):
            stub = stack.enter_context(_stub(federation, server, f"slow-{number}"))
            for upload in range(_UPLOADS_EACH):
                _trickle(stub, federation, f"slow-{number}", upload, stop)
        for number in range(_SILENT):
            stack.callback(_connection(server.address, begins=number % 2 == 0).close)
        time.sleep(draw.uniform(0, 0.5))
        disturbed = bystander.reads(seconds)
        stop.set()
        recovery_s = seconds_until(bystander.publish)
        findings = bystander.findings(undisturbed, disturbed, bystander.reads(seconds / 2))
    return Outcome(recovery_s, (*findings, *fsck_findings(federation.root)), bystander.note)


def flooded_registry(folder: Path, draw: random.Random, *, seconds: float) -> Outcome:
    """Send changes, watches, questions and refused writes as fast as the registry takes them."""
    federation = Federation(folder)
    with ExitStack() as stack:
        server = stack.enter_context(registry_process(federation.root))
        bystander = stack.enter_context(Bystander.of(federation, server))
        undisturbed = bystander.reads(seconds / 2)
        ways = _floods(federation, server, draw)
        stubs = [stack.enter_context(_stub(federation, server, f"flood-{n}")) for n in range(5)]
        with opened(federation.root) as authority:
            authority.revoke(Caller("owner", "flood-0"))
        bytes_before, began = _bytes(federation.root), time.monotonic()
        stop, answers = threading.Event(), [0] * len(ways)
        threads = [
            threading.Thread(target=_repeat, args=(way, stub, stop, answers, place))
            for place, (way, stub) in enumerate(zip(ways, stubs, strict=True))
        ]
        for thread in threads:
            thread.start()
        disturbed = bystander.reads(seconds)
        stop.set()
        for thread in threads:
            thread.join()
        took = time.monotonic() - began
        written = _bytes(federation.root) - bytes_before
        recovery_s = seconds_until(bystander.publish)
        findings = bystander.findings(undisturbed, disturbed, bystander.reads(seconds / 2))
        quotas = Quotas()
        each = quotas.burst_written_bytes + quotas.written_bytes_per_s * took
        if written > 2 * len(ways) * each:  # twice: the index's journal holds pages again
            findings.append(f"{written >> 20} MiB were written in {took:.0f} s")
        findings += (f"flood {place} sent nothing" for place, n in enumerate(answers) if not n)
    return Outcome(recovery_s, (*findings, *fsck_findings(federation.root)), bystander.note)


def _floods(
    federation: Federation, server: RegistryProcess, draw: random.Random
) -> Sequence[Flood]:
    """One way for each flooding owner; the first one's certificate is revoked by then."""
    told = {name: Acknowledged(name) for name in ("flood-1", "flood-2", "flood-3")}
    for name, acknowledged in told.items():
        with _client(federation, server, name) as client:
            for _ in range(3):
                acknowledged.publish(client)
    lists = [[f"{letter}{number:04d}" for number in range(1000)] for letter in "ab"]
    absent = VersionRef(tenant="flood-0", adapter="faq", version="0" * 64).name

    def withdraw_absent(stub: Any) -> None:
        stub.Withdraw(pb.WithdrawRequest(name=absent, reason="a flood"), timeout=PATIENT_S)

    def consent(stub: Any) -> None:
        lists.reverse()
        request = pb.SetConsentRequest(
            adapter_name="tenants/flood-1/adapters/faq", consent=pb.Consent(tenants=lists[0])
        )
        stub.SetConsent(request, timeout=PATIENT_S)

    names = [manifest.ref.name for manifest, _ in told["flood-2"].versions]

    def withdraw(stub: Any) -> None:
        request = pb.WithdrawRequest(name=draw.choice(names), reason="r" * 500)
        stub.Withdraw(request, timeout=PATIENT_S)

    watches: list[Any] = []

    def watch(stub: Any) -> None:
        watches.append(stub.Watch(pb.WatchRequest()))
        next(watches[-1])

    def oversize(stub: Any) -> None:
        labels = ["x" * 200] * 10_000
        request = pb.ListVersionsRequest(filter=pb.VersionFilter(labels=labels))
        stub.ListVersions(request, timeout=PATIENT_S)

    return withdraw_absent, consent, withdraw, watch, oversize


def _repeat(way: Flood, stub: Any, stop: threading.Event, answers: list[int], place: int) -> None:
    while not stop.is_set():
        with contextlib.suppress(grpc.RpcError):  # a refusal is the answer that a flood gets
            way(stub)
        answers[place] += 1


def _client(federation: Federation, server: RegistryProcess, tenant: str) -> RegistryClient:
    credentials = federation.credentials(tenant)
    return RegistryClient(server.address, timeout_s=PATIENT_S, credentials=credentials)


@contextmanager
def _stub(federation: Federation, server: RegistryProcess, tenant: str) -> Iterator[Any]:
    """The owner's calls as they are, which take no refusal for a request to wait."""
    secure = read_credentials(federation.credentials(tenant)).for_grpc()
    with grpc.secure_channel(server.address, secure) as channel:
        yield registry_pb2_grpc.RegistryServiceStub(channel)  # type: ignore[no-untyped-call]


def _trickle(
    stub: Any, federation: Federation, tenant: str, number: int, stop: threading.Event
) -> None:
    """Begin an upload and send a byte a second of it."""
    manifest, payload = adapter(_CLAIMED, number, tenant=tenant, name=f"a{number}")
    credentials = read_credentials(federation.credentials(tenant))
    header = upload_header(manifest, EVERYONE, credentials, stub, PATIENT_S)

    def messages() -> Iterator[pb.PublishRequest]:
        yield next(upload_messages(header, payload, 0, None))
        for offset in range(len(payload)):
            yield pb.PublishRequest(chunk=pb.Chunk(offset=offset, data=payload[offset:][:1]))
            if stop.wait(1.0):
                return

    stub.Publish.future(messages(), timeout=600)


def _connection(address: str, *, begins: bool) -> socket.socket:
    """Connect and say nothing, or send half of a TLS handshake's first message."""
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=PATIENT_S)
    if begins:
        sent = ssl.MemoryBIO()
        hello = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), sent, server_hostname=host)
        try:
            hello.do_handshake()
        except ssl.SSLWantReadError:
            connection.sendall(sent.read()[:100])
    return connection


def _bytes(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
