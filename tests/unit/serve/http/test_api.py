"""The HTTP interface over a real engine, without Ray."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from html import unescape
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from adapterdistill.backbone import Encoder
from adapterdistill.serve.engine.engine import Engine, SearchItem
from adapterdistill.serve.http.api import build_api
from adapterdistill.serve.http.schema import SearchResponse
from adapterdistill.serve.queue.batcher import Batcher, SearchOutcome
from adapterdistill.serve.queue.fair_queue import QueueLimits
from tests.serving_store import MadeTenant, make_tenant, put_live

SECRET = "canary-4711"


@pytest.fixture
def acme(encoder: Encoder) -> MadeTenant:
    return make_tenant(encoder, "acme", seed=1)


OF_EXPLANATIONS = {"results": {"__all__": {"decided_by": True, "ranked": {"__all__": {"views"}}}}}
"""Fields that only answers to requests with `explain` have."""


@pytest.fixture
def client(store: Path, encoder: Encoder, acme: MadeTenant) -> Iterator[TestClient]:
    put_live(store, acme)
    put_live(store, make_tenant(encoder, "strict", seed=2, threshold=1.0))
    engine = Engine(encoder, store)
    engine.refresh()
    batcher = Batcher(engine.search, QueueLimits(max_batch_tokens=64))
    with TestClient(build_api(engine, batcher, time.monotonic)) as client:
        yield client
    batcher.close()


def test_an_explanation_is_given_to_those_who_ask_for_it(client: TestClient) -> None:
    plain = client.post("/v1/tenants/acme/search", json={"query": "hi"}).json()
    body = {"query": "hi", "explain": True}
    explained = client.post("/v1/tenants/acme/search", json=body).json()
    [result] = explained["results"]
    assert result.pop("decided_by") == "cosine"  # without a scorer there is no other view
    for faq in result["ranked"]:
        assert faq.pop("views") == {"cosine": faq["score"]}
    assert explained == plain
    body["explain"] = False
    assert client.post("/v1/tenants/acme/search", json=body).json() == plain


def test_one_query_is_answered_with_the_adapter_s_digest(
    client: TestClient, acme: MadeTenant, encoder: Encoder
) -> None:
    response = client.post("/v1/tenants/acme/search", json={"query": "hi", "top_k": 2})
    assert response.status_code == 200
    expected = acme.expected(encoder, "hi")[:2]
    faqs = {faq.faq_id: faq for faq in acme.bundle.faqs}
    assert response.json() == {
        "tenant": "acme",
        "adapter": {
            "name": "faq",
            "version": acme.bundle.manifest.version,
            "form": "adapter",
            "alias": "live",
        },
        "results": [
            {
                "ranked": [
                    {
                        "faq_id": faq_id,
                        "question": faqs[faq_id].question,
                        "answer": faqs[faq_id].answer,
                        "score": pytest.approx(score, abs=2e-5),
                    }
                    for faq_id, score in expected
                ],
                "abstained": False,
                "confidence": None,
            }
        ],
    }


def test_many_queries_are_answered_in_order(
    client: TestClient, acme: MadeTenant, encoder: Encoder
) -> None:
    texts = [f"question number {n}" for n in range(64)]
    results = client.post("/v1/tenants/acme/search", json={"queries": texts}).json()["results"]
    assert [r["ranked"][0]["faq_id"] for r in results] == [
        acme.expected(encoder, text)[0][0] for text in texts
    ]
    assert {len(r["ranked"]) for r in results} == {5}


def test_abstaining_is_said(client: TestClient) -> None:
    response = client.post("/v1/tenants/strict/search", json={"query": "hi"})
    assert [r["abstained"] for r in response.json()["results"]] == [True]


def test_an_answer_has_every_field_that_is_described_and_no_other(client: TestClient) -> None:
    for body in ({"query": "hi"}, {"queries": ["hi", "ho"], "top_k": 1}):
        answer = client.post("/v1/tenants/acme/search", json=body).json()
        described = SearchResponse.model_validate(answer)
        assert answer == described.model_dump(exclude=OF_EXPLANATIONS)
        explained = client.post("/v1/tenants/acme/search", json=body | {"explain": True}).json()
        described = SearchResponse.model_validate(explained)
        assert explained == described.model_dump(exclude_unset=True)


def test_only_what_is_said_to_be_json_is_read_as_json(client: TestClient) -> None:
    def status(content_type: str) -> int:
        headers = {"Content-Type": content_type}
        return client.post(
            "/v1/tenants/acme/search", content=b'{"query": "hi"}', headers=headers
        ).status_code

    assert status("application/json; charset=utf-8") == 200
    # A web page of another origin can send these without being asked for leave first.
    for content_type in ("text/plain", "application/x-www-form-urlencoded", ""):
        assert status(content_type) == 422


def assert_error(response: httpx.Response, status: int, reason: str) -> None:
    assert response.status_code == status
    assert response.json().keys() == {"reason", "message"}
    assert response.json()["reason"] == reason
    assert SECRET not in response.text


@pytest.mark.parametrize("path", ["/v1/tenants/nobody/search", f"/v1/tenants/{'x' * 63}/search"])
def test_an_unknown_tenant_is_404(client: TestClient, path: str) -> None:
    assert_error(client.post(path, json={"query": SECRET}), 404, "UNKNOWN_TENANT")


@pytest.mark.parametrize("name", ["Acme", "a%20b", "-acme", "acme%0a", "x" * 64, "%2e%2e", "a%00"])
def test_an_invalid_tenant_name_is_422(client: TestClient, name: str) -> None:
    response = client.post(f"/v1/tenants/{name}/search", json={"query": SECRET})
    assert_error(response, 422, "INVALID_REQUEST")
    assert_error(client.get(f"/v1/tenants/{name}"), 422, "INVALID_REQUEST")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"query": ""},
        {"query": " \n\t"},
        {"query": SECRET * 200},
        {"query": None, "queries": None},
        {"query": 5},
        {"queries": []},
        {"queries": [SECRET, ""]},
        {"queries": [SECRET] * 65},
        {"queries": SECRET},
        {"query": SECRET, "queries": [SECRET]},
        {"query": SECRET, "top_k": 0},
        {"query": SECRET, "top_k": 51},
        {"query": SECRET, "top_k": True},
        {"query": SECRET, "top_k": SECRET},
        {"query": SECRET, "explain": SECRET},
        {"query": SECRET, "explain": 1},
        {SECRET: SECRET},
        {"query": SECRET, SECRET: 1},
        [SECRET],
        SECRET,
        None,
    ],
)
def test_malformed_input_is_422_and_not_echoed(client: TestClient, body: object) -> None:
    response = client.post("/v1/tenants/acme/search", json=body)
    assert_error(response, 422, "INVALID_REQUEST")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"query": "' + SECRET.encode(),
        b'{"query": "' + SECRET.encode() + b'\xff"}',
        b'{"query": "' + SECRET.encode() + b'\\ud800"}',
        b"[" * 100_000,
        b'{"query": "' + SECRET.encode() + b'", "top_k": NaN}',
    ],
    ids=["empty", "cut", "bad-utf8", "lone-surrogate", "deep", "nan"],
)
def test_a_body_that_is_no_json_is_422_and_not_echoed(client: TestClient, content: bytes) -> None:
    response = client.post(
        "/v1/tenants/acme/search", content=content, headers={"Content-Type": "application/json"}
    )
    assert_error(response, 422, "INVALID_REQUEST")


def test_a_body_too_large_to_be_sound_is_413(client: TestClient) -> None:
    def parts() -> Iterator[bytes]:  # without a length in the head
        yield b'{"query": "' + SECRET.encode()
        for _ in range(40):
            yield b"x" * (1 << 16)

    headers = {"Content-Type": "application/json"}
    for content in (parts(), b'"' + SECRET.encode() + b"x" * (2 << 20)):
        response = client.post("/v1/tenants/acme/search", content=content, headers=headers)
        assert_error(response, 413, "REQUEST_TOO_LARGE")


def test_the_largest_sound_body_is_read(client: TestClient) -> None:
    body = {"queries": ["\U0001f600" * 2000] * 64}
    assert client.post("/v1/tenants/acme/search", json=body).status_code == 200


def test_a_query_may_be_2000_characters_of_any_script(client: TestClient) -> None:
    for text in ("a" * 2000, "\u00fc\U0001f600\u6c34 " * 500, "\x00\x01"):
        response = client.post("/v1/tenants/acme/search", json={"query": text})
        assert response.status_code == 200


def test_a_tenant_s_state_can_be_asked(client: TestClient, acme: MadeTenant) -> None:
    assert client.get("/v1/tenants/acme").json() == {
        "tenant": "acme",
        "adapter": {
            "name": "faq",
            "version": acme.bundle.manifest.version,
            "form": "adapter",
            "alias": "live",
        },
        "encoder": acme.bundle.manifest.encoder.name,
        "num_faqs": 5,
        "threshold": None,
        "quality": None,
        "drift": {
            "queries": 0,
            "share_abstained": None,
            "psi": None,
            "expected_psi": None,
            "drifted": False,
        },
        "candidate": None,
    }
    assert_error(client.get("/v1/tenants/nobody"), 404, "UNKNOWN_TENANT")


def test_health_counts_the_live_tenants(client: TestClient) -> None:
    health = client.get("/healthz").json()
    assert (health["status"], health["num_tenants"]) == ("ok", 2)


def test_unknown_paths_and_methods_have_the_same_error_body(client: TestClient) -> None:
    assert_error(client.get(f"/{SECRET}"), 404, "NOT_FOUND")
    assert_error(client.get("/v1/tenants/acme/search"), 405, "METHOD_NOT_ALLOWED")


def test_openapi_describes_the_search_and_its_errors(client: TestClient) -> None:
    search = client.get("/openapi.json").json()["paths"]["/v1/tenants/{tenant}/search"]["post"]
    assert search["responses"].keys() == {"200", "401", "404", "410", "413", "422", "503", "504"}
    schema = search["responses"]["422"]["content"]["application/json"]["schema"]
    assert schema["$ref"].endswith("/ErrorBody")


def test_openapi_names_tags_and_exemplifies_every_operation(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    tags = {tag["name"] for tag in described["tags"]}
    names = []
    for operations in described["paths"].values():
        for operation in operations.values():
            names.append(operation["operationId"])
            assert set(operation["tags"]) <= tags
            for status, answer in operation["responses"].items():
                if status == "204":  # it has no body
                    continue
                content = answer["content"]["application/json"]
                if content["schema"].get("$ref", "").endswith("/ErrorBody"):
                    assert f"`{next(iter(content['examples']))}`" in answer["description"], status
    assert names == [
        *("search", "classify", "giveFeedback", "getTenant", "getEncoders", "getHealth"),
    ]


def test_the_documentation_has_each_call_in_three_languages(client: TestClient) -> None:
    page = unescape(client.get("/docs").text)
    assert [page.count(f"<h4>{one}</h4>") for one in ("curl", "Python", "JavaScript")] == [6, 6, 6]
    for shown in (
        "<code>top_k</code>: integer from 1 to 50, by default 5",
        "<code>query</code>: string of 1 to 2000 characters or null",
        "<code>queries</code>: list of 1 to 64 of string of 1 to 2000 characters or null",
        """-d '{"query": "When are you open?", "top_k": 3}'""",
    ):
        assert shown in page


def test_the_documentation_loads_nothing_from_elsewhere(client: TestClient) -> None:
    assert (page := client.get("/docs")).status_code == 200
    assert page.headers["Content-Security-Policy"] == "default-src 'none'"
    assert "POST /v1/tenants/{tenant}/search" in page.text
    assert "http:" not in page.text and "https:" not in page.text
    assert "<script" not in page.text and "src=" not in page.text
    assert 'href="openapi.json"' in page.text


def client_of(store: Path, encoder: Encoder, acme: MadeTenant, batcher: Batcher) -> TestClient:
    put_live(store, acme)
    engine = Engine(encoder, store)
    engine.refresh()
    api = build_api(engine, batcher, time.monotonic)
    return TestClient(api, raise_server_exceptions=False)


def broken(items: object) -> list[SearchOutcome]:
    raise RuntimeError(SECRET)


def test_overload_is_503_with_retry_after(store: Path, encoder: Encoder, acme: MadeTenant) -> None:
    batcher = Batcher(broken, QueueLimits(max_queued=3))
    with client_of(store, encoder, acme, batcher) as client:
        response = client.post("/v1/tenants/acme/search", json={"queries": [SECRET] * 4})
    assert_error(response, 503, "OVERLOADED")
    assert int(response.headers["Retry-After"]) >= 1


def test_a_request_that_waited_for_too_long_is_504(
    store: Path, encoder: Encoder, acme: MadeTenant
) -> None:
    batcher = Batcher(broken, QueueLimits(), max_wait_ms=1000, request_timeout_s=0.01)
    with client_of(store, encoder, acme, batcher) as client:
        response = client.post("/v1/tenants/acme/search", json={"query": SECRET})
    assert_error(response, 504, "DEADLINE_EXCEEDED")
    assert int(response.headers["Retry-After"]) >= 1


def test_a_replica_that_stops_says_so_and_refuses(
    store: Path, encoder: Encoder, acme: MadeTenant
) -> None:
    batcher = Batcher(broken, QueueLimits())
    with client_of(store, encoder, acme, batcher) as client:
        batcher.close()
        response = client.post("/v1/tenants/acme/search", json={"query": SECRET})
        health = client.get("/healthz")
    assert_error(response, 503, "OVERLOADED")
    assert (health.status_code, health.json()["status"]) == (503, "draining")


def test_an_app_that_ends_answers_what_waits_first(
    store: Path, encoder: Encoder, acme: MadeTenant
) -> None:
    put_live(store, acme)
    engine = Engine(encoder, store)
    engine.refresh()
    begun = asyncio.Event()

    async def scenario() -> None:
        loop = asyncio.get_running_loop()

        def search(items: Sequence[SearchItem]) -> list[SearchOutcome]:
            loop.call_soon_threadsafe(begun.set)
            deadline = time.monotonic() + 60
            while not batcher.draining:
                assert time.monotonic() < deadline
                time.sleep(0.001)
            return list(engine.search(items))

        batcher = Batcher(search, QueueLimits())
        api = build_api(engine, batcher, time.monotonic)
        transport = httpx.ASGITransport(app=api)
        async with httpx.AsyncClient(transport=transport, base_url="http://replica") as client:
            async with api.router.lifespan_context(api):
                asked = asyncio.create_task(
                    client.post("/v1/tenants/acme/search", json={"query": "hi"})
                )
                await asyncio.wait_for(begun.wait(), 60)
            assert (await asked).status_code == 200
        batcher.close()

    asyncio.run(scenario())


def test_made_up_tenants_take_no_place_in_the_queue(store: Path, encoder: Encoder) -> None:
    batcher = Batcher(broken, QueueLimits(max_queued=0))
    with TestClient(build_api(Engine(encoder, store), batcher, time.monotonic)) as client:
        response = client.post("/v1/tenants/nobody/search", json={"query": SECRET})
    assert_error(response, 404, "UNKNOWN_TENANT")


def test_an_unforeseen_failure_is_500_without_details(
    store: Path, encoder: Encoder, acme: MadeTenant
) -> None:
    with client_of(store, encoder, acme, Batcher(broken, QueueLimits())) as client:
        response = client.post("/v1/tenants/acme/search", json={"query": SECRET})
    assert_error(response, 500, "INTERNAL")
