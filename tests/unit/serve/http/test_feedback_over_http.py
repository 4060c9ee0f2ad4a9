"""Feedback over HTTP, and the questions that are kept by themselves."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from adapterdistill.backbone import Encoder
from adapterdistill.feedback import FILE, SAMPLED, opened
from adapterdistill.serve.engine.engine import Engine
from adapterdistill.serve.engine.items import RankedFaq, SearchAnswer
from adapterdistill.serve.http.api import build_api
from adapterdistill.serve.queue.batcher import Batcher
from adapterdistill.serve.queue.fair_queue import QueueLimits
from adapterdistill.serve.queue.keeping import Keeper
from adapterdistill.serve.queue.searching import Searcher
from tests.serving_store import make_tenant, put_live

PATH = "/v1/tenants/acme/feedback"


@pytest.fixture
def keeper(store: Path) -> Iterator[Keeper]:
    keeper = Keeper(store, draw=lambda: 1.0)
    yield keeper
    keeper.close()


@pytest.fixture
def client(store: Path, encoder: Encoder, keeper: Keeper) -> Iterator[TestClient]:
    put_live(store, make_tenant(encoder, "acme", seed=1))
    put_live(store, make_tenant(encoder, "strict", seed=2, threshold=1.0))
    engine = Engine(encoder, store)
    engine.refresh()
    batcher = Batcher(engine.search, QueueLimits(max_batch_tokens=64))
    searcher = Searcher(engine, batcher, keeper=keeper)
    api = build_api(engine, batcher, time.monotonic, searcher=searcher, feedback_store=store)
    with TestClient(api) as client:
        yield client
    batcher.close()


def test_a_verdict_is_kept_beside_the_tenants_bundles(client: TestClient, store: Path) -> None:
    for body in (
        {"query": "pay", "verdict": "right", "faq_id": "acme-1"},
        {"query": "match", "verdict": "out_of_scope"},
        {"query": "bad", "verdict": "wrong"},
    ):
        response = client.post(PATH, json=body)
        assert (response.status_code, response.content) == (204, b"")
    with opened(store, "acme") as kept:
        found = {one.text: (one.label, one.wrong) for one in kept.questions()}
    assert found == {"pay": ("acme-1", False), "match": ("", False), "bad": (None, True)}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            {"query": "a", "verdict": "right", "faq_id": "canary"},
            "faq_id is not an FAQ",
        ),
        ({"query": "a", "verdict": "right"}, "must have a faq_id with the verdict right"),
        ({"query": "a", "verdict": "wrong", "faq_id": "acme-1"}, "only then"),
        ({"query": "a", "verdict": "maybe"}, "verdict must be right, wrong or out_of_scope"),
        ({"query": "", "verdict": "wrong"}, "query must be text of 1 to 2000 characters"),
        ({"verdict": "wrong"}, "query is missing"),
        ({"query": "a", "verdict": "wrong", "x": 1}, "its fields are query, verdict, faq_id"),
    ],
)
def test_a_faulty_verdict_is_refused_and_nothing_is_kept(
    client: TestClient, store: Path, body: dict[str, str], message: str
) -> None:
    response = client.post(PATH, json=body)
    assert response.status_code == 422 and message in response.json()["message"]
    assert "canary" not in response.text
    assert not (store / "acme" / FILE).exists()


def test_an_unknown_tenant_and_a_deployment_without_feedback_are_404(
    client: TestClient, store: Path, encoder: Encoder
) -> None:
    body = {"query": "a", "verdict": "wrong"}
    response = client.post("/v1/tenants/nobody/feedback", json=body)
    assert (response.status_code, response.json()["reason"]) == (404, "UNKNOWN_TENANT")
    engine = Engine(encoder, store)
    batcher = Batcher(engine.search, QueueLimits())
    with TestClient(build_api(engine, batcher, time.monotonic)) as without:
        response = without.post(PATH, json=body)
    batcher.close()
    assert (response.status_code, response.json()["reason"]) == (404, "NO_FEEDBACK")


def test_a_file_that_cannot_be_written_is_told_without_its_place(
    client: TestClient, store: Path
) -> None:
    (store / "acme" / FILE).mkdir(parents=True)
    response = client.post(PATH, json={"query": "canary-4711", "verdict": "wrong"})
    assert (response.status_code, response.json()["reason"]) == (500, "FILE_ERROR")
    assert str(store) not in response.text and "canary" not in response.text


def test_questions_that_are_turned_away_are_kept_and_others_are_not(
    client: TestClient, store: Path, keeper: Keeper
) -> None:
    for tenant in ("acme", "strict"):
        body = {"queries": ["canary-4711", "parcel"]}
        assert client.post(f"/v1/tenants/{tenant}/search", json=body).status_code == 200
    keeper.close()
    with opened(store, "strict") as kept:
        assert {one.text: one.faq_id for one in kept.questions()} == {
            "canary-4711": None,
            "parcel": None,
        }
    with opened(store, "acme") as kept:
        assert kept.questions() == []
    files = [file for file in store.rglob("*") if file.is_file()]
    holders = [file for file in files if b"canary-4711" in file.read_bytes()]
    assert holders == [store / "strict" / FILE]


def test_what_the_keeper_cannot_write_is_counted_and_answers_go_on(
    client: TestClient, store: Path, keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    (store / "strict" / FILE).mkdir(parents=True)
    body = {"query": "canary-4711"}
    assert client.post("/v1/tenants/strict/search", json=body).status_code == 200
    keeper.close()
    assert keeper.dropped == 1
    assert "questions that were not kept: 1" in caplog.text and "canary-4711" not in caplog.text


def test_a_few_questions_that_are_answered_well_are_kept_too(store: Path, encoder: Encoder) -> None:
    put_live(store, make_tenant(encoder, "acme", seed=1))
    ranked = (RankedFaq("acme-1", "pay", None, 0.9),)
    answer = SearchAnswer("acme", "faq", "a" * 64, ranked, abstained=False)
    certain = replace(answer, confidence=0.99)
    keeper = Keeper(store, draw=iter([SAMPLED, SAMPLED / 2]).__next__)
    keeper.see("acme", ["left out", "drawn"], [certain, certain])
    keeper.close()
    with opened(store, "acme") as kept:
        [found] = kept.questions()
    assert (found.text, found.faq_id, found.confidence) == ("drawn", "acme-1", 0.99)
