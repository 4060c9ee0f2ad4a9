"""The console beside a real search endpoint, over HTTP: answers, and the figures of a candidate."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import uvicorn
from fastapi import FastAPI

from adapterdistill.actors.cluster import free_port
from adapterdistill.backbone import Encoder
from adapterdistill.console.operator import Operator
from adapterdistill.console.owner import Owner
from adapterdistill.serve.engine.engine import Engine
from adapterdistill.serve.http.api import build_api
from adapterdistill.serve.queue.batcher import Batcher
from adapterdistill.serve.queue.fair_queue import QueueLimits
from adapterdistill.store.release import bundles_of, read_release
from tests.contract.running_registry import Running
from tests.unit.console import test_operator_pages as of_operator
from tests.unit.console.conftest import browser_of, text_of

planted, registry = of_operator.planted, of_operator.registry


@contextmanager
def listening(api: FastAPI) -> Iterator[str]:
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(api, port=port, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def test_a_shadow_is_compared_and_a_canary_asked_through_the_endpoint(
    owner: Owner, tiny_encoder: Encoder, planted: Running
) -> None:
    live = read_release(owner.store, "acme").bundle
    [other] = [name for name, _ in bundles_of(owner.store, "acme") if name != live]
    engine = Engine(tiny_encoder, owner.store)
    engine.refresh()
    batcher = Batcher(engine.search, QueueLimits())
    with listening(build_api(engine, batcher, time.monotonic)) as address:
        browser = browser_of(replace(owner, serving=address))
        shown = text_of(browser.get("/releases/acme"))
        assert f"version that answers {live[:12]}" in shown and "recent queries 0" in shown
        browser.post("/releases/acme/try", bundle=other, mode="shadow", percent="100")
        engine.refresh()
        told = text_of(browser.post("/ask", tenant="acme", question="where is the kite now"))
        assert f"live version {live[:12]}" in told and "furthest ahead" in told
        give_up = time.monotonic() + 30
        while "questions that both answered 1" not in (
            shown := text_of(browser.get("/releases/acme"))
        ):
            assert time.monotonic() < give_up, shown
        assert "the same FAQ first" in shown and f"candidate {other[:12]} , shadow" in shown
        told = text_of(
            browser.post("/ask", tenant="acme", question="where is the kite", alias="canary")
        )
        assert f"canary version {other[:12]}" in told
        operators = of_operator.browser_of(Operator(planted.address, serving=address))
        tenants, metrics = operators.get("/"), operators.get("/metrics")
        assert f"acme 1 {live[:12]} active ok" in text_of(tenants)
        assert "candidate_queries event compared 1" in text_of(metrics)
        assert not {"kite", "zanzibar"} & {*(tenants.text + metrics.text).lower().split()}
    batcher.close()
    engine.close()
