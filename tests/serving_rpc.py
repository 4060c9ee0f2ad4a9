"""Serving over gRPC for tests: a client that sends any bytes, and gRPC's answers against HTTP's."""

from types import TracebackType
from typing import Any, Self

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from adapterdistill.serving.v1 import serving_pb2 as pb


class Client:
    """`credentials`: None for plain text."""

    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None = None) -> None:
        self._channel = (
            grpc.insecure_channel(address)
            if credentials is None
            else grpc.secure_channel(address, credentials)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._channel.close()

    def call(self, name: str, request: Any, token: str = "", *, timeout_s: float = 30) -> bytes:
        """The bytes of the answer; `request`: a message, or bytes as they are."""
        raw = request if isinstance(request, bytes) else request.SerializeToString()
        invoke = self._channel.unary_unary(f"/adapterdistill.serving.v1.SearchService/{name}")
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        answered: bytes = invoke(raw, metadata=metadata, timeout=timeout_s, wait_for_ready=True)
        return answered

    def search(self, request: pb.SearchRequest, token: str) -> pb.SearchResponse:
        return pb.SearchResponse.FromString(self.call("Search", request, token))

    def refusal(self, name: str, request: Any, token: str = "") -> tuple[str, str]:
        """Code and reason of a call that fails. Nothing of the request may come back."""
        with pytest.raises(grpc.RpcError) as raised:
            self.call(name, request, token)
        error: Any = raised.value
        details = dict(error.trailing_metadata())["grpc-status-details-bin"]
        assert "canary" not in error.details() and b"canary" not in details
        info = ErrorInfo()
        assert Status.FromString(details).details[0].Unpack(info)
        return error.code().name, info.reason


def assert_equal_answers(answered: pb.SearchResponse, http: dict[str, Any]) -> None:
    """Every field of gRPC's answer is what HTTP's has there; HTTP's `null` is unset."""
    told = _fields(answered)
    assert told["adapter"].items() <= http["adapter"].items()
    for mine, theirs in zip(told["results"], http["results"], strict=True):
        assert mine["abstained"] == theirs["abstained"]
        assert mine.get("confidence") == pytest.approx(theirs["confidence"], abs=1e-3)
        for faq, wanted in zip(mine["ranked"], theirs["ranked"], strict=True):
            assert abs(faq.pop("score") - wanted["score"]) < 2e-5  # batches differ
            assert {"answer": None} | faq == {key: wanted[key] for key in ({*faq} | {"answer"})}


def assert_equal_states(answered: pb.GetTenantResponse, http: dict[str, Any]) -> None:
    """Every field of gRPC's answer is what HTTP's has there, and no number is missing."""
    told = _fields(answered)
    for name in ("adapter", "quality", "drift", "candidate"):
        mine, theirs = told.pop(name, None), http[name]
        assert mine == (theirs and {key: theirs[key] for key in theirs if theirs[key] is not None})
    assert told == {key: http[key] for key in ("tenant", "num_faqs", "threshold") if http[key]}


def _fields(message: Message) -> dict[str, Any]:
    fields: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    for part, name, enum in (
        ("adapter", "alias", "ALIAS"),
        ("candidate", "mode", "CANDIDATE_MODE"),
        ("candidate", "state", "CANDIDATE_STATE"),
    ):
        if part in fields:
            fields[part][name] = fields[part][name].removeprefix(f"{enum}_").lower()
    return fields
