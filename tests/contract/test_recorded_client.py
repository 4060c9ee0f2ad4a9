"""Clients of earlier releases still understand this registry, and it them.

Each recording's requests are sent as the bytes that they were; the answers are read with the
descriptors of that time. Only tokens that the registry itself hands out are replaced.
"""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from tests.contract.record_client import RECORDED, outcome, raw_call, record
from tests.contract.running_registry import Running

SERVICE = "adapterdistill.registry.v1.RegistryService"
OPAQUE = {"etag": "etag", "next_page_token": "page_token"}
"""Tokens of answers, and the fields of requests that carry them back."""
CHANGING = {"create_time", "revision", *OPAQUE}


@dataclass(frozen=True)
class Types:
    """A method's messages as they were at the release; none for other services."""

    request: Any
    response: Any


def types_at(release: str, method: str) -> Types | None:
    service, _, name = method.removeprefix("/").partition("/")
    if service != SERVICE:
        return None
    files = descriptor_pb2.FileDescriptorSet.FromString(
        (RECORDED / f"{release}.binpb").read_bytes()
    )
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)  # type: ignore[attr-defined]
    found = pool.FindServiceByName(service).methods_by_name[name]
    get = message_factory.GetMessageClass
    return Types(get(found.input_type), get(found.output_type))


def as_seen(value: Any) -> Any:
    """Remove the parts that differ from one registry to the next."""
    if isinstance(value, dict):
        return {key: as_seen(inner) for key, inner in value.items() if key not in CHANGING}
    return [as_seen(inner) for inner in value] if isinstance(value, list) else value


def tokens(value: Any) -> Iterator[tuple[str, str]]:
    """Every token of an answer, with the name of its field."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in OPAQUE:
                yield key, inner
            else:
                yield from tokens(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from tokens(inner)


def with_tokens(value: Any, given: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {
            key: given.get(inner, inner) if key in OPAQUE.values() else with_tokens(inner, given)
            for key, inner in value.items()
        }
    return value


def reason_of(details: list[bytes]) -> list[str]:
    """Code and reason of an error, as clients of any release read them."""
    found = []
    for raw in details:
        for detail in Status.FromString(raw).details:
            info = ErrorInfo()
            assert detail.Unpack(info)
            found.append(f"{info.domain} {info.reason}")
    return found


def decoded(values: list[str]) -> list[bytes]:
    return [base64.b64decode(value) for value in values]


def as_dict(message: Any) -> Any:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


@pytest.mark.parametrize("release", sorted(path.stem for path in RECORDED.glob("*.json")))
def test_client_of_an_earlier_release_is_answered_as_it_was(release: str, tmp_path: Path) -> None:
    calls = json.loads((RECORDED / f"{release}.json").read_text())
    given: dict[str, str] = {}
    running = Running(tmp_path)
    try:
        with grpc.insecure_channel(running.address) as channel:
            for number, call in enumerate(calls):
                types = types_at(release, call["method"])
                requests = decoded(call["requests"])
                if types is not None and given:
                    requests = [renewed(types.request, raw, given) for raw in requests]
                got = outcome(
                    raw_call(channel, call["method"])(iter(requests), timeout=call["timeout_s"])
                )
                where = f"call {number}, {call['method']}"
                assert got["code"] == call["code"], where
                assert reason_of(got["details"]) == reason_of(decoded(call["details"])), where
                if types is None:
                    assert got["responses"] == decoded(call["responses"]), where
                    continue
                new, old = (
                    [as_dict(types.response.FromString(raw)) for raw in responses]
                    for responses in (got["responses"], decoded(call["responses"]))
                )
                assert as_seen(new) == as_seen(old), where
                new_tokens, old_tokens = list(tokens(new)), list(tokens(old))
                assert [key for key, _ in new_tokens] == [key for key, _ in old_tokens], where
                given |= {o[1]: n[1] for o, n in zip(old_tokens, new_tokens, strict=True)}
    finally:
        running.close()


def renewed(kind: Any, raw: bytes, given: dict[str, str]) -> bytes:
    """The request with this registry's tokens in place of the recorded one's."""
    old = as_dict(kind.FromString(raw))
    new = with_tokens(old, given)
    return raw if new == old else bytes(json_format.ParseDict(new, kind()).SerializeToString())


def test_a_recording_holds_every_call_and_the_refusals(tmp_path: Path) -> None:
    """Check that this release's client is recorded completely for the next release."""
    record(tmp_path, "now")
    calls = json.loads((tmp_path / "now.json").read_text())
    named = {call["method"].rpartition("/")[2] for call in calls}
    assert named >= {"Publish", "Fetch", "GetVersion", "ListVersions", "GetAlias", "SetAlias"}
    assert named >= {"GetLineage", "Check"}
    assert {"OK", "NOT_FOUND", "ABORTED"} <= {call["code"] for call in calls}
    assert all(call["timeout_s"] > 0 for call in calls)
    assert (tmp_path / "now.binpb").stat().st_size > 1000
