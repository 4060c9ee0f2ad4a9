"""Bearer tokens over HTTP: open paths, guarded paths, and refusals that reveal nothing."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from adapterdistill.backbone import Encoder
from adapterdistill.serve.engine.engine import Engine
from adapterdistill.serve.http.api import build_api
from adapterdistill.serve.queue.batcher import Batcher
from adapterdistill.serve.queue.fair_queue import QueueLimits
from adapterdistill.serve.tokens import Tokens, new_token
from tests.serving_store import make_tenant, put_live

HELD = ("acme", "other", "absent", None)  # `absent` has a token but no adapter


class Guarded:
    def __init__(self, client: TestClient, path: Path) -> None:
        self.client = client
        self.texts = {holder: new_token(path, holder, days=1)[0] for holder in HELD}
        self.expired = new_token(path, "acme", days=-1)[0]

    def headers(self, holder: str | None) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.texts[holder]}"}


@pytest.fixture
def guarded(store: Path, encoder: Encoder, tmp_path: Path) -> Iterator[Guarded]:
    for seed, tenant in enumerate(("acme", "other", "bare")):  # `bare` has an adapter but no token
        put_live(store, make_tenant(encoder, tenant, seed=seed))
    engine = Engine(encoder, store)
    engine.refresh()
    batcher = Batcher(engine.search, QueueLimits())
    path = tmp_path / "tokens.json"
    new_token(path, "first", days=1)
    tokens = Tokens(path)
    api = build_api(engine, batcher, time.monotonic, tokens=tokens, log_requests=True)
    with TestClient(api) as client:
        guarded = Guarded(client, path)
        tokens.reload()
        yield guarded
    batcher.close()


def test_a_tenant_s_token_opens_that_tenant_s_paths(guarded: Guarded) -> None:
    for tenant in ("acme", "other"):
        headers = guarded.headers(tenant)
        search = f"/v1/tenants/{tenant}/search"
        answer = guarded.client.post(search, json={"query": "hi"}, headers=headers)
        assert answer.status_code == 200 and answer.json()["tenant"] == tenant
        assert guarded.client.get(f"/v1/tenants/{tenant}", headers=headers).status_code == 200
    absent = guarded.client.get("/v1/tenants/absent", headers=guarded.headers("absent"))
    assert absent.status_code == 404
    lower = {"Authorization": guarded.headers("acme")["Authorization"].replace("B", "b", 1)}
    assert guarded.client.get("/v1/tenants/acme", headers=lower).status_code == 200


def test_every_refusal_is_one_and_the_same_and_says_nothing_of_tenants(guarded: Guarded) -> None:
    token = guarded.texts["acme"]
    given = [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": token},
        {"Authorization": f"Basic {token}"},
        {"Authorization": f"Bearer {token}x"},
        {"Authorization": f"Bearer {guarded.expired}"},
        guarded.headers("other"),
        guarded.headers(None),
    ]
    paths = ["/v1/tenants/acme", "/v1/tenants/bare", "/v1/tenants/nobody", "/v1/tenants/Not%20One"]
    requests = [(path, headers) for path in paths for headers in given]
    requests += [("/v1/tenants/nobody", guarded.headers("acme"))]
    told = set()
    for path, headers in requests:
        for response in (
            guarded.client.get(path, headers=headers),
            guarded.client.post(f"{path}/search", content=b"{", headers=headers),
            guarded.client.post(f"{path}/search", json={"query": "hi"}, headers=headers),
            guarded.client.put(f"{path}/search", headers=headers),
        ):
            told.add((response.status_code, response.text))
            assert set(response.headers) == {"content-length", "content-type", "www-authenticate"}
            assert token not in response.text
    assert len(told) == 1
    assert next(iter(told))[0] == 401


def test_two_tokens_in_one_request_are_none(guarded: Guarded) -> None:
    one = ("Authorization", f"Bearer {guarded.texts['acme']}")
    assert guarded.client.get("/v1/tenants/acme", headers=[one]).status_code == 200
    assert guarded.client.get("/v1/tenants/acme", headers=[one, one]).status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        "/v1/tenants/acme/../other",
        "/v1/tenants/acme%2f..%2fother/search",
        "//v1/tenants/other",
        "/v1/tenants//other",
        "/v1/tenants/other/",
        "/V1/tenants/other",
        "/healthz/",
        "/healthz%2f..%2fmetrics",
        "/",
    ],
)
def test_no_spelling_of_a_path_gets_around_the_guard(guarded: Guarded, path: str) -> None:
    """Crooked paths are refused or not found: never an answer about the other tenant."""
    response = guarded.client.get(path, headers=guarded.headers("acme"), follow_redirects=False)
    assert response.status_code in (401, 404, 422)


def test_health_is_open_descriptions_are_every_holder_s_and_the_rest_is_the_operator_s(
    guarded: Guarded,
) -> None:
    assert guarded.client.get("/healthz").status_code == 200
    opens = {"/metrics": 401, "/v1/encoders": 401, "/docs": 200, "/openapi.json": 200}
    for path, for_a_tenant in opens.items():
        assert guarded.client.get(path).status_code == 401
        expired = {"Authorization": f"Bearer {guarded.expired}"}
        assert guarded.client.get(path, headers=expired).status_code == 401
        told = guarded.client.get(path, headers=guarded.headers("acme"))
        assert told.status_code == for_a_tenant
        assert guarded.client.get(path, headers=guarded.headers(None)).status_code == 200
    assert guarded.client.get("/nothing").status_code == 401


def test_no_token_is_in_a_log_a_metric_or_an_error(
    guarded: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    bodies = []
    for holder in HELD:
        for path in ("/v1/tenants/acme", "/v1/tenants/acme/search", "/metrics", "/nothing"):
            headers = {**guarded.headers(holder), "X-Request-Id": "visible-7"}
            bodies.append(guarded.client.post(path, content=b"{", headers=headers).text)
            bodies.append(guarded.client.get(path, headers=headers).text)
    written = caplog.text + "".join(bodies)
    assert "visible-7" in caplog.text
    for text in guarded.texts.values():
        assert text not in written and text[4:] not in written


def test_the_description_asks_for_a_token_where_the_guard_does(guarded: Guarded) -> None:
    described = guarded.client.get("/openapi.json", headers=guarded.headers("acme")).json()
    assert described["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    for path, operations in described["paths"].items():
        [operation] = operations.values()
        assert operation.get("security") == (None if path == "/healthz" else [{"token": []}])
