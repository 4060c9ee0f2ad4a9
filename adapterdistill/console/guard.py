"""Who may ask the console: the checks of every request, and the headers of every answer.

Anyone on this machine can connect to loopback, and any page in the same browser can send requests
there. So a request must name this host (against DNS rebinding) and hold the cookie that the token
of the start brings; a change must also come from the console's own pages (`Origin` and a CSRF
token).
"""

import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qsl

from fastapi import Request
from fastapi.responses import Response
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # without one, browsers send a form's Origin as null
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
_STRICT_TRANSPORT = "max-age=31536000"
MAX_FORM_BYTES = 64 << 10
_MAX_FIELDS = 32
LOGIN = "/login"
_OPEN = "/static/"
_FORM = "application/x-www-form-urlencoded"
_SAFE = ("GET", "HEAD")


@dataclass(frozen=True)
class Access:
    """The secrets of one start of the console, and the names that it answers to."""

    hosts: frozenset[str]
    """Values of the header `Host`: names with port."""
    secure: bool = False
    """Whether it serves TLS."""
    cookie: str = "adapterdistill-console"
    """The cookie's name. It holds the port, because browsers share cookies between ports."""
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    session: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @property
    def csrf(self) -> str:
        """What every form holds, and no page of another origin can read."""
        return hmac.new(self.session.encode(), b"csrf", hashlib.sha256).hexdigest()

    def admits(self, token: str) -> bool:
        """Whether this is the token that the console printed when it started."""
        return hmac.compare_digest(token.encode(), self.token.encode())

    def let_in(self, response: Response) -> Response:
        """Give the browser the cookie of this start."""
        response.set_cookie(
            self.cookie, self.session, httponly=True, samesite="strict", secure=self.secure
        )
        return response

    def knows(self, request: Request) -> bool:
        """Whether the browser has that cookie."""
        given = request.cookies.get(self.cookie, "")
        return hmac.compare_digest(given.encode(), self.session.encode())

    def is_own_page(self, request: Request) -> bool:
        """Whether the browser says that a page of the console sent the request."""
        scheme = "https" if self.secure else "http"
        return request.headers.get("origin") == f"{scheme}://{request.headers['host']}"


Refuse = Callable[[Request, HTTPStatus, str], Response]
"""Makes the answer to a request that is refused, with a sentence for people."""


class Guard:
    """ASGI middleware around all pages, so that none can forget a check.

    It reads the form of a change, checks it, and leaves its fields in the scope as `form`.
    """

    def __init__(self, app: ASGIApp, access: Access, refuse: Refuse) -> None:
        self._app, self._access, self._refuse = app, access, refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # the console has no web sockets
            return
        request = Request(scope, receive)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if self._access.secure:
                    headers["Strict-Transport-Security"] = _STRICT_TRANSPORT
            await send(message)

        try:
            await self._check(request)
        except _RefusedError as refused:
            response: Callable[[Scope, Receive, Send], Awaitable[None]] = self._refuse(
                request, refused.status, refused.said
            )
            await response(scope, receive, send_with_headers)
            return
        except ClientDisconnect:
            return
        await self._app(scope, receive, send_with_headers)

    async def _check(self, request: Request) -> None:
        """Raise _RefusedError unless the request may go on."""
        access, path, named = self._access, request.scope["path"], request.headers.getlist("host")
        if len(named) != 1 or named[0].lower() not in access.hosts:
            raise _RefusedError(
                HTTPStatus.MISDIRECTED_REQUEST, "The console does not answer to this address."
            )
        if not (path == LOGIN or path.startswith(_OPEN) or access.knows(request)):
            raise _RefusedError(
                HTTPStatus.UNAUTHORIZED, "Give the token that the console printed when it started."
            )
        if request.method in _SAFE:
            return
        if request.method != "POST":
            raise _RefusedError(HTTPStatus.METHOD_NOT_ALLOWED, "This page takes GET and POST.")
        form = await _form(request)
        own = access.is_own_page(request)
        if path != LOGIN:
            given = form.get("csrf", "")
            own = own and hmac.compare_digest(given.encode(), access.csrf.encode())
        if not own:
            raise _RefusedError(
                HTTPStatus.FORBIDDEN,
                "This change did not come from a page of the console, or the console was started "
                "again since: load the page again.",
            )
        request.scope["form"] = form


class _RefusedError(Exception):
    def __init__(self, status: HTTPStatus, said: str) -> None:
        super().__init__(said)
        self.status, self.said = status, said


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form; the last of equal names counts."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise _RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The console takes forms alone.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            raise _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The form is too long.")
    try:
        fields = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(body),
            errors="strict",
            max_num_fields=_MAX_FIELDS,
        )
    except ValueError:
        raise _RefusedError(HTTPStatus.BAD_REQUEST, "The form cannot be read.") from None
    return dict(fields)
