"""Spans of requests: their parents and attributes; without traces none is made."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.testclient import TestClient

from adapterdistill.backbone import Encoder
from adapterdistill.serve.engine.engine import Engine
from adapterdistill.serve.grpc.rpc import Rpc
from adapterdistill.serve.http.api import build_api
from adapterdistill.serve.queue.batcher import Batcher
from adapterdistill.serve.queue.fair_queue import QueueLimits
from adapterdistill.serve.queue.request_context import RequestContext, Stages
from adapterdistill.serve.tracing import Tracing
from adapterdistill.serving.v1.serving_pb2 import SearchRequest
from tests.serving_store import make_tenant, put_live
from tests.unit.serve.grpc.test_rpc import Context

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SECRET = "canary-4711"


class Exported:
    def __init__(self, engine: Engine) -> None:
        self._spans = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._spans))
        self.batcher = Batcher(engine.search, QueueLimits())
        tracing = Tracing(provider)
        self.client = TestClient(build_api(engine, self.batcher, time.monotonic, tracing=tracing))

    def search(self, tenant: str, texts: Sequence[str], **headers: str) -> dict[str, ReadableSpan]:
        self._spans.clear()
        self.client.post(f"/v1/tenants/{tenant}/search", json={"queries": texts}, headers=headers)
        return {span.name: span for span in self._spans.get_finished_spans()}

    def names(self, path: str) -> list[str]:
        self._spans.clear()
        self.client.get(path)
        return [span.name for span in self._spans.get_finished_spans()]


@pytest.fixture
def exported(store: Path, encoder: Encoder) -> Iterator[Exported]:
    put_live(store, make_tenant(encoder, "acme", seed=1))
    engine = Engine(encoder, store, warm=0)
    engine.refresh()
    made = Exported(engine)
    with made.client:
        yield made
    made.batcher.close()
    engine.close()


SEARCH = "POST /v1/tenants/{tenant}/search"


def test_a_request_s_spans_go_on_with_the_caller_s_trace(exported: Exported) -> None:
    spans = exported.search("acme", ["hi", SECRET], traceparent=f"00-{TRACE}-{PARENT}-01")
    assert spans.keys() == {SEARCH, "load", "queue", "batch"}  # nobody had asked for it before
    request = spans.pop(SEARCH)
    assert request.parent is not None and f"{request.parent.span_id:016x}" == PARENT
    assert {f"{span.context.trace_id:032x}" for span in [request, *spans.values()]} == {TRACE}
    for span in spans.values():
        assert span.parent is not None and span.parent.span_id == request.context.span_id
        assert request.start_time <= span.start_time <= span.end_time <= request.end_time
    assert spans["load"].end_time == spans["queue"].start_time
    assert spans["queue"].end_time == spans["batch"].start_time
    assert exported.search("acme", ["hi"]).keys() == {SEARCH, "queue", "batch"}


def test_a_span_names_tenant_version_and_sizes_and_holds_no_text(exported: Exported) -> None:
    spans = exported.search("acme", ["hi", SECRET], traceparent=SECRET, tracestate=SECRET)
    held = dict(spans[SEARCH].attributes or {})
    assert held["adapterdistill.tenant"] == "acme" and held["adapterdistill.alias"] == "live"
    assert len(str(held["adapterdistill.version"])) == 64
    assert held["adapterdistill.queries"] == 2 and held["http.response.status_code"] == 200
    assert dict(spans["queue"].attributes or {})["adapterdistill.tokens"]
    assert dict(spans["batch"].attributes or {}) == {"adapterdistill.queries": 2}
    assert SECRET not in "".join(span.to_json() for span in spans.values())


def test_a_refused_request_has_a_span_and_what_watchers_ask_has_none(exported: Exported) -> None:
    [refused] = exported.search("nobody", ["hi"]).values()
    assert dict(refused.attributes or {})["adapterdistill.outcome"] == "UNKNOWN_TENANT"
    [malformed] = exported.search("acme", [""]).values()
    assert dict(malformed.attributes or {})["http.response.status_code"] == 422
    assert exported.names("/healthz") == exported.names("/metrics") == []
    assert exported.names("/v1/tenants/acme") == ["GET /v1/tenants/{tenant}"]


def test_a_call_over_grpc_has_a_span_that_goes_on_with_the_caller_s_trace() -> None:
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    unused: Any = None  # by a call that is refused at once
    rpc = Rpc(unused, unused, searcher=object(), tracing=Tracing(provider))
    context = Context((("traceparent", f"00-{TRACE}-{PARENT}-01"),))
    asyncio.run(rpc.search(SearchRequest(tenant="acme").SerializeToString(), context))
    [span] = spans.get_finished_spans()
    assert span.name == "adapterdistill.serving.v1.Search"
    assert span.parent is not None and f"{span.parent.span_id:016x}" == PARENT
    assert dict(span.attributes or {})["rpc.grpc.status_code"] == "UNAUTHENTICATED"


def test_spans_go_where_the_standard_variables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.path, body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "our-search")
        tracing = Tracing.from_environment()
        context = RequestContext("given-1", tenant="acme", stages=Stages(began_at=time.monotonic()))
        tracing.record("a request", context, {}, {})
        tracing.close()
        server.shutdown()
    [(path, body)] = received
    assert path == "/v1/traces" and b"acme" in body and b"our-search" in body


def test_without_traces_opentelemetry_is_not_even_imported() -> None:
    code = (
        "import sys, adapterdistill.serve.http.api, adapterdistill.serve.grpc.rpc; "
        "print('adapterdistill.serve.tracing' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
