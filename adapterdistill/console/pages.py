"""From values to HTML: the templates, and what all pages show. All texts are escaped."""

from collections.abc import Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from adapterdistill.console.guard import LOGIN, Access

_HERE = Path(__file__).parent
STATIC = _HERE / "static"
HTMX = "HX-Request"
"""The header of requests that replace a part of a page."""


class Link(NamedTuple):
    """An entry of the navigation."""

    path: str
    name: str


class Pages:
    """Renders templates for one set of pages."""

    def __init__(self, role: str, links: Sequence[Link], access: Access) -> None:
        """
        Args:
            role: whose pages these are, for the heading.
            links: the navigation.
        """
        self._access = access
        self._templates = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {"short": short, "percent": percent, "moment": moment}
        self._templates.globals |= {"role": role, "links": links, "csrf": access.csrf}

    def page(
        self, request: Request, name: str, status: HTTPStatus = HTTPStatus.OK, **values: Any
    ) -> HTMLResponse:
        """A page, or a part of one, from the template of that name."""
        shown = self._templates.get_template(f"{name}.html").render(
            path=request.scope["path"], known=self._access.knows(request), **values
        )
        return HTMLResponse(shown, status)

    def followed(
        self, request: Request, name: str, mark: str, seen: str, **values: Any
    ) -> Response:
        """A page that asks again for its changing part; no content while nothing has changed.

        Args:
            mark: a digest of what is shown.
            seen: the digest of what the browser has.
        """
        part = HTMX in request.headers
        if part and seen == mark:
            return Response(status_code=HTTPStatus.NO_CONTENT)
        return self.page(request, f"{name}_part" if part else name, mark=mark, **values)

    def fault(self, request: Request, status: HTTPStatus, said: str) -> Response:
        """The answer to a request that cannot be done: a sentence, and what to do next."""
        if status == HTTPStatus.UNAUTHORIZED:
            answer = self.page(request, "login", status, said=said)
            if HTMX in request.headers:  # the page that asked is of an earlier start
                answer.headers["HX-Redirect"] = LOGIN
            return answer
        part = "fault_part" if HTMX in request.headers else "fault"
        return self.page(request, part, status, said=said, title=status.phrase)


def see(path: str) -> Response:
    """Send the browser to a page after a change, so that a reload does not repeat the change."""
    return RedirectResponse(path, HTTPStatus.SEE_OTHER)


def short(identity: str | None) -> str:
    """The start of a bundle's or version's id, as the commands show it."""
    return "-" if identity is None else f"{identity[:12]}{identity[64:]}"


def percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def moment(at: datetime | float) -> str:
    """A time in UTC."""
    time = datetime.fromtimestamp(at, UTC) if isinstance(at, int | float) else at
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"
