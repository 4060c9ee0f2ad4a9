"""Calls of the fuzzer as bytes, without the registry's client, and what came of each."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from adapterdistill.drills.registry.fuzz_cases import SERVICE, Case
from adapterdistill.drills.registry.fuzz_statements import Signer
from adapterdistill.registry.client.connection import Connection
from adapterdistill.registry.trust.credentials import read_credentials
from adapterdistill.registry.v1 import registry_pb2 as pb

_DEADLINE_S = 30.0
_ENDLESS_S = 0.2  # a call that streams until it is cancelled is left after this
_DETAILS_KEY = "grpc-status-details-bin"
ACCEPTED = "accepted"


class Party:
    """A tenant's channel, and what it signs with."""

    def __init__(self, address: str, folder: Path) -> None:
        self._connection = Connection(address, folder)
        self.channel = self._connection.channel().grpc
        credentials = read_credentials(folder)
        self.signer = Signer(
            credentials.caller.name,
            credentials.signing_key,
            credentials.signing_certificate,
            credentials.certificate,
            credentials.registry,
        )

    def __enter__(self) -> "Party":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def outcome(channel: Any, one: Case) -> tuple[str, list[bytes]]:
    """ "accepted", the reason of the refusal, or the bare code of gRPC; and the answer."""
    endless = SERVICE.methods_by_name[one.method].server_streaming and one.method != "Fetch"
    call = channel.stream_stream(f"/{SERVICE.full_name}/{one.method}", None, None)(
        iter(one.messages), timeout=_ENDLESS_S if endless else _DEADLINE_S
    )
    responses: list[bytes] = []
    try:
        responses.extend(call)
    except grpc.RpcError as error:
        if endless and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return ACCEPTED, responses
        return _reason(error), responses
    return ACCEPTED, responses


def _reason(error: Any) -> str:
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY:
            for detail in Status.FromString(value).details:
                info = ErrorInfo()
                if detail.Unpack(info):
                    return str(info.reason)
    return f"{error.code().name} (no reason)"


def listed(channel: Any, tenant: str) -> Iterator[str]:
    request = pb.ListVersionsRequest(
        filter=pb.VersionFilter(tenant=tenant), page_size=500, view=pb.VERSION_VIEW_SUMMARY
    )
    while True:
        one = Case("", "ListVersions", (request.SerializeToString(),))
        _, responses = outcome(channel, one)
        page = pb.ListVersionsResponse.FromString(responses[0])
        for version in page.versions:
            yield version.name
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token
