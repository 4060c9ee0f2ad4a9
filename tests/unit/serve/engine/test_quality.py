"""The quality figures of a replica: confidence, expected error, drift."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from adapterdistill.backbone import Encoder
from adapterdistill.confidence import Calibration
from adapterdistill.serve.engine.engine import Engine
from adapterdistill.serve.http.api import build_api
from adapterdistill.serve.metrics import Metrics
from adapterdistill.serve.queue.batcher import Batcher
from adapterdistill.serve.queue.fair_queue import QueueLimits
from tests.serving_store import MadeTenant, make_tenant, put_live

# The reference's scores are all but never above 0.9: what random tenants score is all below.
KNOWN = Calibration(
    slope=8.0, intercept=-4.0, rows=40, answered=38, wrong=3, error_bound=0.190912,
    edges=(0.9, 0.95), counts=(1, 19, 20),
)  # fmt: skip


@pytest.fixture
def acme(encoder: Encoder) -> MadeTenant:
    return make_tenant(encoder, "acme", seed=1, threshold=-0.5, calibration=KNOWN)


@pytest.fixture
def client(store: Path, encoder: Encoder, acme: MadeTenant) -> Iterator[TestClient]:
    put_live(store, acme)
    put_live(store, make_tenant(encoder, "other", seed=2, threshold=1.0))
    engine = Engine(encoder, store, max_slots=1)
    engine.refresh()
    batcher = Batcher(engine.search, QueueLimits())
    metrics = Metrics()
    metrics.follow(engine, num_queued=lambda: batcher.num_queued, refreshed_at=time.monotonic)
    with TestClient(build_api(engine, batcher, time.monotonic, metrics=metrics)) as client:
        yield client
    batcher.close()


def ask(client: TestClient, tenant: str, *texts: str) -> list[dict[str, object]]:
    response = client.post(f"/v1/tenants/{tenant}/search", json={"queries": texts, "top_k": 1})
    assert response.status_code == 200
    results: list[dict[str, object]] = response.json()["results"]
    return results


def test_confidence_is_the_calibrated_top_score(
    client: TestClient, acme: MadeTenant, encoder: Encoder
) -> None:
    [result] = ask(client, "acme", "where is my parcel")
    [(_, top_score), *_] = acme.expected(encoder, "where is my parcel")
    assert result["confidence"] == pytest.approx(KNOWN.confidence(top_score), abs=1e-4)
    assert [result["confidence"] for result in ask(client, "other", "hi")] == [None]


def test_a_tenant_s_status_states_threshold_expected_error_and_its_bound(
    client: TestClient,
) -> None:
    found = client.get("/v1/tenants/acme").json()
    assert found["threshold"] == -0.5
    assert found["quality"] == {
        "queries": 40,
        "share_answered": 0.95,
        "expected_error": 0.0789,
        "expected_error_bound": 0.1909,
    }


def test_drift_is_counted_for_each_tenant_and_outlasts_its_absence_from_memory(
    client: TestClient,
) -> None:
    ask(client, "acme", *["hi"] * 10)
    assert client.get("/v1/tenants/acme").json()["drift"] == {
        "queries": 10, "share_abstained": 0, "psi": None, "expected_psi": None, "drifted": False,
    }  # fmt: skip
    ask(client, "other", "hi", "ho", "hey")  # of one slot: acme leaves memory
    assert client.get("/v1/tenants/other").json()["drift"]["share_abstained"] == 1
    ask(client, "acme", *["hi"] * 10)
    drift = client.get("/v1/tenants/acme").json()["drift"]
    assert drift["queries"] == 20 and drift["drifted"]
    assert drift["psi"] > 1 > drift["expected_psi"] == pytest.approx(2 * (1 / 40 + 1 / 20))
    exposed = client.get("/metrics").text
    assert 'adapterdistill_tenant_drifted{replica="",tenant="acme"} 1.0' in exposed
    assert 'adapterdistill_tenant_drifted{replica="",tenant="other"}' not in exposed


def test_refused_queries_are_not_counted(client: TestClient) -> None:
    assert client.post("/v1/tenants/acme/search", json={"query": ""}).status_code == 422
    assert client.get("/v1/tenants/acme").json()["drift"]["queries"] == 0


def test_the_interface_describes_what_may_be_concluded(client: TestClient) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    assert "calibrated on held-out queries" in str(schemas["SearchResult"]["properties"])
    assert "optimistic" in str(schemas["Quality"]["properties"]["expected_error"])
