"""OpenTelemetry traces of requests, for a deployment with `traces` on. No span holds a query's
text.

A request is a span that continues the caller's trace (W3C `traceparent`), with up to three spans in
it: `load` of its tenant's adapter, `queue`, and the engine's `batch`. They are made when the
request has ended, from the times in `serve.queue.request_context.Stages`; so a deployment without
traces makes nothing. The standard `OTEL_*` variables of the replica say where the spans go.

Imported only where traces are on: it needs the extra `tracing`.
"""

import asyncio
import os
import time
from collections.abc import Mapping

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapterdistill.extras import require
from adapterdistill.serve.queue.request_context import RequestContext, Stages, context_of

LOADING_S = 0.001
"""A shorter hold found its tenant in memory, which takes microseconds."""
_PROPAGATED = ("traceparent", "tracestate")
_TRACED = "/v1/"


class Tracing:
    """Makes the spans of requests that have ended."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("adapterdistill.serving")
        self._propagator = TraceContextTextMapPropagator()

    @classmethod
    def from_environment(cls) -> "Tracing":
        """Read the `OTEL_*` variables: exporter (OTLP over HTTP), sampler, resource.

        Raises:
            MissingExtraError: the exporter is not installed.
        """
        exporter = require("tracing", "opentelemetry.exporter.otlp.proto.http.trace_exporter")
        os.environ.setdefault("OTEL_SERVICE_NAME", "adapterdistill")
        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(exporter.OTLPSpanExporter()))
        return cls(provider)

    def around(self, app: ASGIApp) -> ASGIApp:
        """ASGI middleware: inside `serve.http.middleware.RequestMiddleware`, outside all others."""
        return _Traced(app, self)

    def close(self) -> None:
        """Send the spans that have not been sent."""
        self._provider.shutdown()

    def record(
        self,
        name: str,
        context: RequestContext,
        carrier: Mapping[str, object],
        answered: Mapping[str, AttributeValue],
    ) -> None:
        """Make the spans of a request that ends now.

        carrier: its headers or metadata. answered: attributes of its interface, such as a status.
        """
        stages = context.stages
        assert stages is not None, "stages are noted where traces are on"
        now = time.monotonic()
        now_ns = time.time_ns()

        def ns(at: float) -> int:
            return now_ns - round((now - at) * 1e9)

        parent = self._propagator.extract(
            {key: str(carrier[key]) for key in _PROPAGATED if key in carrier}
        )
        attributes: dict[str, AttributeValue] = {
            "adapterdistill.request_id": context.request_id,
            "adapterdistill.queries": context.num_queries,
            "adapterdistill.outcome": context.outcome,
            **answered,
        }
        for key in ("tenant", "version", "alias"):
            value = getattr(context, key)
            if value is not None:
                attributes[f"adapterdistill.{key}"] = value
        request = self._tracer.start_span(
            name, parent, SpanKind.SERVER, attributes, start_time=ns(stages.began_at)
        )
        if context.outcome == "INTERNAL":
            request.set_status(Status(StatusCode.ERROR))
        inside = set_span_in_context(request)

        def part(name: str, began_at: float, ended_at: float, **sizes: int) -> None:
            sized = {f"adapterdistill.{key}": size for key, size in sizes.items()}
            span = self._tracer.start_span(name, inside, attributes=sized, start_time=ns(began_at))
            span.end(ns(ended_at))

        if stages.held_at - stages.asked_at >= LOADING_S:
            part("load", stages.asked_at, stages.held_at)
        if stages.batch_began_at:
            part("queue", stages.held_at, stages.batch_began_at, tokens=stages.num_tokens)
            part(
                "batch", stages.batch_began_at, stages.batch_ended_at, queries=stages.batch_queries
            )
        request.end(now_ns)


class _Traced:
    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(_TRACED):
            await self._app(scope, receive, send)
            return
        context, status = context_of(scope), 0
        context.stages = Stages(began_at=time.monotonic())

        async def noting_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting_send)
        except asyncio.CancelledError:
            context.outcome = "CANCELLED"
            raise
        except Exception:
            context.outcome, status = "INTERNAL", 500
            raise
        finally:
            carrier = {
                key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]
            }
            name = f"{scope['method']} {_route(scope)}"
            self._tracing.record(name, context, carrier, {"http.response.status_code": status})


def _route(scope: Scope) -> str:
    """The route's pattern, not the path: names are attributes."""
    route = scope.get("route")
    return str(route.path) if route is not None else _TRACED
