"""The layers around a replica's HTTP app: request ids, log lines, metrics, tokens, body sizes.

The log says what `serve.queue.request_context.Note` holds. An unforeseen exception is logged by its
class and its place in the code: its message may quote a query, so it is neither logged nor sent.
"""

import asyncio
import json
import logging
import re
import secrets
import sys
import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from http import HTTPStatus

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.http.schema import ErrorBody
from serve.metrics import Metrics
from serve.queue.request_context import Note, note_of
from serve.tokens import Tokens

_REQUEST_ID = b"x-request-id"  # Serve gives one to each request that has none, and echoes it
# Another one is not logged, and a new one in its stead: what a caller sends may be text.
_IDS = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_LOGGED = "/v1/"  # not what watchers ask every few seconds
_requests = logging.getLogger("adapterdistill.requests")
_log = logging.getLogger("ray.serve")


class Front:
    """ASGI middleware around all of a replica's HTTP."""

    def __init__(self, app: ASGIApp, metrics: Metrics, *, log_requests: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._log_requests = log_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = (value for key, value in scope["headers"] if key == _REQUEST_ID)
        note = Note(request_id(next(given, b"")))
        scope.setdefault("state", {})["note"] = note
        started_at, status = time.perf_counter(), 0

        async def noting_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting_send)
        except asyncio.CancelledError:
            note.outcome = "CANCELLED"  # the caller has gone, or the proxy's timeout has passed
            raise
        except Exception as error:
            note.outcome = "INTERNAL"
            _log.error("request %s failed: %s", note.request_id, place(error))
            if not status:
                await _failure()(scope, receive, noting_send)
        finally:
            if scope["path"].startswith(_LOGGED):
                seconds = time.perf_counter() - started_at
                self._metrics.answered(note, seconds)
                if self._log_requests:
                    write_line(note, status, seconds)


def write_request_log() -> None:
    """Send request lines, and nothing but them, to this process's stderr."""
    if not _requests.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        _requests.addHandler(handler)
        _requests.setLevel(logging.INFO)
        _requests.propagate = False


def write_line(note: Note, status: int | str, seconds: float) -> None:
    """`status`: of HTTP, or the name of gRPC's."""
    fields = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "request_id": note.request_id,
        "tenant": note.tenant,
        "version": note.version,
        "alias": note.alias,
        "queries": note.num_queries,
        "ms": round(seconds * 1000, 1),
        "status": status,
        "outcome": note.outcome,
    }
    _requests.info(json.dumps(fields))


def request_id(given: bytes) -> str:
    """The caller's, or Serve's; a new one if it may be text."""
    return given.decode() if _IDS.fullmatch(given) else secrets.token_hex(8)


def place(error: Exception) -> str:
    """Where in the code it was raised, without its message."""
    frames = traceback.extract_tb(error.__traceback__)[-5:]
    where = " < ".join(f"{frame.filename}:{frame.lineno}" for frame in reversed(frames))
    return f"{type(error).__name__} at {where}"


def _failure() -> JSONResponse:
    body = ErrorBody(reason="INTERNAL", message="the server failed on this request")
    return JSONResponse(body.model_dump(), status_code=HTTPStatus.INTERNAL_SERVER_ERROR)


MAX_BODY_BYTES = 2 << 20
"""64 queries of 2,000 characters, each written as two JSON escapes of 6 bytes, are 1.5 MB."""


class _TooLargeError(Exception):
    """Internal: ends the reading of a body without a length in its head."""


class BodyLimit:
    """ASGI middleware. A server holds a body to the length in its head; one without is counted."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = next((value for key, value in scope["headers"] if key == b"content-length"), None)
        if length is None:
            receive = _counted(receive)
        elif not length.isdigit() or int(length) > MAX_BODY_BYTES:
            await _refuse(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        except _TooLargeError:
            await _refuse(scope, receive, send)


def _counted(receive: Receive) -> Receive:
    received = 0

    async def counting() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > MAX_BODY_BYTES:
            raise _TooLargeError
        return message

    return counting


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    note_of(scope).outcome = "REQUEST_TOO_LARGE"
    body = ErrorBody(
        reason="REQUEST_TOO_LARGE", message=f"a body has at most {MAX_BODY_BYTES} bytes"
    )
    refusal = JSONResponse(body.model_dump(), status_code=HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    await refusal(scope, receive, send)


OPEN_PATHS = frozenset({"/healthz"})
_TENANTS = "/v1/tenants/"
_SCHEME = b"bearer "


class Guard:
    """ASGI middleware that asks for a bearer token before anything else is done with a request.

    `/healthz` is open: who watches a replica needs no secret, and it names nobody. A tenant's paths
    take a token of that tenant. All other paths (metrics, documents, and any path that is added
    later and forgotten here) take the operator's. Wrong, missing, expired and other tenants'
    tokens get one and the same 401, after the same work, whether or not there is such a tenant or
    such a path.
    """

    def __init__(self, app: ASGIApp, tokens: Tokens) -> None:
        self._app = app
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._admits(scope):
            note_of(scope).outcome = "UNAUTHENTICATED"
            body = ErrorBody(
                reason="UNAUTHENTICATED", message="a valid bearer token for this path is needed"
            )
            refusal = JSONResponse(
                body.model_dump(),
                status_code=HTTPStatus.UNAUTHORIZED,
                headers={"WWW-Authenticate": "Bearer"},
            )
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _admits(self, scope: Scope) -> bool:
        # Decoded and cut as the router does it, or one path could be guarded and another served.
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        if path in OPEN_PATHS:
            return True
        tenant = path.removeprefix(_TENANTS).split("/")[0] if path.startswith(_TENANTS) else None
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        return self._tokens.admit(bearer_token(given), tenant)


def bearer_token(given: Sequence[bytes]) -> bytes:
    """The token of a request's `authorization` headers; empty, which is no token, unless there is
    one such header and it bears one."""
    token = given[0] if len(given) == 1 else b""
    if token[: len(_SCHEME)].lower() != _SCHEME:
        return b""
    return token[len(_SCHEME) :].strip()
