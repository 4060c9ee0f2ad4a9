"""Interceptors between gRPC and the service: one refuses malformed bytes, one records.

gRPC itself would answer malformed bytes with UNKNOWN and the parser's message, and log a traceback
for each. Here they are refused like any other bad request.
"""

import inspect
import json
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message

from adapterdistill.errors import ConfigError, InvalidRequestError
from adapterdistill.registry.server.sizes import (
    MAX_REQUEST_BYTES,
    MAX_UPLOAD_MESSAGE_BYTES,
    check_sizes,
)


class Malformed:
    """A placeholder for a request that was not parsed; `why` is for the caller."""

    def __init__(self, why: str) -> None:
        self.why = why


def checked(request: Any) -> Any:
    """Return the request; InvalidRequestError if it was not parsed, or a field is too large."""
    if isinstance(request, Malformed):
        raise InvalidRequestError(request.why)
    if isinstance(request, Message):
        check_sizes(request)
    return request


class ParsesOrMarks(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc.aio has no types
    """Passes `Malformed` to the calls of one service instead of requests that it cannot parse."""

    def __init__(self, service_name: str) -> None:
        self._prefix = f"/{service_name}/"

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(self._prefix):
            return handler
        parse = handler.request_deserializer
        most = MAX_UPLOAD_MESSAGE_BYTES if handler.request_streaming else MAX_REQUEST_BYTES

        def parse_or_mark(raw: bytes) -> Any:
            if len(raw) > most:  # a parsed message takes many times its bytes
                return Malformed(f"the request has {len(raw)} bytes, at most {most} are allowed")
            try:
                return parse(raw)
            except DecodeError:
                return Malformed("the request is not a message of this call")

        return handler._replace(request_deserializer=parse_or_mark)


class Recorder(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc.aio has no types
    """Writes every message of a registry to a file, in which tests search for private text.

    The file holds each message as serialised, and the metadata and refusal of each call. Before
    each part stands a line of JSON: the call, the kind of part, and how many bytes follow.
    """

    def __init__(self, path: Path) -> None:
        """Open the file; raises ConfigError if it cannot be written."""
        self._path = path
        self._lock = threading.Lock()
        try:
            path.touch(mode=0o600)
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror}") from None

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: Any
    ) -> Any:
        """Return the call's handler with recording; None for an unknown call."""
        self._keep(details.method, "metadata", _metadata_bytes(details.invocation_metadata))
        handler = await continuation(details)
        return handler and self._recorded(details.method, handler)

    def _recorded(self, method: str, handler: Any) -> Any:
        read, write = handler.request_deserializer, handler.response_serializer

        def reading(data: bytes) -> Any:
            self._keep(method, "request", data)
            return read(data)

        def writing(message: Any) -> bytes:
            data: bytes = write(message)
            self._keep(method, "response", data)
            return data

        kind = f"{_arity(handler.request_streaming)}_{_arity(handler.response_streaming)}"
        behaviour = getattr(handler, kind)
        # gRPC would not run any other function like the coroutine below.
        assert inspect.iscoroutinefunction(behaviour), method

        async def answering(request: Any, context: Any) -> Any:
            return await behaviour(request, _RecordedContext(context, method, self._keep))

        make: Any = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(answering, request_deserializer=reading, response_serializer=writing)

    def _keep(self, method: str, part: str, data: bytes) -> None:
        head = json.dumps({"call": method, "part": part, "bytes": len(data)}).encode()
        with self._lock, self._path.open("ab") as file:
            file.write(b"%s\n%s\n" % (head, data))


class _RecordedContext:
    """A call's context whose refusal and trailers are recorded."""

    def __init__(self, context: Any, method: str, keep: Callable[[str, str, bytes], None]) -> None:
        self._context, self._method, self._keep = context, method, keep

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def abort(self, code: Any, details: str = "", trailing_metadata: Any = ()) -> None:
        told = f"{code.name} {details}\n".encode() + _metadata_bytes(trailing_metadata)
        self._keep(self._method, "refusal", told)
        await self._context.abort(code, details, trailing_metadata)

    def set_trailing_metadata(self, metadata: Any) -> None:
        self._keep(self._method, "trailer", _metadata_bytes(metadata))
        self._context.set_trailing_metadata(metadata)


def _arity(streaming: bool) -> str:
    return "stream" if streaming else "unary"


def _metadata_bytes(metadata: Any) -> bytes:
    """Write one line for each entry: its key and its value."""
    return b"".join(
        b"%s: %s\n" % (key.encode(), value if isinstance(value, bytes) else value.encode())
        for key, value in metadata or ()
    )
