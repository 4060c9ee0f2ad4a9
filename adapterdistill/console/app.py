"""The console as an ASGI app: one set of pages inside the guard, with its errors as sentences."""

from http import HTTPStatus

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from adapterdistill.client import SearchError
from adapterdistill.console.guard import LOGIN, Access, Guard
from adapterdistill.console.pages import STATIC, Pages, see
from adapterdistill.errors import (
    AdapterDistillError,
    ConfigError,
    FileError,
    NotFoundError,
    NotPermittedError,
    RegistryUnavailableError,
    UnauthenticatedError,
)

_STATUS: dict[type[AdapterDistillError], HTTPStatus] = {
    NotFoundError: HTTPStatus.NOT_FOUND,
    ConfigError: HTTPStatus.UNPROCESSABLE_ENTITY,
    UnauthenticatedError: HTTPStatus.BAD_GATEWAY,  # the registry refuses the console's credentials
    NotPermittedError: HTTPStatus.BAD_GATEWAY,
    RegistryUnavailableError: HTTPStatus.BAD_GATEWAY,
    FileError: HTTPStatus.INTERNAL_SERVER_ERROR,
}


def build(pages: Pages, router: APIRouter, access: Access) -> ASGIApp:
    """Build the app of one set of pages."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.mount("/static", StaticFiles(directory=STATIC))
    app.include_router(router)

    @app.get(LOGIN)
    def login(request: Request, token: str | None = None) -> Response:
        if token is None:
            said = "Give the token that the console printed when it started."
            return pages.page(request, "login", said=said)
        return _entered(request, token)

    @app.post(LOGIN)
    def log_in(request: Request) -> Response:
        return _entered(request, request.scope["form"].get("token", "").strip())

    def _entered(request: Request, token: str) -> Response:
        if access.admits(token):
            return access.let_in(see("/"))
        said = "That is not the token of this start of the console."
        return pages.page(request, "login", HTTPStatus.UNAUTHORIZED, said=said)

    # Each is async, so that it runs even while all threads wait.
    async def expected(request: Request, error: Exception) -> Response:
        kinds = [status for kind, status in _STATUS.items() if isinstance(error, kind)]
        return pages.fault(request, kinds[0] if kinds else HTTPStatus.CONFLICT, sentence(error))

    async def malformed(request: Request, error: Exception) -> Response:
        return pages.fault(request, HTTPStatus.UNPROCESSABLE_ENTITY, "The address is malformed.")

    async def by_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        said = {404: "There is no such page.", 405: "This page does not take that request."}
        status = HTTPStatus(error.status_code)
        return pages.fault(request, status, said.get(status, status.phrase))

    async def unexpected(request: Request, error: Exception) -> Response:
        said = "The console failed. Its log on the machine where it runs says why."
        return pages.fault(request, HTTPStatus.INTERNAL_SERVER_ERROR, said)

    app.add_exception_handler(AdapterDistillError, expected)
    app.add_exception_handler(SearchError, expected)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, by_http)
    app.add_exception_handler(Exception, unexpected)
    return Guard(app, access, pages.fault)


def sentence(error: Exception) -> str:
    """An error's message as a sentence."""
    said = " ".join(str(error).split()) or "It failed."
    return said[0].upper() + said[1:] + ("" if said.endswith((".", "!", "?")) else ".")
