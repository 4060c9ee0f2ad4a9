"""The metrics of a replica, and the bounds of their labels."""

import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from starlette.testclient import TestClient

from adapterdistill.backbone import Encoder
from adapterdistill.errors import ServingError
from adapterdistill.serve.engine.engine import Engine, Refresh
from adapterdistill.serve.http.api import build_api
from adapterdistill.serve.metrics import ELECT_EVERY_S, MAX_NAMED_TENANTS, BusiestTenants, Metrics
from adapterdistill.serve.queue.batcher import Batcher
from adapterdistill.serve.queue.fair_queue import QueueLimits
from tests.serving_store import MadeTenant, make_tenant, put_live


class Measured:
    def __init__(self, encoder: Encoder, store: Path) -> None:
        engine = Engine(encoder, store)
        self.metrics = Metrics("replica-1")
        self.metrics.refreshed(engine.refresh())
        self.refreshed_at, self.lost_at = time.monotonic(), None
        self.batcher = Batcher(self.metrics.timed(engine, engine.search), QueueLimits())
        self.metrics.follow(
            engine,
            num_queued=lambda: self.batcher.num_queued,
            refreshed_at=lambda: self.refreshed_at,
            registry_lost_at=lambda: self.lost_at,
        )
        self.engine = engine
        api = build_api(engine, self.batcher, time.monotonic, metrics=self.metrics)
        self.client = TestClient(api)

    def search(self, *texts: str, tenant: str = "acme") -> None:
        self.client.post(f"/v1/tenants/{tenant}/search", json={"queries": texts})

    def samples(self) -> list[Sample]:
        text = self.client.get("/metrics").text
        return [s for family in text_string_to_metric_families(text) for s in family.samples]

    def value(self, name: str, **labels: str) -> float:
        wanted = {"replica": "replica-1", **labels}
        [found] = [
            s.value
            for s in self.samples()
            if s.name == f"adapterdistill_{name}" and s.labels == wanted
        ]
        return found


@pytest.fixture
def acme(encoder: Encoder) -> MadeTenant:
    return make_tenant(encoder, "acme", seed=1)


@pytest.fixture
def measured(store: Path, encoder: Encoder, acme: MadeTenant) -> Iterator[Measured]:
    put_live(store, acme)
    put_live(store, make_tenant(encoder, "other", seed=2))
    made = Measured(encoder, store)
    with made.client:
        yield made
    made.batcher.close()


def test_requests_batches_and_tenants_are_counted(measured: Measured, encoder: Encoder) -> None:
    measured.search("hi", "where is my parcel")
    measured.search("hi")
    measured.search("hi", tenant="nobody")
    measured.search("")
    assert measured.value("requests_total", outcome="OK") == 2
    assert measured.value("requests_total", outcome="UNKNOWN_TENANT") == 1
    assert measured.value("requests_total", outcome="INVALID_REQUEST") == 1
    assert measured.value("request_seconds_count") == 2
    assert measured.value("batch_seconds_count") == 2  # an unknown tenant comes to no batch
    assert measured.value("batch_queries_sum") == 3
    tokens = sum(len(ids) for ids in encoder.tokenize(["hi", "where is my parcel", "hi"]))
    assert measured.value("batch_tokens_sum") == tokens
    assert measured.value("tenant_queries_total", tenant="acme") == 3
    assert measured.value("tenant_queries_total", tenant="(other)") == 0


def test_the_bank_the_store_and_the_registry_are_read_when_asked(
    measured: Measured, acme: MadeTenant
) -> None:
    assert measured.value("tenants", state="live") == 2
    assert measured.value("bank_slots", state="used") == 2
    slots = measured.engine.num_slots
    assert measured.value("bank_slots", state="free") == slots - 2
    assert measured.value("bank_max_slots") == measured.engine.max_slots
    assert measured.value("working_set_tenants") == measured.engine.working_set
    assert measured.value("unproven_bundles") == measured.engine.num_unproven
    assert measured.value("paging_total", event="hits") == measured.engine.paging.hits
    assert measured.value("paging_total", event="evictions") == 0
    assert measured.value("bundles_loaded_total") == 2
    assert measured.value("queued_queries") == 0
    assert measured.value("registry_lost_seconds") == 0
    assert measured.value("store_lost_seconds") == 0
    measured.engine.withdraw(acme.bundle.manifest.ref.name)
    measured.refreshed_at -= 60
    measured.lost_at = time.monotonic() - 30
    measured.metrics.refreshed(Refresh((), (), {"bad": ServingError("no good")}))
    assert measured.value("tenants", state="live") == 1
    assert measured.value("tenants", state="withdrawn") == 1
    assert measured.value("store_age_seconds") == pytest.approx(60, abs=10)
    assert measured.value("registry_lost_seconds") == pytest.approx(30, abs=10)
    assert measured.value("bundles_refused_total", reason="SERVING_ERROR") == 1


def test_every_sample_says_which_replica_and_names_no_unknown_tenant(measured: Measured) -> None:
    measured.search("hi")
    measured.search("hi", tenant="made-up-name")
    samples = measured.samples()
    assert {s.labels["replica"] for s in samples} == {"replica-1"}
    assert not any("made-up-name" in str(s.labels) or "_created" in s.name for s in samples)


def tenant_values(busiest: BusiestTenants) -> dict[str, float]:
    [family] = busiest.collect()
    return {s.labels["tenant"]: s.value for s in family.samples}


def test_only_so_many_tenants_are_named_however_many_there_are() -> None:
    busiest = BusiestTenants()
    for n in range(10_000):
        busiest.count(f"tenant-{n}", 1)
    values = tenant_values(busiest)
    assert len(values) == MAX_NAMED_TENANTS + 1
    assert sum(values.values()) == 10_000


def test_who_grows_busy_is_named_and_no_series_falls_while_it_is_there() -> None:
    now = [0.0]
    busiest = BusiestTenants(seats=2, clock=lambda: now[0])
    seen = []
    for _ in range(4):
        for tenant, num_queries in (("early", 1), ("steady", 5), ("late", 9)):
            busiest.count(tenant, num_queries)
        seen.append(tenant_values(busiest))
        now[0] += ELECT_EVERY_S
    assert seen[0] == {"early": 1, "steady": 5, "(other)": 9}
    # The election comes with the reading: `late` starts from nothing, `early` has left.
    assert seen[1] == {"late": 0, "steady": 10, "(other)": 18}
    assert seen[2] == {"late": 9, "steady": 15, "(other)": 19}
    for before, after in pairwise(seen):
        assert all(after[tenant] >= before[tenant] for tenant in before.keys() & after.keys())
