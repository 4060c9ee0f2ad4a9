"""The check that keeps web pages of other origins from asking."""

import re

from fastapi import Request
from fastapi.exceptions import RequestValidationError


def check_content_type(request: Request) -> None:
    """Refuse the types that a web page of another origin can send without being allowed to.

    A browser names the page's origin; a request without both is a program's, and is read as JSON.
    """
    given = request.headers.get("content-type")
    if given == "application/json":
        return
    if given is None and "origin" not in request.headers:
        request.scope["headers"].append((b"content-type", b"application/json"))
        return
    media_type = (given or "").partition(";")[0].strip().lower()
    if not re.fullmatch(r"application/(.+\+)?json", media_type):
        raise RequestValidationError([{"type": "content_type", "loc": ("body",)}])
