"""`/docs`: the interface on one page, without scripts, images or styles from elsewhere.

FastAPI's usual page loads scripts from a CDN, which learns who reads the page and can run code in
it. Tools read `/openapi.json`.
"""

from html import escape
from typing import Any

HEADERS = {"Content-Security-Policy": "default-src 'none'"}


def page(openapi: dict[str, Any]) -> str:
    """HTML that lists the paths of an OpenAPI description, with their answers."""
    rows = [
        f"<h2>{escape(method.upper())} {escape(path)}</h2>"
        f"<p>{escape(call.get('description', ''))}</p><ul>"
        + "".join(
            f"<li>{escape(status)}: {escape(answer['description'])}</li>"
            for status, answer in call["responses"].items()
        )
        + "</ul>"
        for path, calls in openapi["paths"].items()
        for method, call in calls.items()
    ]
    title = escape(openapi["info"]["title"])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f'<h1>{title}</h1><p>For tools: <a href="openapi.json">openapi.json</a></p>{"".join(rows)}'
        "</html>"
    )
