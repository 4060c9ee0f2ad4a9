"""Refuses a request whose body is larger than any that could be sound, before all of it is read."""

from http import HTTPStatus

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.note import note_of
from serve.schema import ErrorBody

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
