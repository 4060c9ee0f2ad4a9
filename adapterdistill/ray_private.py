"""Everything that this project uses of Ray beyond Ray's public interface, in one file.

A Ray release may move any of it without notice: `tests/unit/test_ray_private.py` then names what is
gone. Ray is imported when a function is called.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

RAY_COMMAND = "ray.scripts.scripts"
"""The module behind the command `ray`, for `python -m`."""
JOIN_ON_LOOPBACK = f"""
from types import SimpleNamespace
from {RAY_COMMAND.rpartition(".")[0]} import scripts
known = vars(scripts.ray_constants)
scripts.ray_constants = SimpleNamespace(**known | {{"ENABLE_RAY_CLUSTER": True}})
scripts.main()
"""
"""Program that takes the arguments of the command `ray`, and lets a second node join on loopback.

A Ray that keeps to loopback refuses a second node, although one machine can hold both.
"""
_ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"
_REPLICA_NAME = "SERVE_REPLICA::{app}#"


def asks_for_token(gcs_address: str, *, timeout_s: float = 10.0) -> bool:
    """Whether the cluster's head refuses a call without a token, as it then does with every other.

    The mode of this process says nothing about the cluster's.

    Args:
        gcs_address: host:port of Ray's Global Control Service.
    """
    import grpc

    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        names = ("RAY_TLS_CA_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_SERVER_CERT")
        credentials = grpc.ssl_channel_credentials(
            *(Path(os.environ[n]).read_bytes() for n in names)
        )
        channel = grpc.secure_channel(gcs_address, credentials)
    else:
        channel = grpc.insecure_channel(gcs_address)
    with channel:
        try:
            channel.unary_unary(_ALIVE)(b"", timeout=timeout_s)
        except grpc.RpcError as error:
            return bool(error.code() == grpc.StatusCode.UNAUTHENTICATED)
    return False


def job_client(address: str, *, timeout_s: float) -> Any:
    """A `JobSubmissionClient` whose every request has a time limit; Ray's own wait for ever.

    Its requests raise OSError after that time, or where nothing answers.

    Args:
        address: URL of the cluster's dashboard.
    """
    from ray.job_submission import JobSubmissionClient

    class Limited(JobSubmissionClient):
        def _do_request(self, *args: Any, **more: Any) -> Any:
            return super()._do_request(*args, timeout=timeout_s, **more)

    return Limited(address)


def node_resources() -> list[tuple[dict[str, float], dict[str, float]]]:
    """All and free resources of each live node, as they were about a second ago.

    Ray's public functions give what is free in the whole cluster only.
    """
    from ray._private import state

    free = state.available_resources_per_node()
    totals = state.total_resources_per_node()
    return [(total, free.get(node, {})) for node, total in totals.items()]


def is_startup_timeout(error: BaseException | None) -> bool:
    """Whether Ray Train gave up because its workers found no room in time."""
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    return isinstance(error, WorkerGroupStartupTimeoutError)


def raised_by_worker(error: BaseException) -> BaseException:
    """The error that a training worker raised; Ray wraps it, with its traceback as the message."""
    found: BaseException = getattr(error, "_base_exc", error)
    return found


def serve_grpc_options() -> dict[str, Any]:
    """The gRPC options of the running Ray Serve, which its public status leaves out."""
    from ray.serve import context

    client: Any = context._get_global_client()
    options: dict[str, Any] = client.get_serve_details()["grpc_options"]
    return options


def is_serve_replica(actor_name: str, app_name: str) -> bool:
    """Whether Ray Serve gave this name to the actor of a replica of the app."""
    return actor_name.startswith(_REPLICA_NAME.format(app=app_name))


def answer_directly(app: "ASGIApp", is_direct: Callable[[str], bool]) -> None:
    """Give requests of some paths from HAProxy to the replica's own app, past Ray Serve's layer.

    That layer makes two tasks, ten context variables and six measurements of each request, which
    take longer than the app. Here Serve still counts the request as ongoing, so that a replica that
    stops waits for it and autoscaling sees it. The app limits, times and logs requests itself, and
    has to notice that a client is gone.

    Call it in a replica before Serve starts to listen. Without HAProxy nothing changes.

    Args:
        is_direct: tells by a request's path.
    """
    from ray._private.worker import global_worker
    from ray.serve._private.common import RequestMetadata, RequestProtocol

    replicas = [getattr(actor, "_replica_impl", None) for actor in global_worker.actors.values()]
    replica: Any = next(filter(None, replicas), None)
    if replica is None:  # Serve's local testing mode has no actors
        return
    by_ray, counts = replica._direct_ingress_asgi, replica._metrics_manager
    request = RequestMetadata(
        request_id="",
        internal_request_id="",
        _request_protocol=RequestProtocol.HTTP,
        is_direct_ingress=True,
    )

    async def handle(scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] != "http" or not is_direct(scope["path"]):
            await by_ray(scope, receive, send)
            return
        counts.inc_num_ongoing_requests(request)
        try:
            await app(scope, receive, send)
        finally:
            counts.dec_num_ongoing_requests(request)

    replica._direct_ingress_asgi = handle
