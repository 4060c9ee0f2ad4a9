"""Candidates over HTTP: asked for by name, reported, compared and counted."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from adapterdistill.backbone import Encoder
from adapterdistill.serve.engine.engine import Engine
from adapterdistill.serve.http.api import build_api
from adapterdistill.serve.metrics import Metrics
from adapterdistill.serve.queue.batcher import Batcher
from adapterdistill.serve.queue.fair_queue import QueueLimits
from adapterdistill.store.bundle import write_bundle
from adapterdistill.store.release import put_up
from tests.serving_store import MadeTenant, make_tenant, put_live
from tests.unit.serve.http.test_api import SECRET, assert_error


@pytest.fixture
def acme(encoder: Encoder) -> MadeTenant:
    return make_tenant(encoder, "acme", seed=1)


def test_a_request_may_name_the_bundle_that_answers(
    store: Path, encoder: Encoder, acme: MadeTenant
) -> None:
    put_live(store, acme)
    candidate = make_tenant(encoder, "acme", seed=9)
    put_up(store, "acme", write_bundle(store, candidate.bundle), mode="shadow", share=1)
    put_live(store, make_tenant(encoder, "strict", seed=2, threshold=1.0))
    engine = Engine(encoder, store)
    engine.refresh()
    batcher = Batcher(engine.search, QueueLimits())
    made = {"live": acme, "canary": candidate}
    with TestClient(build_api(engine, batcher, time.monotonic)) as client:
        for alias, tenant in made.items():
            body = {"query": "hi", "alias": alias}
            adapter = client.post("/v1/tenants/acme/search", json=body).json()["adapter"]
            assert (adapter["alias"], adapter["version"]) == (
                alias,
                tenant.bundle.manifest.version,
            )
        none = client.post("/v1/tenants/strict/search", json={"query": SECRET, "alias": "canary"})
        assert_error(none, 404, "NO_CANDIDATE")
        wrong = client.post("/v1/tenants/acme/search", json={"query": SECRET, "alias": SECRET})
        assert_error(wrong, 422, "INVALID_REQUEST")
    batcher.close()


def test_a_tenant_s_state_tells_of_its_candidate_and_how_it_compares(
    store: Path, encoder: Encoder, acme: MadeTenant
) -> None:
    put_live(store, acme)
    candidate = replace(acme.bundle, threshold=1.0)  # the same answers, and abstains from all
    tried = write_bundle(store, candidate)
    put_up(store, "acme", tried, mode="shadow", share=1)
    engine = Engine(encoder, store)
    engine.refresh()
    metrics, batcher = Metrics(), Batcher(engine.search, QueueLimits())
    with TestClient(build_api(engine, batcher, time.monotonic, metrics=metrics)) as client:
        expected = {
            "version": acme.bundle.manifest.version,
            "mode": "shadow",
            "share": 1.0,
            "state": "served",
            "comparison": None,
        }
        assert client.get("/v1/tenants/acme").json()["candidate"] == expected
        client.post("/v1/tenants/acme/search", json={"queries": ["hi", "opening hours"]})
        deadline = time.monotonic() + 30
        while (found := client.get("/v1/tenants/acme").json()["candidate"]) == expected:
            assert time.monotonic() < deadline
        assert found["comparison"] == {
            "queries": 2, "same_best": 1.0, "same_abstention": 0.0, "mean_score_difference": 0.0,
        }  # fmt: skip
        shown = client.get("/metrics").text
        assert 'candidate_queries_total{event="compared",replica=""} 2.0' in shown
        assert 'candidate_score_difference_total{replica=""} 0.0' in shown
        put_up(store, "acme", tried, mode="canary", share=1)
        engine.refresh()
        client.post("/v1/tenants/acme/search", json={"query": "hi"})
        shown = client.get("/metrics").text
        assert 'candidate_queries_total{event="answered",replica=""} 1.0' in shown
        engine.withdraw(acme.bundle.manifest.ref.name)
        assert_error(client.get("/v1/tenants/acme"), 410, "WITHDRAWN")
    batcher.close()
