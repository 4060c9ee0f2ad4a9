"""`POST /v1/embeddings`: off by default, for operators, with the adapter that made the vectors."""

import base64
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from adapterdistill.backbone import Encoder
from adapterdistill.serve.engine.engine import Engine, LiveTenant
from adapterdistill.serve.http.api import build_api
from adapterdistill.serve.queue.batcher import Batcher
from adapterdistill.serve.queue.fair_queue import QueueLimits
from adapterdistill.serve.tokens import Tokens, new_token
from tests.serving_store import MadeTenant, make_tenant, put_live

PATH = "/v1/embeddings"
TEXTS = ["where is my parcel", "how do I pay"]


@pytest.fixture
def acme(encoder: Encoder) -> MadeTenant:
    return make_tenant(encoder, "acme", seed=1)


@pytest.fixture
def engine(store: Path, encoder: Encoder, acme: MadeTenant) -> Iterator[Engine]:
    put_live(store, acme)
    engine = Engine(encoder, store)
    engine.refresh()
    yield engine
    engine.close()


@pytest.fixture
def batcher(engine: Engine) -> Iterator[Batcher]:
    batcher = Batcher(engine.search, QueueLimits())
    yield batcher
    batcher.close()


@pytest.fixture
def client(engine: Engine, batcher: Batcher) -> Iterator[TestClient]:
    with TestClient(build_api(engine, batcher, time.monotonic, embeddings=True)) as client:
        yield client


def test_vectors_are_those_of_the_engine_and_name_their_adapter(
    client: TestClient, engine: Engine
) -> None:
    answer = client.post(PATH, json={"model": "acme", "input": TEXTS}).json()
    live = engine.admit("acme")
    assert isinstance(live, LiveTenant)
    expected = engine.embed(TEXTS, [live, live]).numpy()
    assert [one["index"] for one in answer["data"]] == [0, 1]
    found = np.array([one["embedding"] for one in answer["data"]])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert answer["adapter"]["version"] == live.manifest.version
    assert (answer["object"], answer["model"]) == ("list", "acme")
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] > 8


def test_one_text_may_be_given_as_text_and_vectors_taken_as_base64(client: TestClient) -> None:
    plain = client.post(PATH, json={"model": "acme", "input": TEXTS[0]}).json()
    packed = client.post(
        PATH, json={"model": "acme", "input": [TEXTS[0]], "encoding_format": "base64"}
    ).json()
    raw = base64.b64decode(packed["data"][0]["embedding"])
    vector = np.frombuffer(raw, "<f4")
    np.testing.assert_allclose(vector, plain["data"][0]["embedding"], atol=1e-6)


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"model": "nobody", "input": "hi"}, 404, "nobody"),
        ({"model": "ACME", "input": "hi"}, 422, "model must be a tenant's name"),
        ({"model": "acme", "input": []}, 422, "input must be a text of 1 to 2000 characters"),
        ({"model": "acme", "input": ["x"] * 65}, 422, "or a list of 1 to 64"),
        ({"model": "acme", "input": ["zorblatt" * 999]}, 422, "input[0] must be text of 1 to"),
        ({"model": "acme", "input": "x", "encoding_format": "int"}, 422, "float or base64"),
        ({"model": "acme", "input": "x", "dimensions": 3}, 422, "model, input, encoding_format"),
        ({"input": "x"}, 422, "model is missing"),
    ],
)
def test_what_cannot_be_embedded_is_told(
    client: TestClient, body: dict[str, object], status: int, says: str
) -> None:
    answer = client.post(PATH, json=body)
    assert (answer.status_code, says in answer.json()["message"]) == (status, True), answer.text
    assert "zorblatt" not in answer.text


def test_it_is_off_by_default(engine: Engine, batcher: Batcher) -> None:
    with TestClient(build_api(engine, batcher, time.monotonic)) as client:
        assert client.post(PATH, json={"model": "acme", "input": "hi"}).status_code == 404
        assert PATH not in client.get("/openapi.json").json()["paths"]


def test_it_takes_an_operators_token_and_no_tenants(
    engine: Engine, batcher: Batcher, tmp_path: Path
) -> None:
    file = tmp_path / "tokens.json"
    operator, _ = new_token(file, None, days=1)
    tenant, _ = new_token(file, "acme", days=1)
    api = build_api(engine, batcher, time.monotonic, tokens=Tokens(file), embeddings=True)
    with TestClient(api) as client:
        body = {"model": "acme", "input": "hi"}
        for token, status in ((operator, 200), (tenant, 401), ("", 401)):
            headers = {"Authorization": f"Bearer {token}"}
            assert client.post(PATH, json=body, headers=headers).status_code == status
