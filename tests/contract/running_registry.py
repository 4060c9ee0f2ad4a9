"""A real registry on loopback for the contract tests, and uploads made without its client."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from adapterdistill.errors import AdapterDistillError
from adapterdistill.manifest import Manifest
from adapterdistill.registry.access import ANYONE, EVERYONE, Caller, Consent
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.server.server import RegistryServer
from adapterdistill.registry.status import from_call
from adapterdistill.registry.trust.credentials import Credentials, read_credentials
from adapterdistill.registry.trust.statement import Signed, make_statement, statement_message
from adapterdistill.registry.v1 import registry_pb2 as pb
from adapterdistill.registry.v1 import registry_pb2_grpc


class Deadlines(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[misc]
    grpc.UnaryStreamClientInterceptor,  # type: ignore[misc]
    grpc.StreamUnaryClientInterceptor,  # type: ignore[misc]
):
    """Gives every call a deadline, 10 s where the test gives none."""

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        changed = details._replace(timeout=details.timeout or 10)
        return continuation(changed, request)

    intercept_unary_stream = intercept_stream_unary = intercept_unary_unary


class CallingAs(Deadlines):
    """Says in a header who calls, for registries in tests that believe it: see `believing`."""

    def __init__(self, caller: str) -> None:
        self._caller = caller

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        headers = [*(details.metadata or ()), ("test-caller", self._caller)]
        changed = details._replace(metadata=headers)
        return super().intercept_unary_unary(continuation, changed, request)

    intercept_unary_stream = intercept_stream_unary = intercept_unary_unary


def believing(context: Any, _credentials: object = None) -> Caller:
    """Replace `caller_of`: believe the caller that a header names."""
    for key, value in context.invocation_metadata() or ():
        if key == "test-caller":
            role, _, name = value.partition("/")
            return Caller(role, name)
    return ANYONE


class Running:
    """A registry in this process, on an event loop in a thread of its own.

    Where its folder has an authority, its `client` and `stub` are an operator's.
    """

    def __init__(self, root: Path, **options: Any) -> None:
        self.root = root
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.server = RegistryServer(root, **options)
        self.address = self.run(self.server.start())
        operator = root / "operator"
        if operator.exists():
            self.client = RegistryClient(self.address, timeout_s=10, credentials=operator)
            secure = read_credentials(operator).for_grpc()
            self.channel = grpc.secure_channel(self.address, secure)
        else:
            self.client = RegistryClient(self.address, timeout_s=10)
            self.channel = grpc.insecure_channel(self.address)
        patient = grpc.intercept_channel(self.channel, Deadlines())
        self.stub: Any = registry_pb2_grpc.RegistryServiceStub(patient)  # type: ignore[no-untyped-call]

    def stub_of(self, caller: str) -> Any:
        """Calls as `caller` (ROLE/NAME), if the registry believes it."""
        channel = grpc.intercept_channel(self.channel, CallingAs(caller))
        return registry_pb2_grpc.RegistryServiceStub(channel)  # type: ignore[no-untyped-call]

    def client_of(self, caller: str, timeout_s: float = 10) -> RegistryClient:
        client = RegistryClient(self.address, timeout_s=timeout_s)
        opened = client._connection.channel()
        channel = grpc.intercept_channel(opened.grpc, CallingAs(caller))
        opened.registry = registry_pb2_grpc.RegistryServiceStub(channel)  # type: ignore[no-untyped-call]
        return client

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout=30)

    def close(self) -> None:
        self.client.close()
        self.channel.close()
        self.run(self.server.stop(grace_s=1))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=10)
        self.loop.close()

    def files(self) -> set[str]:
        """Names of all payload files, staged ones too."""
        folders = (self.root / "blobs", self.root / "staging")
        return {p.name for folder in folders for p in folder.rglob("*") if p.is_file()}


def signed_by(
    credentials: Credentials,
    manifest: Manifest,
    *,
    previous: str | None = None,
    consent: Consent = EVERYONE,
    at: datetime | None = None,
) -> Signed:
    """A statement about the adapter's first version, unless `previous` is another."""
    return make_statement(
        manifest,
        consent=consent,
        previous=previous,
        key=credentials.signing_key,
        certificate=credentials.signing_certificate.public_bytes(Encoding.DER),
        registry=credentials.registry,
        at=at,
    )


def parts(
    manifest: Manifest,
    payload: bytes,
    chunk_bytes: int = 1 << 20,
    *,
    signed: Signed | None = None,
) -> Iterator[pb.PublishRequest]:
    """A correct upload, made without the client."""
    header = pb.PublishHeader(name=manifest.ref.name, manifest_json=manifest.canonical_json())
    if signed is not None:
        header.statement.CopyFrom(statement_message(signed))
    yield pb.PublishRequest(header=header)
    for offset in range(0, len(payload), chunk_bytes):
        data = payload[offset : offset + chunk_bytes]
        yield pb.PublishRequest(chunk=pb.Chunk(offset=offset, data=data))


def refusal(call: Callable[[], object]) -> AdapterDistillError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return from_call(caught.value, "test")


def refused_upload(registry: Running, upload: Iterable[pb.PublishRequest]) -> AdapterDistillError:
    before = registry.files()
    error = refusal(lambda: registry.stub.Publish(iter(upload), timeout=10))
    assert registry.files() == before
    return error


def wait_until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "condition not met in time"
        time.sleep(0.01)
