"""The layers around a replica's HTTP app: request ids, log lines, metrics, tokens, body sizes.

The log has the fields of `RequestContext`. An unforeseen exception is logged by its class and its
place in the code: its message may quote a query, so it is neither logged nor sent.
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

from adapterdistill.serve.http.schema import ErrorBody
from adapterdistill.serve.metrics import Metrics
from adapterdistill.serve.queue.request_context import RequestContext, context_of
from adapterdistill.serve.tokens import Tokens

_REQUEST_ID = b"x-request-id"  # Serve gives an id to each request without one, and echoes it
# Any other id is replaced and not logged: a caller's text may be private.
_IDS = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_LOGGED = "/v1/"  # not the paths that monitors ask every few seconds
_requests = logging.getLogger("adapterdistill.requests")
_log = logging.getLogger("ray.serve")


class RequestMiddleware:
    """ASGI middleware around all of a replica's HTTP: context, failures, metrics, log lines."""

    def __init__(self, app: ASGIApp, metrics: Metrics, *, log_requests: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._log_requests = log_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = (value for key, value in scope["headers"] if key == _REQUEST_ID)
        context = RequestContext(request_id(next(given, b"")))
        scope.setdefault("state", {})["request_context"] = context
        started_at, status = time.perf_counter(), 0

        async def noting_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting_send)
        except asyncio.CancelledError:
            context.outcome = (
                "CANCELLED"  # the caller has disconnected, or the proxy's timeout has passed
            )
            raise
        except Exception as error:
            context.outcome = "INTERNAL"
            _log.error("request %s failed: %s", context.request_id, place(error))
            if not status:
                message = "the server failed on this request"
                failure = error_response(HTTPStatus.INTERNAL_SERVER_ERROR, "INTERNAL", message)
                await failure(scope, receive, noting_send)
        finally:
            if scope["path"].startswith(_LOGGED):
                seconds = time.perf_counter() - started_at
                self._metrics.answered(context, seconds)
                if self._log_requests:
                    write_line(context, status, seconds)


def write_request_log() -> None:
    """Send request lines, and nothing else, to this process's stderr."""
    if not _requests.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        _requests.addHandler(handler)
        _requests.setLevel(logging.INFO)
        _requests.propagate = False


def write_line(context: RequestContext, status: int | str, seconds: float) -> None:
    """Log one request. `status`: the HTTP status, or the name of the gRPC status."""
    fields = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "request_id": context.request_id,
        "tenant": context.tenant,
        "version": context.version,
        "alias": context.alias,
        "queries": context.num_queries,
        "ms": round(seconds * 1000, 1),
        "status": status,
        "outcome": context.outcome,
    }
    _requests.info(json.dumps(fields))


def request_id(given: bytes) -> str:
    """The id that the caller or Serve gave; a new one if it may be text."""
    return given.decode() if _IDS.fullmatch(given) else secrets.token_hex(8)


def place(error: Exception) -> str:
    """The place in the code that raised the error, without its message."""
    frames = traceback.extract_tb(error.__traceback__)[-5:]
    where = " < ".join(f"{frame.filename}:{frame.lineno}" for frame in reversed(frames))
    return f"{type(error).__name__} at {where}"


def error_response(
    status: HTTPStatus, reason: str, message: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    """The answer to a request that is refused or failed."""
    body = ErrorBody(reason=reason, message=message)
    return JSONResponse(body.model_dump(), status_code=status, headers=headers)


MAX_BODY_BYTES = 2 << 20
"""Limit of a body. 64 queries of 2,000 characters, each of them two JSON escapes of 6 bytes, have
1.5 MB."""


class _TooLargeError(Exception):
    """Internal: stops reading a body without a declared length."""


class BodyLimit:
    """ASGI middleware that limits bodies: by the declared length, or by counting where none is
    declared.

    The server itself holds a body to its declared length.
    """

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
    context_of(scope).outcome = "REQUEST_TOO_LARGE"
    message = f"a body has at most {MAX_BODY_BYTES} bytes"
    refusal = error_response(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "REQUEST_TOO_LARGE", message)
    await refusal(scope, receive, send)


class HeadAsGet:
    """ASGI middleware that answers HEAD with the head of the answer to GET."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self._app({**scope, "method": "GET"}, receive, send_head)


OPEN_PATHS = frozenset({"/healthz"})
_DESCRIPTIONS = frozenset({"/docs", "/openapi.json"})
_TENANTS = "/v1/tenants/"
_SCHEME = b"bearer "


class Guard:
    """ASGI middleware that asks for a bearer token before anything else happens to a request.

    `/healthz` is open: a monitor needs no secret, and the path names no tenant. A tenant's paths
    take a token of that tenant. The descriptions of the interface take any valid token. All other
    paths (metrics, and paths added later) take the operator's. Wrong, missing, expired and other
    tenants' tokens get one and the same 401, after the same work, whether or not the tenant or the
    path exists.
    """

    def __init__(self, app: ASGIApp, tokens: Tokens) -> None:
        self._app = app
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._admits(scope):
            context_of(scope).outcome = "UNAUTHENTICATED"
            message = "a valid bearer token for this path is needed"
            headers = {"WWW-Authenticate": "Bearer"}
            refusal = error_response(HTTPStatus.UNAUTHORIZED, "UNAUTHENTICATED", message, headers)
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _admits(self, scope: Scope) -> bool:
        # Decoded and cut as the router does: otherwise one path could be guarded and another
        # served.
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        if path in OPEN_PATHS:
            return True
        tenant = path.removeprefix(_TENANTS).split("/")[0] if path.startswith(_TENANTS) else None
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if path in _DESCRIPTIONS:
            return self._tokens.admit_anyone(bearer_token(given))
        return self._tokens.admit(bearer_token(given), tenant)


def bearer_token(given: Sequence[bytes]) -> bytes:
    """The bearer token in a request's `authorization` headers.

    Empty, which is no token, unless there is exactly one such header with a bearer token.
    """
    token = given[0] if len(given) == 1 else b""
    if token[: len(_SCHEME)].lower() != _SCHEME:
        return b""
    return token[len(_SCHEME) :].strip()
