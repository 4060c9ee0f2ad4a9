"""Names the private interface of Ray that is gone, when a Ray release moves one that is used."""

import asyncio
import importlib
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from adapterdistill import ray_private

ROOT = Path(__file__).parents[2]
INTERFACES = (
    "ray.core.generated.gcs_service_pb2:CheckAliveRequest",
    "ray._private.state:available_resources_per_node",
    "ray._private.state:total_resources_per_node",
    "ray.scripts.scripts:main",
    "ray.scripts.scripts:ray_constants.ENABLE_RAY_CLUSTER",
    "ray.serve.context:_get_global_client",
    "ray._private.worker:global_worker.actors",
    "ray.serve._private.common:RequestProtocol.HTTP",
    "ray.serve._private.replica:Replica._direct_ingress_asgi",
    "ray.serve._private.replica:Replica._maybe_start_direct_ingress_servers",
    "ray.serve._private.replica:ReplicaMetricsManager.inc_num_ongoing_requests",
    "ray.serve._private.replica:ReplicaMetricsManager.dec_num_ongoing_requests",
    "ray.serve._private.client:ServeControllerClient.get_serve_details",
    "ray.train.v2._internal.exceptions:WorkerGroupStartupTimeoutError",
)
_PRIVATE = re.compile(
    r"\bray\.[\w.]*\b_\w|\bray\.scripts\b|_get_global_client|_base_exc|SERVE_REPLICA::"
    r"|\b(serve|ray_serve|ray)\.context\._|ray_constants"
)


@pytest.mark.parametrize("interface", INTERFACES)
def test_the_private_interface_of_ray_is_where_it_was(interface: str) -> None:
    module, _, path = interface.partition(":")
    try:
        found = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError):
        pytest.fail(f"this Ray has no {interface}: change adapterdistill/ray_private.py")


def test_the_error_of_a_training_worker_is_found_under_ray_s() -> None:
    from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

    raised = ValueError("no rows")
    assert ray_private.raised_by_worker(UserExceptionWithTraceback(raised, "...")) is raised
    assert ray_private.raised_by_worker(raised) is raised


def test_a_startup_timeout_is_told_from_other_errors() -> None:
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    assert ray_private.is_startup_timeout(WorkerGroupStartupTimeoutError(2))
    assert not ray_private.is_startup_timeout(RuntimeError())
    assert not ray_private.is_startup_timeout(None)


def test_a_replica_is_known_by_the_name_that_serve_gives_it() -> None:
    from ray.serve._private.common import DeploymentID, ReplicaID

    name = ReplicaID("x1", DeploymentID("search", "app")).to_full_id_str()
    assert ray_private.is_serve_replica(name, "app")
    assert not ray_private.is_serve_replica(name, "other")


def test_what_nodes_have_free_is_paired_with_all_that_they_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ray._private import state

    monkeypatch.setattr(state, "available_resources_per_node", lambda: {"a": {"CPU": 1.0}})
    monkeypatch.setattr(
        state, "total_resources_per_node", lambda: {"a": {"CPU": 2.0}, "b": {"CPU": 4.0}}
    )
    found = ray_private.node_resources()
    assert found == [({"CPU": 2.0}, {"CPU": 1.0}), ({"CPU": 4.0}, {})]


def test_the_options_of_the_running_serve_are_its_grpc_options(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ray.serve import context

    class Client:
        def get_serve_details(self) -> dict[str, object]:
            return {"grpc_options": {"port": 9000}}

    monkeypatch.setattr(context, "_get_global_client", Client)
    assert ray_private.serve_grpc_options() == {"port": 9000}


def test_no_other_file_uses_ray_s_private_interfaces() -> None:
    used = [
        f"{path.relative_to(ROOT)}:{number}"
        for package in ("adapterdistill", "actors", "serve")
        for path in sorted((ROOT / package).rglob("*.py"))
        if path != Path(ray_private.__file__).resolve()
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1)
        if _PRIVATE.search(line)
    ]
    assert used == []


@pytest.mark.parametrize("asks", [True, False])
def test_a_cluster_is_asked_without_a_token_whether_it_wants_one(asks: bool) -> None:
    import grpc

    def alive(_request: bytes, context: Any) -> bytes:
        if asks and "authorization" not in dict(context.invocation_metadata()):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
        return b""

    service, _, call = ray_private._ALIVE.removeprefix("/").partition("/")
    handler = grpc.unary_unary_rpc_method_handler(alive)
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(service, {call: handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        assert ray_private.asks_for_token(f"127.0.0.1:{port}") == asks
    finally:
        server.stop(0).wait()


def test_a_cluster_that_does_not_answer_is_not_taken_for_one_with_a_token() -> None:
    assert not ray_private.asks_for_token("127.0.0.1:1", timeout_s=2)


def test_direct_paths_are_answered_by_the_app_and_counted_as_ongoing_and_others_by_ray(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ray._private.worker import global_worker

    told: list[str] = []

    class Counts:
        def inc_num_ongoing_requests(self, request: Any) -> None:
            told.append(f"+{request.protocol.value}".lower())

        def dec_num_ongoing_requests(self, request: Any) -> None:
            told.append(f"-{request.protocol.value}".lower())

    class Impl:
        _metrics_manager = Counts()

        async def _direct_ingress_asgi(self, *_: Any) -> None:
            told.append("ray")

    class Actor:
        _replica_impl = Impl()

    async def app(scope: Any, *_: Any) -> None:
        told.append("app")
        if scope["path"] == "/mine/broken":
            raise RuntimeError("broken")

    monkeypatch.setattr(global_worker, "actors", {1: object(), 2: Actor()})
    ray_private.answer_directly(app, lambda path: path.startswith("/mine"))

    def ask(path: str, kind: str = "http") -> list[str]:
        told.clear()
        asyncio.run(Actor._replica_impl._direct_ingress_asgi({"type": kind, "path": path}, 0, 0))
        return told

    assert ask("/mine") == ["+http", "app", "-http"]
    assert ask("/other") == ["ray"] and ask("/mine", "websocket") == ["ray"]
    with pytest.raises(RuntimeError, match="broken"):
        ask("/mine/broken")
    assert told == ["+http", "app", "-http"]
