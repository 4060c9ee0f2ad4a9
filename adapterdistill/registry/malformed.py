"""Bytes that are no message of their call are refused like any other bad request.

gRPC itself would answer UNKNOWN with the parser's words and log a traceback for each.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from adapterdistill.errors import InvalidRequestError


class Malformed:
    """Stands for a request that could not be parsed."""


def checked(request: Any) -> Any:
    """The request; raises InvalidRequestError if it could not be parsed."""
    if isinstance(request, Malformed):
        raise InvalidRequestError("the bytes that came are no message of this call")
    return request


class ParsesOrMarks(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc.aio has no types
    """Hands the calls of one service `Malformed` in place of what cannot be parsed."""

    def __init__(self, service_name: str) -> None:
        self._prefix = f"/{service_name}/"

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(self._prefix):
            return handler
        parse = handler.request_deserializer

        def parse_or_mark(raw: bytes) -> Any:
            try:
                return parse(raw)
            except DecodeError:
                return Malformed()

        return handler._replace(request_deserializer=parse_or_mark)
