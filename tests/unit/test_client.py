"""The client against a scripted server, and against the HTTP interface over a real engine."""

import ast
import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from adapterdistill import client as client_module
from adapterdistill.client import Answer, AsyncClient, Client, SearchError, SettingError

VERSION = "a" * 64
NONE: dict[str, Any] = {}
Script = Callable[[dict[str, Any]], tuple[int, dict[str, str], bytes]]


def result(text: str) -> dict[str, Any]:
    faq = {"faq_id": text, "question": f"{text}?", "answer": None, "score": 0.5}
    return {"ranked": [faq], "abstained": text.startswith("no"), "confidence": 0.25}


def answers(body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    found = {
        "tenant": "acme",
        "adapter": {"name": "faq", "version": VERSION, "form": "adapter", "alias": "live"},
        "results": [result(query) for query in body["queries"]],
    }
    return 200, {}, json.dumps(found).encode()


def refusal(status: int, reason: str, **headers: str) -> Script:
    body = json.dumps({"reason": reason, "message": f"it is {reason}"}).encode()
    return lambda _: (status, {name.replace("_", "-"): v for name, v in headers.items()}, body)


class Server:
    """Answers requests with one script after the other; the last one stays."""

    def __init__(self) -> None:
        self.scripts: list[Script] = [answers]
        self.asked: list[tuple[str, dict[str, Any], str | None]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.asked.append((self.path, body, self.headers["Authorization"]))
                scripts = server.scripts
                status, headers, content = (scripts.pop(0) if scripts[1:] else scripts[0])(body)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        # A client that gave up is no fault that anybody needs to see.
        self.http.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.address = f"127.0.0.1:{self.http.server_port}"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


@pytest.fixture(params=["Client", "AsyncClient"])
def search_all(request: pytest.FixtureRequest, server: Server) -> Callable[..., list[Answer]]:
    """Ask through either client."""

    def sync(queries: list[str], options: dict[str, Any], **asked: Any) -> list[Answer]:
        with Client(**{"address": server.address, "tenant": "acme", **options}) as client:
            return client.search_all(queries, **asked)

    async def later(queries: list[str], options: dict[str, Any], **asked: Any) -> list[Answer]:
        options = {"address": server.address, "tenant": "acme", **options}
        async with AsyncClient(**options) as client:
            return await client.search_all(queries, **asked)

    def ask(
        queries: list[str], options: dict[str, Any] | None = None, **asked: Any
    ) -> list[Answer]:
        if request.param == "Client":
            return sync(queries, options or {}, **asked)
        return asyncio.run(later(queries, options or {}, **asked))

    return ask


def test_an_answer_has_what_the_endpoint_said(search_all: Callable[..., list[Answer]]) -> None:
    found, none = search_all(["parcel", "no parcel"])
    assert (found.best, found.abstained, found.confidence) == (found.ranked[0], False, 0.25)
    assert (found.ranked[0].faq_id, found.ranked[0].score) == ("parcel", 0.5)
    assert (found.version, found.alias, found.decided_by) == (VERSION, "live", None)
    assert none.best is None and none.ranked[0].faq_id == "no parcel"


def test_many_questions_go_in_several_requests_and_come_back_in_order(
    search_all: Callable[..., list[Answer]], server: Server
) -> None:
    queries = [f"question {n}" for n in range(150)]
    found = search_all(queries, top_k=1, explain=True, alias="canary")
    assert [one.ranked[0].faq_id for one in found] == queries
    bodies = [body for _, body, _ in server.asked]
    assert [len(body.pop("queries")) for body in bodies] == [64, 64, 22]
    assert bodies == [{"top_k": 1, "explain": True, "alias": "canary"}] * 3
    assert search_all([]) == []


def test_the_token_goes_with_each_request_and_the_tenant_stays_one_part_of_the_path(
    search_all: Callable[..., list[Answer]], server: Server, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("adt_secret\n")
    search_all(["a"], {"token_file": file, "tenant": "a/../b?"})
    search_all(["a"], {"token": "adt_other", "address": f"http://{server.address}/under/"})
    search_all(["a"])
    assert [(path, token) for path, _, token in server.asked] == [
        ("/v1/tenants/a%2F..%2Fb%3F/search", "Bearer adt_secret"),
        ("/under/v1/tenants/acme/search", "Bearer adt_other"),
        ("/v1/tenants/acme/search", None),
    ]


def test_a_busy_endpoint_is_asked_again_when_it_says(
    search_all: Callable[..., list[Answer]], server: Server
) -> None:
    busy = refusal(503, "overloaded", Retry_After="0")
    server.scripts = [busy, busy, answers]
    assert search_all(["a"])[0].best
    assert len(server.asked) == 3
    server.scripts = [busy]
    with pytest.raises(SearchError, match="it is overloaded") as caught:
        search_all(["a"], {"retries": 1})
    assert (caught.value.reason, caught.value.status) == ("overloaded", 503)
    assert len(server.asked) == 5


@pytest.mark.parametrize(
    ("script", "reason", "status"),
    [
        (refusal(404, "unknown_tenant"), "unknown_tenant", 404),
        (refusal(401, "unauthenticated"), "unauthenticated", 401),
        (lambda _: (200, {}, b"<html>"), "NOT_A_SERVER", 200),
        (lambda _: (200, {}, b"[]"), "NOT_A_SERVER", 200),
        (lambda _: (302, {"Location": "/elsewhere"}, b""), "NOT_A_SERVER", 302),
        (lambda _: (500, {}, b'{"error": 1}'), "NOT_A_SERVER", 500),
    ],
)
def test_a_refusal_is_an_error_with_its_reason(
    search_all: Callable[..., list[Answer]],
    server: Server,
    script: Script,
    reason: str,
    status: int,
) -> None:
    server.scripts = [script]
    with pytest.raises(SearchError) as caught:
        search_all(["a"])
    assert (caught.value.reason, caught.value.status) == (reason, status)
    assert len(server.asked) == 1


ROUTES = b"Path '/v1' not found. Ping http://.../-/routes for available routes."


@pytest.mark.parametrize("starting", [(503, {}, b"<html>"), (404, {}, ROUTES)])
def test_an_endpoint_that_is_starting_is_asked_again(
    search_all: Callable[..., list[Answer]],
    server: Server,
    starting: tuple[int, dict[str, str], bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_module, "_LONGEST_WAIT_S", 0.0)
    server.scripts = [lambda _: starting, answers]
    assert search_all(["a"])[0].best
    server.scripts = [lambda _: starting]
    with pytest.raises(SearchError, match="is not ready: it is starting") as caught:
        search_all(["a"], {"retries": 1})
    assert caught.value.reason == "NOT_READY"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "nothing listens there: start the endpoint, or correct the address"),
        ("http://nowhere.invalid:1", "its host's name is unknown: correct the address"),
        ("https://{here}", "it does not speak TLS: does its address begin with http://?"),
    ],
)
def test_an_endpoint_that_is_not_there_is_unreachable_and_the_remedy_is_told(
    search_all: Callable[..., list[Answer]], server: Server, address: str, said: str
) -> None:
    address = address.replace("{here}", server.address)
    with pytest.raises(SearchError) as caught:
        search_all(["a"], {"address": address})
    assert str(caught.value) == f"no answer from {address}: {said}"
    assert (caught.value.reason, caught.value.status) == ("UNREACHABLE", None)


def test_an_answer_that_takes_too_long_is_told(
    search_all: Callable[..., list[Answer]], server: Server
) -> None:
    def slow(body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        time.sleep(0.3)
        return answers(body)

    server.scripts = [slow]
    with pytest.raises(
        SearchError, match=r"took longer than 0\.05 s: try again, or raise timeout_s"
    ):
        search_all(["a"], {"timeout_s": 0.05})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"address": "ftp://host"}, "not an address: ftp://host: expected http://HOST:PORT"),
        ({"address": "http://"}, "not an address: http://: expected http://HOST:PORT"),
        ({"token": "a", "token_file": "b"}, "give token or token_file, not both"),
        ({"token": "secret\n"}, "token: not a token as `adapterdistill token new` prints it"),
        ({"token": "sécret"}, "token: not a token"),
        ({"token": ""}, "token: not a token"),
        (
            {"token_file": "/nowhere/acme.token"},
            "token_file /nowhere/acme.token: No such file or directory: name the file that holds "
            "the tenant's token",
        ),
        ({"token_file": "/"}, "token_file /: Is a directory"),
        ({"token_file": "/dev/null"}, "token_file /dev/null: not a token"),
    ],
)
def test_a_mistake_of_the_caller_is_told_at_once(options: dict[str, str], message: str) -> None:
    with pytest.raises(SettingError) as told:
        Client(**{"address": "127.0.0.1:1", "tenant": "acme", **options})
    assert str(told.value).startswith(message) and "cret" not in str(told.value)


def classes(body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    pairs = body.get("text_pairs") or [""] * len(body["texts"])
    found = {
        "tenant": "acme",
        "adapter": {"name": "faq", "version": VERSION, "form": "multitask_kd", "alias": "live"},
        "task": body["task"],
        "results": [
            {"ranked": [{"label": text + pair, "probability": 0.75}]}
            for text, pair in zip(body["texts"], pairs, strict=True)
        ],
    }
    return 200, {}, json.dumps(found).encode()


def test_texts_and_pairs_are_classified_in_requests_of_at_most_64(server: Server) -> None:
    server.scripts = [classes]
    texts = [f"t{n}" for n in range(70)]
    with Client(server.address, "acme", token="s3cret") as client:
        found = client.classify("mood", texts, top_k=1)
        [pair] = client.classify("same", ["a"], ["b"])
        with pytest.raises(ValueError, match="1 texts but 2 text_pairs"):
            client.classify("same", ["a"], ["b", "c"])
    assert [one.label for one in found] == texts
    assert (pair.ranked, pair.version, pair.alias) == ((("ab", 0.75),), VERSION, "live")
    path, body, token = server.asked[-1]
    assert (path, token) == ("/v1/tenants/acme/classify", "Bearer s3cret")
    assert body == {
        "task": "same", "texts": ["a"], "text_pairs": ["b"], "top_k": 5, "alias": "live"
    }  # fmt: skip
    assert [len(body["texts"]) for _, body, _ in server.asked] == [64, 6, 1]

    async def again() -> str:
        async with AsyncClient(server.address, "acme") as client:
            [only] = await client.classify("mood", ["x"])
            return only.label

    assert asyncio.run(again()) == "x"


def test_the_client_imports_httpx_alone() -> None:
    assert client_module.__file__
    files = Path(client_module.__file__).parent.glob("*.py")
    found = {
        name.partition(".")[0]
        for path in files
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and not node.level  # of its own files
            else []
        )
    }
    assert found - sys.stdlib_module_names == {"httpx"}
