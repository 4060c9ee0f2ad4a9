"""What an HTTP client may send that is unusual but fair, and what it is told."""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from pydantic import ValidationError
from starlette.testclient import TestClient
from starlette.types import Message

from adapterdistill.backbone import Encoder
from adapterdistill.serve.engine.engine import Engine
from adapterdistill.serve.engine.items import SearchItem, SearchOutcome
from adapterdistill.serve.http.api import build_api
from adapterdistill.serve.http.classify import ClassifyRequest
from adapterdistill.serve.http.embeddings import EmbeddingsRequest
from adapterdistill.serve.http.fault_words import MUST_BE, sentence
from adapterdistill.serve.http.feedback import FeedbackRequest
from adapterdistill.serve.http.schema import SearchRequest
from adapterdistill.serve.queue.batcher import Batcher
from adapterdistill.serve.queue.fair_queue import QueueLimits
from tests.serving_store import make_tenant, put_live

SEARCH, TENANT = "/v1/tenants/acme/search", "/v1/tenants/acme"
HI = b'{"query": "hi"}'
BODY = "the body "
AS_JSON = BODY + "must be sent with Content-Type: application/json"
JSON = {"Content-Type": "application/json"}


class Edge(NamedTuple):
    what: str
    method: str
    path: str
    headers: dict[str, str]
    content: bytes
    status: int
    told: str = ""
    """The message of a refusal, or the `Allow` header."""


EDGES = [
    Edge("JSON without a type", "POST", SEARCH, {}, HI, 200),
    Edge("broken JSON without a type", "POST", SEARCH, {}, b"{", 422, BODY + "is not valid JSON"),
    Edge("no body and no type", "POST", SEARCH, {}, b"", 422, BODY + "is missing"),
    Edge("a page's JSON without a type", "POST", SEARCH, {"Origin": "null"}, HI, 422, AS_JSON),
    Edge("an empty type", "POST", SEARCH, {"Content-Type": ""}, HI, 422, AS_JSON),
    Edge("a form", "POST", SEARCH, {"Content-Type": "text/plain"}, HI, 422, AS_JSON),
    Edge(
        "no JSON by name", "POST", SEARCH, {"Content-Type": "application/xjson"}, HI, 422, AS_JSON
    ),
    Edge(
        "JSON with a charset",
        "POST",
        SEARCH,
        {"Content-Type": "Application/JSON; charset=utf-8"},
        HI,
        200,
    ),
    Edge("a kind of JSON", "POST", SEARCH, {"Content-Type": "application/x+json"}, HI, 200),
    Edge("a mark in front", "POST", SEARCH, JSON, b"\xef\xbb\xbf" + HI, 200),
    Edge("UTF-16", "POST", SEARCH, JSON, HI.decode().encode("utf-16"), 200),
    Edge(
        "a long query",
        "POST",
        SEARCH,
        JSON,
        b'{"query": "%s"}' % (b"n" * 2001),
        422,
        "query must be text of 1 to 2000 characters",
    ),
    Edge(
        "a query beside too many",
        "POST",
        SEARCH,
        JSON,
        b'{"queries": ["a", 5, " "]}',
        422,
        "queries[1] must be text of 1 to 2000 characters; queries[2] is blank",
    ),
    *(
        Edge(
            f"top_k {given}",
            "POST",
            SEARCH,
            JSON,
            b'{"query": "hi", "top_k": %s}' % given.encode(),
            422,
            "top_k must be a whole number from 1 to 50",
        )
        for given in ("0", "51", "1.5", '"5"', "null", "true", "-9223372036854775809")
    ),
    Edge(
        "an unknown alias",
        "POST",
        SEARCH,
        JSON,
        b'{"query": "hi", "alias": "next"}',
        422,
        "alias must be live or canary",
    ),
    Edge(
        "explain in words",
        "POST",
        SEARCH,
        JSON,
        b'{"query": "hi", "explain": "yes"}',
        422,
        "explain must be true or false",
    ),
    Edge(
        "a tenant in capitals",
        "GET",
        "/v1/tenants/Acme",
        {},
        b"",
        422,
        "tenant must be a name of 1 to 63 lower-case letters, digits, '.', '_' and '-', with a "
        "letter or a digit at each end",
    ),
    *(
        Edge(f"HEAD {path}", "HEAD", path, {}, b"", 200)
        for path in ("/healthz", TENANT, "/metrics", "/docs", "/openapi.json")
    ),
    Edge("HEAD of a search", "HEAD", SEARCH, {}, b"", 405, "OPTIONS, POST"),
    *(
        Edge(f"OPTIONS {path}", "OPTIONS", path, {}, b"", 204, "GET, HEAD, OPTIONS")
        for path in ("/healthz", TENANT, "/metrics", "/docs")
    ),
    Edge("OPTIONS of a search", "OPTIONS", SEARCH, {}, b"", 204, "OPTIONS, POST"),
    Edge("OPTIONS of no path", "OPTIONS", "/none", {}, b"", 404, "there is no such path"),
    Edge("GET of a search", "GET", SEARCH, {}, b"", 405, "OPTIONS, POST"),
    Edge("TRACE", "TRACE", "/healthz", {}, b"", 405, "GET, HEAD, OPTIONS"),
    Edge("a method of its own", "BREW", TENANT, {}, b"", 405, "GET, HEAD, OPTIONS"),
    Edge("a slash too many", "GET", "/healthz/", {}, b"", 404, "there is no such path"),
]


@pytest.fixture(scope="module")
def client(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    store: Path = tmp_path_factory.mktemp("store")
    put_live(store, make_tenant(encoder, "acme", seed=1))
    engine = Engine(encoder, store)
    engine.refresh()
    batcher = Batcher(engine.search, QueueLimits())
    with TestClient(build_api(engine, batcher, time.monotonic), follow_redirects=False) as client:
        yield client
    batcher.close()
    engine.close()


@pytest.mark.parametrize("edge", EDGES, ids=[edge.what for edge in EDGES])
def test_every_edge_of_http_is_answered_or_refused_in_plain_words(
    edge: Edge, client: TestClient
) -> None:
    response = client.request(
        edge.method, edge.path, headers=edge.headers, content=edge.content or None
    )
    assert response.status_code == edge.status
    if edge.status in (204, 405):
        assert response.headers["Allow"] == edge.told
    elif edge.told:
        assert response.json()["message"] == edge.told
    if edge.method == "HEAD" or edge.status == 204:
        assert not response.content


def test_a_head_is_that_of_the_answer_to_get(client: TestClient) -> None:
    head, get = client.head("/docs"), client.get("/docs")
    assert head.headers == get.headers and get.content


def test_every_field_of_a_search_has_a_sentence_with_its_bounds() -> None:
    bodies = (SearchRequest, ClassifyRequest, FeedbackRequest, EmbeddingsRequest)
    fields = {name for body in bodies for name in body.model_fields}
    assert {*fields, "tenant", "the body"} == MUST_BE.keys()
    schema = SearchRequest.model_json_schema()["properties"]
    assert str(schema["top_k"]["maximum"]) in MUST_BE["top_k"]
    assert str(schema["query"]["anyOf"][0]["maxLength"]) in MUST_BE["query"]
    assert str(schema["queries"]["anyOf"][0]["maxItems"]) in MUST_BE["queries"]


def test_a_sentence_repeats_neither_values_nor_invented_keys() -> None:
    secret = "canary-4711"
    for given in (
        {"query": [secret]},
        {secret: secret},
        {"queries": {secret: 1}},
        [secret],
        secret,
    ):
        with pytest.raises(ValidationError) as refused:
            SearchRequest.model_validate(given)
        assert not any(secret in sentence(fault, MUST_BE) for fault in refused.value.errors())


def test_a_search_whose_client_has_gone_is_cancelled_and_leaves_the_queue(
    store: Path, encoder: Encoder
) -> None:
    put_live(store, make_tenant(encoder, "acme", seed=1))
    engine = Engine(encoder, store)
    engine.refresh()
    gate = threading.Event()

    def slow(items: Sequence[SearchItem]) -> list[SearchOutcome]:
        assert gate.wait(30)
        return engine.search(items)

    async def scenario() -> None:
        batcher, sent = Batcher(slow, QueueLimits()), []
        api = build_api(engine, batcher, lambda: 0.0)
        gone = asyncio.Event()

        async def send(message: Message) -> None:
            sent.append(message)

        async def ask() -> None:
            body = iter([{"type": "http.request", "body": HI, "more_body": False}])

            async def receive() -> Message:
                for message in body:
                    return message
                await gone.wait()
                return {"type": "http.disconnect"}

            headers = [(b"content-type", b"application/json")]
            scope = {"type": "http", "method": "POST", "path": SEARCH, "headers": headers}
            await api({**scope, "query_string": b""}, receive, send)

        waiting = [asyncio.create_task(ask()) for _ in range(2)]
        while batcher.num_queued != 1:  # the first is with the engine, the second waits
            await asyncio.sleep(0.001)
        gone.set()
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(one) for one in ended] == [asyncio.CancelledError] * 2
        assert (batcher.num_queued, sent) == (0, [])
        gate.set()
        await batcher.drain()
        batcher.close()

    asyncio.run(scenario())
    engine.close()
