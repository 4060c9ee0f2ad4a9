"""Calls of the gRPC interface without Ray: its context, and a deployment of a few tenants."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from adapterdistill.backbone import Encoder
from adapterdistill.confidence import Calibration
from adapterdistill.serve.engine.engine import Engine
from adapterdistill.serve.grpc.rpc import Rpc
from adapterdistill.serve.metrics import Metrics
from adapterdistill.serve.queue.batcher import Batcher, SearchOutcome
from adapterdistill.serve.queue.fair_queue import QueueLimits
from adapterdistill.serve.tokens import Tokens, new_token
from adapterdistill.serving.v1 import serving_pb2 as pb
from tests.serving_store import make_tenant, put_live
from tests.unit.serve.engine.test_candidates import try_out

SECRET = "canary-4711"
KNOWN = Calibration(
    slope=8.0, intercept=-4.0, rows=40, answered=38, wrong=3, error_bound=0.190912,
    edges=(0.9, 0.95), counts=(1, 19, 20),
)  # fmt: skip
HELD = ("acme", "strict", "tried", "absent", "other")


@dataclass
class Context:
    """Stands in for Ray Serve's gRPC context, and records what a method sets."""

    metadata: tuple[tuple[str, str | bytes], ...] = ()
    request_id: str = "given-1"
    code: grpc.StatusCode | None = None
    details: str = ""
    trailer: list[tuple[str, bytes]] = field(default_factory=list)

    def invocation_metadata(self) -> list[tuple[str, str | bytes]]:
        return [("user-agent", "test"), *self.metadata]

    def trailing_metadata(self) -> list[tuple[str, str]]:
        return [("request_id", self.request_id)]

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details

    def set_trailing_metadata(self, trailer: list[tuple[str, bytes]]) -> None:
        assert isinstance(trailer, list)  # Serve adds it to a list
        self.trailer = trailer

    def detail(self, kind: Any) -> Any:
        """The detail of this kind in the status; None: it has none."""
        [(key, value)] = self.trailer
        assert key == "grpc-status-details-bin" and SECRET.encode() not in value
        status = Status.FromString(value)
        assert self.code is not None
        assert (status.code, status.message) == (self.code.value[0], self.details)
        return next((kind for detail in status.details if detail.Unpack(kind)), None)


@dataclass
class Asked:
    rpc: Rpc
    engine: Engine
    batcher: Batcher
    metrics: Metrics
    texts: dict[str, str]
    expired: str

    def headers(self, tenant: str) -> tuple[tuple[str, str]]:
        return (("authorization", f"Bearer {self.texts[tenant]}"),)

    def search(self, tenant: str = "acme", **fields: Any) -> tuple[pb.SearchResponse, Context]:
        request = pb.SearchRequest(tenant=tenant, **fields)
        context = Context(self.headers(tenant) if tenant in self.texts else ())
        return call(self.rpc.search, request.SerializeToString(), context), context


Method = Callable[[bytes, Any], Awaitable[Any]]


def call(method: Method, raw: bytes, context: Context) -> Any:
    async def answer() -> Any:
        return await method(raw, context)

    return asyncio.run(answer())


@contextmanager
def made(
    store: Path,
    encoder: Encoder,
    folder: Path,
    search: Callable[..., list[SearchOutcome]] | None = None,
    **limits: Any,
) -> Iterator[Asked]:
    put_live(store, make_tenant(encoder, "acme", seed=1))
    put_live(store, make_tenant(encoder, "strict", seed=2, threshold=1.0, calibration=KNOWN))
    put_live(store, make_tenant(encoder, "tried", seed=3))
    try_out(store, make_tenant(encoder, "tried", seed=4), mode="canary", share=0.25)
    engine = Engine(encoder, store)
    engine.refresh()
    queue = QueueLimits(max_queued=limits.pop("max_queued", 2048))
    batcher = Batcher(search or engine.search, queue, **limits)
    path = folder / "tokens.json"
    texts = {tenant: new_token(path, tenant, days=1)[0] for tenant in HELD}
    expired = new_token(path, "acme", days=-1)[0]
    metrics = Metrics()
    rpc = Rpc(engine, batcher, metrics=metrics, tokens=Tokens(path), log_requests=True)
    yield Asked(rpc, engine, batcher, metrics, texts, expired)
    batcher.close()


def assert_refused(response: Any, context: Context, code: str, reason: str) -> None:
    assert response == type(response)()
    assert context.code is not None and context.code.name == code
    info = context.detail(ErrorInfo())
    assert (info.reason, info.domain) == (reason, "adapterdistill")
    assert SECRET not in context.details
