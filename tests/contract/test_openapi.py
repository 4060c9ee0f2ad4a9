"""The HTTP interface against its own OpenAPI description: schemathesis invents the requests."""

import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import schemathesis
from fastapi import FastAPI

from adapterdistill.backbone import Encoder
from adapterdistill.serve.engine.engine import Engine
from adapterdistill.serve.http.api import build_api
from adapterdistill.serve.queue.batcher import Batcher
from adapterdistill.serve.queue.fair_queue import QueueLimits
from tests.serving_store import make_tenant, put_live

EXAMPLES = 60


@pytest.fixture(scope="module")
def api(tiny_encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastAPI]:
    store: Path = tmp_path_factory.mktemp("store")
    put_live(store, make_tenant(tiny_encoder, "acme", seed=1))
    engine = Engine(tiny_encoder, store)
    engine.refresh()
    batcher = Batcher(engine.search, QueueLimits())
    yield build_api(engine, batcher, time.monotonic)
    batcher.close()
    engine.close()


@pytest.mark.parametrize(
    ("mode", "operations"),
    [
        (schemathesis.GenerationMode.POSITIVE, {"search", "getTenant", "getHealth"}),
        (schemathesis.GenerationMode.NEGATIVE, {"search", "getTenant"}),  # health takes nothing
    ],
)
def test_every_request_gets_a_status_and_a_body_that_are_described(
    mode: schemathesis.GenerationMode, operations: set[str], api: FastAPI
) -> None:
    """Schemathesis also checks that what is valid is accepted, and that the rest is refused."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", api)
    found = {
        one.ok().definition.raw["operationId"]: one.ok() for one in schema.get_all_operations()
    }
    assert operations <= found.keys()
    for name in operations:

        @hypothesis.given(case=found[name].as_strategy(generation_mode=mode))
        @hypothesis.settings(
            max_examples=EXAMPLES,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        def check(case: schemathesis.Case) -> None:
            assert case.call_and_validate().status_code < 500

        check()
