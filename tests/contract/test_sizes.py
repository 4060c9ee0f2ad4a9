"""The law of sizes: whatever field of whatever call is too large, the request is invalid."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from adapterdistill.registry.server.sizes import (
    FIELDS,
    MAX_REQUEST_BYTES,
    MAX_TEXT_BYTES,
    check_sizes,
)
from adapterdistill.registry.v1 import registry_pb2 as pb
from tests.contract.running_registry import Running

SERVICE = pb.DESCRIPTOR.services_by_name["RegistryService"]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("sizes") / "root")
    yield running
    running.close()


def oversized(descriptor: Any) -> Iterator[tuple[str, Message]]:
    """A message for each field at any depth that can be too large, with that field too large."""
    for field in descriptor.fields:
        is_text = field.type in (field.TYPE_STRING, field.TYPE_BYTES)
        name = f"{field.containing_type.name}.{field.name}"
        most = FIELDS.get(name, MAX_TEXT_BYTES)
        if field.message_type is not None:
            for path, inner in oversized(field.message_type):
                message = descriptor._concrete_class()
                target = getattr(message, field.name)
                if field.is_repeated:
                    target.add().CopyFrom(inner)
                else:
                    target.CopyFrom(inner)
                yield f"{field.name}.{path}", message
        elif field.is_repeated:
            yield (
                f"{field.name} x {most + 1}",
                made(descriptor, field, [text(field, 1)] * (most + 1)),
            )
            yield field.name, made(descriptor, field, [text(field, MAX_TEXT_BYTES + 1)])
        elif is_text:
            yield field.name, made(descriptor, field, text(field, most + 1))


def made(descriptor: Any, field: Any, value: Any) -> Message:
    message: Message = descriptor._concrete_class(**{field.name: value})
    return message


def text(field: Any, size: int) -> str | bytes:
    return "a" * size if field.type == field.TYPE_STRING else b"a" * size


CASES = {
    f"{method.name} {path}": (method.name, message)
    for method in SERVICE.methods
    for path, message in oversized(method.input_type)
}


def code_of(registry: Running, method: str, message: Message) -> grpc.StatusCode:
    call = getattr(registry.stub, method)
    try:
        answer = call(iter([message])) if method == "Publish" else call(message)
        if method in ("Fetch", "Watch"):
            next(iter(answer))
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()  # type: ignore[attr-defined]
        return code
    return grpc.StatusCode.OK


@pytest.mark.parametrize("case", CASES)
def test_a_field_that_is_too_large_is_an_invalid_argument(registry: Running, case: str) -> None:
    method, message = CASES[case]
    assert code_of(registry, method, message) is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("method", [one.name for one in SERVICE.methods])
def test_a_request_that_is_too_large_is_refused_unread(registry: Running, method: str) -> None:
    descriptor = SERVICE.methods_by_name[method].input_type
    message = descriptor._concrete_class()
    # A field that this release does not know, which a parsed message would keep.
    size = (3 << 20) if method == "Publish" else MAX_REQUEST_BYTES
    message.MergeFromString(b"\xfa\x7f" + _varint(size) + bytes(size))
    assert code_of(registry, method, message) is grpc.StatusCode.INVALID_ARGUMENT


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def test_every_repeated_field_has_a_limit_and_every_limit_a_field() -> None:
    fields = {
        f"{field.containing_type.name}.{field.name}": field
        for message in pb.DESCRIPTOR.message_types_by_name.values()
        for field in message.fields
    }
    assert FIELDS.keys() <= fields.keys()
    assert "SetConsent consent.tenants x 1101" in CASES and "Publish chunk.data" in CASES


def test_what_a_caller_may_send_is_not_too_large() -> None:
    names = [f"tenants/{'t' * 63}/adapters/{n:063}" for n in range(500)]
    watch = pb.WatchRequest(adapter_names=names)
    check_sizes(watch)
    assert watch.ByteSize() < MAX_REQUEST_BYTES
    consent = pb.Consent(tenants=[f"{n:063}" for n in range(1000)])
    request = pb.SetConsentRequest(consent=consent)
    check_sizes(request)
    assert request.ByteSize() < MAX_REQUEST_BYTES
    check_sizes(pb.WithdrawRequest(reason="ü" * 500))
