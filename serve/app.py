"""The Ray Serve app: HTTP, gRPC and engine in one deployment.

One deployment, because a hop to a second one costs more than the model (a query takes some
milliseconds). `build` is the import path for `serve deploy`; `deploy` does the same from Python.
"""

import functools
import gc
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import tenacity
import torch
from fastapi import FastAPI
from ray import serve as ray_serve
from ray.serve import Application

from adapterdistill.backbone import load_encoder
from adapterdistill.errors import AdapterDistillError, ConfigError, ServingError
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.server.server import is_loopback
from adapterdistill.serving.v1 import serving_pb2 as pb
from serve.engine.engine import Engine
from serve.engine.proofs import PROVE_EVERY_S
from serve.engine.withdrawals import Recall
from serve.grpc import rpc_proxy
from serve.grpc.rpc import Rpc
from serve.http.api import build_api
from serve.http.middleware import write_request_log
from serve.metrics import Metrics
from serve.queue.batcher import Batcher
from serve.queue.searching import Searcher
from serve.settings import ServeSettings
from serve.tokens import Tokens

APP_NAME = "adapterdistill"
REQUEST_TIMEOUT_S = 30.0
ROUTE_TIMEOUT_S = 20.0
DRAIN_S = 10.0
"""For the batch that is computed when the last waiting request is given up."""
_log = logging.getLogger("ray.serve")


class SearchService:
    """One replica: encoder, engine, batcher, and a thread that follows the store."""

    def __init__(self, args: dict[str, Any]) -> None:
        settings = ServeSettings.of(args)
        torch.set_num_threads(settings.threads)
        settings.store.mkdir(parents=True, exist_ok=True)
        encoder = load_encoder(
            settings.encoder,
            dtype=settings.dtype,
            device=settings.device,
            max_tokens=settings.max_tokens,
        )
        self._engine = Engine(
            encoder, settings.store, max_slots=settings.max_slots, bank_mib=settings.bank_mib
        )
        self._metrics = Metrics(ray_serve.get_replica_context().replica_id.unique_id)
        self._tokens = Tokens(settings.tokens) if settings.tokens is not None else None
        self._log_requests = settings.log_requests
        self._batcher = Batcher(
            self._metrics.timed(self._engine, self._engine.search),
            settings.queue_limits,
            max_query_tokens=settings.max_tokens,
            max_wait_ms=settings.max_wait_ms,
            request_timeout_s=settings.request_timeout_s,
        )
        self._searcher = Searcher(self._engine, self._batcher)
        self._tracing = _tracing() if settings.traces else None
        self._rpc = Rpc(
            self._engine,
            self._batcher,
            metrics=self._metrics,
            searcher=self._searcher,
            tokens=self._tokens,
            log_requests=self._log_requests,
            tracing=self._tracing,
        )
        self._refreshed_at = time.monotonic()
        self._refresh()
        self._stopping = threading.Event()
        # A thread each: a revoked token does not wait for bundles that are being loaded.
        followed = {
            "store": (self._refresh, settings.refresh_s),
            "proofs": (self._prove_next, PROVE_EVERY_S),
        }
        if self._tokens is not None:
            followed["tokens"] = (self._reload_tokens, settings.refresh_s)
        self._followers = [
            threading.Thread(target=self._follow, args=args, name=name, daemon=True)
            for name, args in followed.items()
        ]
        for follower in self._followers:
            follower.start()
        self._recall: Recall | None = None
        if settings.registry is not None:
            connect = functools.partial(
                RegistryClient, settings.registry, credentials=settings.registry_credentials
            )
            self._recall = Recall(self._engine, connect)
            self._recall.start()

        _look_for_garbage_seldom()

    def __serve_build_asgi_app__(self) -> FastAPI:
        self._metrics.follow(
            self._engine,
            num_queued=lambda: self._batcher.num_queued,
            refreshed_at=lambda: self._refreshed_at,
            registry_lost_at=lambda: self._recall.standing.lost_at if self._recall else None,
        )
        if self._log_requests:
            write_request_log()
        return build_api(
            self._engine,
            self._batcher,
            lambda: self._refreshed_at,
            metrics=self._metrics,
            searcher=self._searcher,
            tokens=self._tokens,
            log_requests=self._log_requests,
            tracing=self._tracing,
        )

    async def Search(self, request: bytes, grpc_context: Any) -> pb.SearchResponse:
        """Serve finds a call's method by the call's name, the context by the argument's."""
        return await self._rpc.search(request, grpc_context)

    async def GetTenant(self, request: bytes, grpc_context: Any) -> pb.GetTenantResponse:
        return await self._rpc.get_tenant(request, grpc_context)

    def check_health(self) -> None:
        """Ray Serve replaces the replica if this raises."""
        for follower in self._followers:
            if not follower.is_alive():
                raise ServingError(f"the thread that follows the {follower.name} has ended")
        if self._recall is not None and not self._recall.is_alive():
            raise ServingError("the thread that follows the registry has ended")

    def __del__(self) -> None:
        if hasattr(self, "_stopping"):
            self._stopping.set()
            if self._recall is not None:
                self._recall.stop()
            self._batcher.close()
            self._engine.close()
            if self._tracing is not None:
                self._tracing.close()

    def _follow(self, read: Callable[[], None], every_s: float) -> None:
        while not self._stopping.wait(every_s):
            read()

    def _prove_next(self) -> None:
        try:
            changed = self._engine.prove_next()
        except Exception:  # it was proven briefly, and is tried again
            _log.exception("a proof failed for reasons of its own")
            return
        self._metrics.refreshed(changed)
        for tenant, error in changed.refused.items():
            _log.error("tenant %s: bundle refused [%s]: %s", tenant, error.reason, error)

    def _reload_tokens(self) -> None:
        try:
            if self._tokens is not None and self._tokens.reload():
                _log.info("tokens were read anew")
        except Exception as error:  # by its class alone: it may quote the file
            told = error if isinstance(error, ConfigError) else type(error).__name__
            _log.error("tokens refused; those read before hold on: %s", told)

    def _refresh(self) -> None:
        try:
            changed = self._engine.refresh()
        except Exception:  # the store may be back in a second; what is loaded stays live
            _log.exception("refresh failed; live adapters stay as they are")
            return
        self._refreshed_at = time.monotonic()
        self._metrics.refreshed(changed)
        for tenant in changed.loaded:
            found = self._engine.snapshot.find(tenant)
            if isinstance(found, AdapterDistillError):
                _log.error("tenant %s: not served: %s", tenant, found)
            else:
                bundle_id = found if isinstance(found, str) else found.bundle_id
                _log.info("tenant %s: adapter version %s is live", tenant, bundle_id[:12])
        if changed.known:
            _log.info("%d tenants are loaded when they are asked for", len(changed.known))
        for tenant in changed.dropped:
            _log.info("tenant %s: no longer live", tenant)
        for tenant, error in changed.refused.items():
            _log.error("tenant %s: bundle refused [%s]: %s", tenant, error.reason, error)


def _look_for_garbage_seldom() -> None:
    """A search for garbage in all of memory takes 0.1 to 0.2 s, for which every request waits, and
    came each few seconds under load. So it leaves out what is in memory by now, and comes a hundred
    times less often: next to nothing becomes garbage that is not freed at once."""
    gc.collect()
    gc.freeze()
    often, less_often, seldom = gc.get_threshold()
    gc.set_threshold(often, less_often, 100 * seldom)


def _tracing() -> Any:
    from serve.tracing import Tracing  # it needs an extra

    return Tracing.from_environment()


def build(args: Mapping[str, Any]) -> Application:
    """The app with the given `ServeSettings`. Raises ConfigError."""
    settings = ServeSettings.of(args)
    replica: Any = ray_serve.ingress()(SearchService)
    deployment: Any = ray_serve.deployment(
        replica,
        name="search",
        num_replicas=settings.num_replicas,
        ray_actor_options={"num_cpus": settings.num_cpus},
        # Above the batcher's own limits, of what waits and of what it refuses in a while, so that
        # the batcher answers 503 with Retry-After.
        max_ongoing_requests=2 * settings.max_queued + settings.max_batch_tokens + 64,
        max_queued_requests=settings.max_queued,
        health_check_period_s=5,
        health_check_timeout_s=15,
        graceful_shutdown_wait_loop_s=0.5,
        # A replica that stops gets no new requests, and ends when it has none: whatever waits is
        # answered, or given up, by then. Behind HAProxy, Ray raises this above its own 30 s.
        graceful_shutdown_timeout_s=settings.request_timeout_s + DRAIN_S,
        logging_config={"enable_access_log": False},  # the request log says more, in one line
    )
    app: Application = deployment.bind(settings.model_dump(mode="json"))
    return app


def deploy(
    args: Mapping[str, Any],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    grpc_port: int | None = None,
) -> str:
    """Deploy on the connected Ray cluster, wait until it answers, and return its HTTP address.

    On loopback `tokens` may be absent: then HTTP is open to all who are on this machine.
    `grpc_port`: Serve's gRPC proxy listens there on all interfaces, without TLS; None: it is off.

    Raises:
        ConfigError: the settings are refused.
        ServingError: Serve runs already, and not with this gRPC port.
    """
    if args.get("tokens") is None and is_loopback(host):
        args = {**args, "open_to_all": True}
    app = build(args)
    ray_serve.start(
        http_options={"host": host, "port": port, "request_timeout_s": REQUEST_TIMEOUT_S},
        grpc_options=(
            None if grpc_port is None else rpc_proxy.options(grpc_port, REQUEST_TIMEOUT_S)
        ),
    )
    if grpc_port is not None:
        _check_grpc(grpc_port)
    ray_serve.run(app, name=APP_NAME, route_prefix="/")
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    _wait_for_route(address)
    return address


@tenacity.retry(
    retry=tenacity.retry_if_exception_type(httpx.HTTPError),
    wait=tenacity.wait_fixed(0.1),
    stop=tenacity.stop_after_delay(ROUTE_TIMEOUT_S),
    retry_error_callback=lambda state: _log.warning("%s does not answer yet", state.args[0]),
)
def _wait_for_route(address: str) -> None:
    """HAProxy hears of a replica a moment after Serve calls it ready, and says 404 till then."""
    httpx.get(f"{address}/healthz", timeout=5).raise_for_status()


def _check_grpc(port: int) -> None:
    """Serve that runs already ignores new options without a word."""
    client: Any = ray_serve.context._get_global_client()
    running = client.get_serve_details()["grpc_options"]
    wanted = rpc_proxy.options(port, REQUEST_TIMEOUT_S)
    if any(running[name] != value for name, value in wanted.items()):
        raise ServingError(
            f"Ray Serve runs already on this cluster, and not with gRPC on port {port}: stop it "
            "(`serve shutdown`) or deploy without"
        )
