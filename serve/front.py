"""The outermost layer of a replica: request ids, a log line, metrics, unforeseen errors.

What is written is what `serve.note.Note` holds. An exception that nobody foresaw is written by its
class and its place in the code: its message may quote a query, and so is neither logged nor sent.
"""

import asyncio
import json
import logging
import re
import secrets
import sys
import time
import traceback
from datetime import UTC, datetime
from http import HTTPStatus

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.metrics import Metrics
from serve.note import Note
from serve.schema import ErrorBody

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
