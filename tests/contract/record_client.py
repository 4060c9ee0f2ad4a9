"""Records what a client of this release says to the registry, to be said again to later ones.

Run at a release: `python -m tests.contract.record_client`. It writes, under `recorded/`, the
messages of one session and the descriptors of the protocol as they were, both named by the release.
`test_recorded_client.py` replays every recording; one that has been released is never changed.
"""

import base64
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc

from adapterdistill import __version__
from adapterdistill.errors import AdapterDistillError
from adapterdistill.manifest import EncoderRef, Fingerprint, VersionRef
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.v1 import registry_pb2 as pb
from adapterdistill.registry.v1 import registry_pb2_grpc
from tests.contract.running_registry import Running
from tests.unit.registry.samples import encoder_fields, sample

RECORDED = Path(__file__).with_name("recorded")
BUF = Path(sys.executable).with_name("buf")
ERROR_DETAILS = "grpc-status-details-bin"
Details = list[tuple[str, str | bytes]]
Raw = Callable[..., Any]


def raw_call(channel: grpc.Channel, method: str) -> Raw:
    """The call named `method` (/package.Service/Call), on bytes. On the wire all are streams."""
    return channel.stream_stream(method, request_serializer=None, response_deserializer=None)


def outcome(call: Any) -> dict[str, Any]:
    """The answer of a raw call: messages, code and the details of an error."""
    responses: list[bytes] = []
    with suppress(grpc.RpcError):
        responses.extend(call)
    details = [value for key, value in call.trailing_metadata() or () if key == ERROR_DETAILS]
    return {"responses": responses, "code": call.code().name, "details": details}


class Recorder(grpc.GenericRpcHandler):
    """A gRPC server's only handler: passes every call on, and keeps its messages."""

    def __init__(self, target: grpc.Channel) -> None:
        self.calls: list[dict[str, Any]] = []
        self._target = target

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        method = handler_call_details.method

        def behaviour(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            timeout_s = round(context.time_remaining(), 1)
            sent = list(requests)
            call = raw_call(self._target, method)(iter(sent), timeout=timeout_s)
            answered = outcome(call)
            self.calls.append(
                {"method": method, "timeout_s": timeout_s, "requests": sent, **answered}
            )
            yield from answered["responses"]
            if call.code() is not grpc.StatusCode.OK:
                context.set_trailing_metadata(call.trailing_metadata())
                context.abort(call.code(), call.details())

        return grpc.stream_stream_rpc_method_handler(behaviour)


def session(address: str) -> None:
    """One owner's session, and the pages that other languages' stubs would ask for."""
    encoder = EncoderRef.model_validate(encoder_fields())
    fingerprint = Fingerprint.of("f" * 64, bytes(range(256)))
    teacher, teacher_payload = sample(1, tenant="teacher", fingerprint=fingerprint)
    student, student_payload = sample(2, teachers=[teacher.ref.name])
    newer, newer_payload = sample(3, teachers=[teacher.ref.name])
    absent = VersionRef(tenant="nobody", adapter="faq", version="0" * 64)
    with RegistryClient(address, timeout_s=30) as client:
        assert client.health()
        client.publish(teacher, teacher_payload)
        client.publish(student, student_payload)
        client.publish(student, student_payload)
        etag = client.set_alias(student.ref, "live")
        client.publish(newer, newer_payload)
        client.set_alias(newer.ref, "live", etag)
        client.resolve_alias("acme", "faq", "live")
        client.get(student.ref)
        client.fetch(student.ref)
        client.fetch(teacher.ref, encoder=encoder)
        client.lineage(teacher.ref)
        client.lineage(newer.ref)
        list(client.list())
        list(client.list(tenant="acme", encoder=encoder, latest_only=False))
        list(client.summaries(encoder=encoder, exclude_tenant="acme"))
        ghost = student.model_copy(update={"seed": 9})
        other = EncoderRef.model_validate(encoder_fields("e"))
        for refused in (
            lambda: client.get(absent),
            lambda: client.fetch(teacher.ref, encoder=other),
            lambda: client.set_alias(student.ref, "live", etag),
            lambda: client.publish(ghost, student_payload),
            lambda: client.publish(*sample(4, teachers=[absent.name])),
            lambda: client.publish(*sample(5, kind="fusion")),
        ):
            with suppress(AdapterDistillError):
                refused()
    with grpc.insecure_channel(address) as channel:
        stub: Any = registry_pb2_grpc.RegistryServiceStub(channel)  # type: ignore[no-untyped-call]
        request = pb.ListVersionsRequest(page_size=1)
        while (page := stub.ListVersions(request, timeout=30)).next_page_token:
            request.page_token = page.next_page_token


def record(folder: Path, release: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        running = Running(Path(root))
        server = grpc.server(futures.ThreadPoolExecutor(4))
        with grpc.insecure_channel(running.address) as target:
            recorder = Recorder(target)
            server.add_generic_rpc_handlers((recorder,))
            port = server.add_insecure_port("127.0.0.1:0")
            server.start()
            session(f"127.0.0.1:{port}")
            server.stop(None).wait()
        running.close()
    text = json.dumps(recorder.calls, indent=1, default=lambda raw: base64.b64encode(raw).decode())
    (folder / f"{release}.json").write_text(text + "\n")
    build = [BUF, "build", "--as-file-descriptor-set", "--exclude-source-info"]
    subprocess.run([*build, "-o", folder / f"{release}.binpb"], check=True)


if __name__ == "__main__":
    record(RECORDED, __version__)
