"""A tenant's finished run and kept questions, and a browser that is logged in to its console."""

import html
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fastapi import APIRouter
from fastapi.testclient import TestClient
from httpx import Response

from adapterdistill.backbone import Encoder
from adapterdistill.config import OnboardConfig
from adapterdistill.console.app import build
from adapterdistill.console.guard import Access
from adapterdistill.console.owner import LINKS, Owner, add_runs
from adapterdistill.console.pages import Pages
from adapterdistill.console.questions import add_questions
from adapterdistill.console.releases import add_releases
from adapterdistill.console.starting import add_starting
from adapterdistill.feedback import Asked, opened
from adapterdistill.store.bundle import write_bundle
from tests.owner_runs import HELD, run_of, run_through, write_shop
from tests.serving_store import make_tenant

HOST = "127.0.0.1:8765"
ORIGIN = f"http://{HOST}"
KEPT = "do you mend a <b>kite</b>?"


class Browser:
    """Asks the console as a browser does that was given the token."""

    def __init__(self, client: TestClient, access: Access) -> None:
        self.client, self.access = client, access

    def get(self, path: str, **headers: str) -> Response:
        return self.client.get(path, headers=headers)

    def post(self, path: str, **fields: str) -> Response:
        return self.client.post(
            path, data={"csrf": self.access.csrf, **fields}, headers={"Origin": ORIGIN}
        )


def browser_of(owner: Owner) -> Browser:
    access = Access(frozenset({HOST}))
    pages, router = Pages("Owner", LINKS, access), APIRouter()
    for add in (add_runs, add_starting, add_releases, add_questions):
        add(router, owner, pages)
    client = TestClient(build(pages, router, access), base_url=ORIGIN)
    client.cookies.set(access.cookie, access.session)
    return Browser(client, access)


@contextmanager
def answering(answer: Callable[[str, str | None], tuple[int, bytes]]) -> Iterator[str]:
    """Serve over HTTP what a function of path and `Authorization` gives; gives the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(self.path, self.headers["Authorization"])
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def text_of(response: Response) -> str:
    """What a person reads, in one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", response.text)).split())


@pytest.fixture(scope="package")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_folder: Path) -> OnboardConfig:
    """A finished run. Not to be changed."""
    home = tmp_path_factory.mktemp("owner")
    write_shop(home / "data" / "acme", splits=HELD, word="zanzibar")
    training = {"extract_steps": 4}
    config = run_of(home, "acme", encoder=tiny_encoder_folder, registry="", training=training)
    config = config.model_copy(update={"registry": type(config.registry)()})
    run_through(config)
    return config


@pytest.fixture
def owner(finished: OnboardConfig, tiny_encoder: Encoder, tmp_path: Path) -> Owner:
    """The same in folders of the test's own, with a second bundle and two kept questions."""
    for name in ("data", "owners", "serving"):
        shutil.copytree(Path(finished.workspace).parent / name, tmp_path / name)
    write_bundle(tmp_path / "serving", make_tenant(tiny_encoder, "acme", seed=1).bundle)
    with opened(tmp_path / "serving", "acme") as feedback:
        feedback.keep([Asked(KEPT, None, None), Asked("odd", "faq-1", 0.2)])
        feedback.tell(KEPT, wrong=True)
    return Owner(
        tmp_path / "owners",
        tmp_path / "serving",
        data=tmp_path / "data" / "acme",
        encoder=finished.encoder.name,
        dtype=finished.encoder.dtype,
    )


@pytest.fixture
def browser(owner: Owner) -> Browser:
    return browser_of(owner)
