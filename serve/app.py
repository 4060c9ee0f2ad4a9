"""The Ray Serve app: it wraps `serve.replica.Replica` in one deployment.

HTTP, gRPC and engine share the deployment, because a hop to a second one costs more than the model
(a query takes some milliseconds). `build` is the import path for `serve deploy`; `deploy` does the
same from Python.
"""

import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import httpx
import ray
import tenacity
from fastapi import FastAPI
from ray import serve as ray_serve
from ray.exceptions import RayError
from ray.serve import Application

from adapterdistill import ray_private
from adapterdistill.errors import ServingError
from adapterdistill.open_cluster import refuse_open_cluster
from adapterdistill.registry.server.server import is_loopback
from adapterdistill.serve.grpc import rpc_proxy
from adapterdistill.serve.http.api import is_search
from adapterdistill.serve.replica import Replica, collect_garbage_seldom
from adapterdistill.serve.settings import ServeSettings
from adapterdistill.serving.v1 import serving_pb2 as pb

APP_NAME = "adapterdistill"
REQUEST_TIMEOUT_S = 30.0
ROUTE_TIMEOUT_S = 20.0
DRAIN_S = 10.0
"""Time for the batch that is computed when the last waiting request is given up."""
_log = logging.getLogger("ray.serve")


class SearchService:
    """The methods that Ray Serve calls on a replica."""

    def __init__(self, args: dict[str, Any]) -> None:
        replica_id = ray_serve.get_replica_context().replica_id.unique_id
        self._replica = Replica(ServeSettings.of(args), replica_id=replica_id)
        collect_garbage_seldom()

    def __serve_build_asgi_app__(self) -> FastAPI:
        app = self._replica.build_http_app()
        ray_private.answer_directly(app, is_search)
        return app

    async def Search(self, request: bytes, grpc_context: Any) -> pb.SearchResponse:
        """Serve finds the method by the call's name, and gives the context by the argument's."""
        return await self._replica.rpc.search(request, grpc_context)

    async def Classify(self, request: bytes, grpc_context: Any) -> pb.ClassifyResponse:
        return await self._replica.rpc.classify(request, grpc_context)

    async def GetTenant(self, request: bytes, grpc_context: Any) -> pb.GetTenantResponse:
        return await self._replica.rpc.get_tenant(request, grpc_context)

    def check_health(self) -> None:
        """Ray Serve replaces the replica if this raises."""
        self._replica.check_health()

    def __del__(self) -> None:
        if hasattr(self, "_replica"):  # its construction may have failed
            self._replica.close()


def build(args: Mapping[str, Any]) -> Application:
    """The app with the given `ServeSettings`.

    Raises ConfigError: they are refused, or the connected cluster asks for no token.
    """
    settings = ServeSettings.of(args)
    if ray.is_initialized():  # as on `serve deploy`, which has no option to accept an open cluster
        refuse_open_cluster(insecure=settings.insecure_cluster)
    replica: Any = ray_serve.ingress()(SearchService)
    deployment: Any = ray_serve.deployment(
        replica,
        name="search",
        num_replicas=settings.num_replicas,
        ray_actor_options={"num_cpus": settings.num_cpus},
        # More than the batcher lets wait or refuses after a while: so the batcher, not Serve,
        # refuses a request, with 503 and Retry-After.
        max_ongoing_requests=2 * settings.max_queued + settings.max_batch_tokens + 64,
        max_queued_requests=settings.max_queued,
        health_check_period_s=5,
        health_check_timeout_s=15,
        graceful_shutdown_wait_loop_s=0.5,
        # A replica that stops gets no new requests, and ends when it has none: by then it has
        # answered or given up all that waited. Behind HAProxy, Ray raises this above its own 30 s.
        graceful_shutdown_timeout_s=settings.request_timeout_s + DRAIN_S,
        logging_config={"enable_access_log": False},  # the request log says more in its one line
    )
    app: Application = deployment.bind(settings.model_dump(mode="json"))
    return app


def deploy(
    args: Mapping[str, Any],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    grpc_port: int | None = None,
    serve_host: str | None = None,
) -> str:
    """Deploy on the connected Ray cluster, wait until it answers, and return its HTTP address.

    On loopback `tokens` may be absent: then HTTP is open to everyone on this machine.

    Args:
        args: `ServeSettings`.
        serve_host: where Serve listens, if HAProxy in front of it listens on `host`.
        grpc_port: where Serve's gRPC proxy listens, on all interfaces and without TLS; None: gRPC
            is off.

    Raises:
        ConfigError: the settings are refused.
        ServingError: Serve runs already, and not with this gRPC port; or the replicas do not start.
    """
    if args.get("tokens") is None and is_loopback(host):
        args = {**args, "open_to_all": True}
    app = build(args)
    try:
        ray_serve.start(
            http_options={
                "host": serve_host or host,
                "port": port,
                "request_timeout_s": REQUEST_TIMEOUT_S,
            },
            grpc_options=(
                None if grpc_port is None else rpc_proxy.options(grpc_port, REQUEST_TIMEOUT_S)
            ),
        )
        if grpc_port is not None:
            _check_grpc(grpc_port)
        ray_serve.run(app, name=APP_NAME, route_prefix="/")
    except (RuntimeError, TimeoutError, RayError) as error:
        raise ServingError(f"Ray Serve does not start: {_cause(error)}") from error
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    _wait_for_route(address)
    return address


def _cause(error: Exception) -> str:
    """Why replicas fail: the last line of a replica's traceback, which Serve's error leaves out."""
    told = []
    with suppress(Exception):  # Serve itself may be what fails
        deployments = ray_serve.status().applications[APP_NAME].deployments
        told = [one.message for one in deployments.values()]
    lines = [line.strip() for line in "\n".join([str(error), *told]).splitlines()]
    raised = [line for line in lines if re.match(r"[\w.]+(Error|Exception): ", line)]
    return (raised or list(filter(None, lines)) or ["no reason given"])[-1][:500]


@tenacity.retry(
    retry=tenacity.retry_if_exception_type(httpx.HTTPError),
    wait=tenacity.wait_fixed(0.1),
    stop=tenacity.stop_after_delay(ROUTE_TIMEOUT_S),
    retry_error_callback=lambda state: _log.warning("%s does not answer yet", state.args[0]),
)
def _wait_for_route(address: str) -> None:
    """Wait until HAProxy knows the replica; it answers 404 until a moment after Serve is ready."""
    httpx.get(f"{address}/healthz", timeout=5).raise_for_status()


def _check_grpc(port: int) -> None:
    """Raise ServingError for a running Serve with other options: it ignores new ones silently."""
    running = ray_private.serve_grpc_options()
    wanted = rpc_proxy.options(port, REQUEST_TIMEOUT_S)
    if any(running[name] != value for name, value in wanted.items()):
        raise ServingError(
            f"Ray Serve already runs on this cluster, without gRPC on port {port}: stop it (`serve "
            "shutdown`), or deploy without gRPC"
        )
