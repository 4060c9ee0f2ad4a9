"""Asks for a bearer token before anything else is done with a request, or looked up for it.

`/healthz` is open: who watches a replica needs no secret, and it names nobody. A tenant's paths
take a token of that tenant. All else (metrics, which name the busiest tenants, and documents) takes
the operator's, as does any path that is added later and forgotten here.
"""

from collections.abc import Sequence
from http import HTTPStatus

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.note import note_of
from serve.schema import ErrorBody
from serve.tokens import Tokens

OPEN_PATHS = frozenset({"/healthz"})
_TENANTS = "/v1/tenants/"
_SCHEME = b"bearer "


class Guard:
    """ASGI middleware. Wrong, missing, expired and other tenants' tokens get one and the same 401,
    after the same work, whether or not there is such a tenant or such a path."""

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
