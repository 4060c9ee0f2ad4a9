"""The benchmark over HTTP at its smallest, on the app alone: without Ray."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn

from adapterdistill.actors.cluster import free_port
from adapterdistill.backbone import Encoder
from adapterdistill.bench.endpoint.command import (
    SIZES,
    flood_aims,
    flood_faults,
    speed_aims,
    speed_faults,
)
from adapterdistill.bench.endpoint.fairness import measure_capacity, measure_fairness
from adapterdistill.bench.endpoint.report import flood_sections, speed_sections
from adapterdistill.bench.endpoint.speed import measure_generator, measure_speed
from adapterdistill.drills.endpoint.kill import kill_faults, measure_kill
from adapterdistill.serve.engine.engine import Engine
from adapterdistill.serve.http.api import build_api
from adapterdistill.serve.metrics import Metrics
from adapterdistill.serve.queue.batcher import Batcher, SearchOutcome
from adapterdistill.serve.queue.fair_queue import QueueLimits
from adapterdistill.testbed.answers import THRESHOLD, Answers
from adapterdistill.testbed.faq_banks import Bank, fill_store, read_banks
from adapterdistill.testbed.random_adapters import random_adapters
from adapterdistill.testbed.serving import empty_server, without_a_core_s
from tests.unit.bench.conftest import SAMPLES

TINY = SIZES["tiny"]


@dataclass
class Served:
    encoder: Encoder
    banks: list[Bank]
    store: Path
    engine: Engine
    answers: Answers


def serve_samples(encoder: Encoder, store: Path, *, slots: int | None = None) -> Served:
    banks = read_banks(SAMPLES, TINY.tenants)
    adapters = random_adapters(encoder, len(banks))
    fill_store(store, banks, encoder, adapters, threshold=THRESHOLD)
    engine = Engine(encoder, store, max_slots=slots)
    engine.refresh()
    return Served(encoder, banks, store, engine, Answers(banks, store, encoder))


@pytest.fixture
def served(tiny_encoder: Encoder, tmp_path: Path) -> Served:
    return serve_samples(tiny_encoder, tmp_path)


@contextmanager
def running(
    served: Served,
    port: int,
    replica: str = "first",
    search: Callable[..., list[SearchOutcome]] | None = None,
) -> Iterator[str]:
    """The app in a thread, and one that follows the store."""
    metrics, engine = Metrics(replica), served.engine
    batcher = Batcher(
        metrics.timed(engine, search or engine.search), QueueLimits(), refuse_after_s=0.05
    )
    api = build_api(engine, batcher, time.monotonic, metrics=metrics)
    config = uvicorn.Config(
        api, port=port, log_level="critical", lifespan="off", ws="none",
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    server, stop = uvicorn.Server(config), threading.Event()

    def follow() -> None:
        while not stop.wait(0.05):
            engine.refresh()

    threads = [threading.Thread(target=server.run), threading.Thread(target=follow)]
    for thread in threads:
        thread.start()
    try:
        while not server.started:
            assert threads[0].is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        stop.set()
        for thread in threads:
            thread.join()
        batcher.close()


def test_speed_is_measured_and_no_answer_is_wrong(served: Served) -> None:
    found: dict = {"tenants": len(served.banks)}
    with empty_server() as address:
        found["generator"] = measure_generator(address, served.banks, seconds=0.1)
    with running(served, free_port()) as address:
        found["speed"] = {
            "none": measure_speed(
                address, served.engine, served.banks, served.answers, rounds=1, seconds=0.1
            )
        }
    assert list(speed_faults(found)) == []
    for row in found["speed"]["none"]["loads"]:
        assert 0 < row["p50_ms"] <= row["p99_ms"] and row["queries_in_a_batch"] >= row["queries"]
    assert len(list(speed_aims(found))) == 3
    assert "## Where the time goes" in list(speed_sections(found))


def test_a_process_s_waits_for_a_core_are_counted_and_one_that_has_ended_has_none() -> None:
    before = without_a_core_s(os.getpid())
    assert 0 <= before <= without_a_core_s(os.getpid())
    assert without_a_core_s(1 << 30) == 0  # above any process's id


def test_a_flood_is_sent_beside_the_others_and_each_load_is_judged(served: Served) -> None:
    with running(served, free_port()) as address:
        assert measure_capacity(address, served.banks, seconds=0.1) > 0
        fairness = measure_fairness(
            address, served.banks, capacity_per_s=200, rounds=1, seconds=0.4
        )
    assert [load["others_share"] for load in fairness["loads"]] == [0.05, 0.15, 0.3]
    for load in fairness["loads"]:
        assert load["others_failed"] == {} and load["times"] > 0
        assert load["flood_per_s"] > 3 * load["others_per_s"] > 0 and load["others_per_s"] < 100
    found: dict = {"fairness": fairness}
    fairness["loads"][0]["times"], fairness["loads"][1]["times"] = 2.0, 2.01
    aims = list(flood_aims(found))
    assert [aim["met"] for aim in aims][:2] == [True, False]
    assert list(flood_faults(found)) == []
    assert "at 15% load" in aims[1]["aim"]
    assert "15%" in "".join(flood_sections(found))
    fairness["loads"][2]["others_failed"] = {"503": 1}
    assert ["503" in fault for fault in flood_faults(found)] == [True]


def test_an_engine_that_mixes_tenants_up_is_found_out(served: Served) -> None:
    def wrong(items: list) -> list[SearchOutcome]:
        """Each item is answered for the tenant of another."""
        return served.engine.search(
            [type(i)(served.banks[0].tenant, i.text, i.top_k) for i in items]
        )

    with running(served, free_port(), search=wrong) as address:
        found = measure_speed(
            address, served.engine, served.banks[1:], served.answers, rounds=1, seconds=0.05
        )
    assert found["wrong"] != []
    assert list(speed_faults({"speed": {"none": found}})) != []


def test_requests_that_a_killed_server_drops_are_asked_again(served: Served) -> None:
    port, stopping = free_port(), threading.Event()
    killed, back = threading.Event(), threading.Event()

    def lives() -> None:
        with running(served, port):
            killed.wait()
        time.sleep(0.2)
        with running(served, port, "second"):
            back.set()
            stopping.wait()

    life = threading.Thread(target=lives)
    life.start()

    def kill() -> None:
        killed.set()

    try:
        found = measure_kill(
            f"http://127.0.0.1:{port}", served.banks, served.answers, kill, replicas=1, seconds=0.6
        )
    finally:
        killed.set()
        stopping.set()
        life.join()
    assert sum(found["failed_attempts"].values()) > 0
    assert found["failed_after_retries"] == 0 and found["wrong"] == []
    assert found["seconds_until_full_service"] >= 0.2
    assert list(kill_faults({"kill": found})) == []
