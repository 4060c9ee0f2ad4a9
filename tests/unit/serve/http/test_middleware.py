"""Request ids and the request log, which must hold no query's text."""

import json
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from adapterdistill.backbone import Encoder
from adapterdistill.serve.engine.engine import Engine, SearchItem
from adapterdistill.serve.http.api import build_api
from adapterdistill.serve.http.middleware import write_request_log
from adapterdistill.serve.metrics import Metrics
from adapterdistill.serve.queue.batcher import Batcher, SearchOutcome
from adapterdistill.serve.queue.fair_queue import QueueLimits
from tests.serving_store import make_tenant, put_live

CANARY = "canary-4711"


class Wrapped:
    """A client of an API that fails where the query asks for it."""

    def __init__(self, store: Path, encoder: Encoder, *, log_requests: bool = True) -> None:
        put_live(store, make_tenant(encoder, "acme", seed=1))
        self.engine = Engine(encoder, store)
        self.engine.refresh()
        self.metrics = Metrics("replica-1")
        self.batcher = Batcher(self.search, QueueLimits())
        api = build_api(
            self.engine,
            self.batcher,
            time.monotonic,
            metrics=self.metrics,
            log_requests=log_requests,
        )
        self.client = TestClient(api)  # raises what the app lets out: nothing

    def search(self, items: Sequence[SearchItem]) -> list[SearchOutcome]:
        if "fail" in items[0].text:
            raise RuntimeError(f"no good: {items[0].text}")
        return list(self.engine.search(items))

    def post(self, body: object, tenant: str = "acme", **headers: str) -> Any:
        return self.client.post(f"/v1/tenants/{tenant}/search", json=body, headers=headers)


@pytest.fixture
def wrapped(store: Path, encoder: Encoder) -> Iterator[Wrapped]:
    made = Wrapped(store, encoder)
    with made.client:
        yield made
    made.batcher.close()


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    named = [r for r in caplog.records if r.name == "adapterdistill.requests"]
    return [json.loads(record.getMessage()) for record in named]


def test_a_request_is_one_json_line(wrapped: Wrapped, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    response = wrapped.post({"queries": ["hi", "there"]}, **{"X-Request-Id": "id-1"})
    wrapped.post({"query": "hi"}, tenant="nobody", **{"X-Request-Id": "id-2"})
    wrapped.post({"query": ""}, **{"X-Request-Id": "id-3"})
    wrapped.post({"query": "fail"}, **{"X-Request-Id": "id-4"})
    wrapped.client.get("/healthz")
    wrapped.client.get("/metrics")
    written = lines(caplog)
    assert [(w["request_id"], w["status"], w["outcome"]) for w in written] == [
        ("id-1", 200, "OK"),
        ("id-2", 404, "UNKNOWN_TENANT"),
        ("id-3", 422, "INVALID_REQUEST"),
        ("id-4", 500, "INTERNAL"),
    ]
    assert written[0]["version"] == response.json()["adapter"]["version"]
    assert (written[0]["tenant"], written[0]["queries"]) == ("acme", 2)
    assert written[0]["ms"] > 0
    assert {tuple(w) for w in written} == {
        ("time", "request_id", "tenant", "version", "alias", "queries", "ms", "status", "outcome")
    }


def test_a_request_id_is_the_caller_s_unless_it_could_be_text(
    wrapped: Wrapped, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    good, bad = ("id-1", "A" * 64, "0.b_c"), ("where is my parcel?", "a" * 65, '"', "", "id-1\t")
    for given in good + bad:
        wrapped.post({"query": "hi"}, **{"X-Request-Id": given})
    wrapped.post({"query": "hi"})
    ids = [line["request_id"] for line in lines(caplog)]
    assert tuple(ids[:3]) == good
    made = ids[3:]
    assert {len(one) for one in made} == {16} and len(set(made)) == len(made)


def test_no_line_is_written_where_they_are_off(
    store: Path, encoder: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    made = Wrapped(store, encoder, log_requests=False)
    with made.client:
        made.post({"query": "hi"})
    made.batcher.close()
    assert lines(caplog) == []


def test_a_query_s_text_is_in_no_log_metric_or_error(
    wrapped: Wrapped, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    bodies: list[Any] = [
        {"query": CANARY},
        {"queries": [CANARY, f"{CANARY} fail"]},
        {"query": f"fail {CANARY}"},
        {"query": CANARY * 200},
        {"query": CANARY, "top_k": CANARY},
        {CANARY: CANARY},
        CANARY,
    ]
    told = ""
    for body in bodies:
        for tenant in ("acme", "nobody", f"No%20{CANARY}"):
            headers = {"X-Request-Id": f"what of {CANARY}?", "User-Agent": CANARY}
            told += wrapped.post(body, tenant, **headers).text
    told += wrapped.client.get("/metrics").text
    printed = capfd.readouterr()
    assert '"outcome": "INTERNAL"' in caplog.text and "RuntimeError at" in caplog.text
    # The client's own log tells the paths that it asked for, which here hold the canary.
    ours = [r for r in caplog.records if r.name not in ("httpx", "httpx2")]
    for record in ours:
        assert CANARY not in logging.Formatter().format(record)
    assert CANARY not in told + printed.out + printed.err


def test_the_request_log_goes_to_stderr_and_nowhere_else(
    wrapped: Wrapped, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("adapterdistill.requests")
    for name in ("handlers", "propagate", "level"):
        monkeypatch.setattr(logger, name, [] if name == "handlers" else getattr(logger, name))
    write_request_log()
    write_request_log()  # a second time changes nothing
    wrapped.post({"query": "hi"}, **{"X-Request-Id": "id-1"})
    [line] = [line for line in capsys.readouterr().err.splitlines() if "id-1" in line]
    assert json.loads(line)["tenant"] == "acme"
    assert not logger.propagate
