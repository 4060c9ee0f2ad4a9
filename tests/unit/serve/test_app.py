"""The wrapper for Ray Serve, with Serve's own functions replaced: no cluster is started."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
import tenacity
from starlette.testclient import TestClient

from adapterdistill.backbone import Encoder
from adapterdistill.errors import ConfigError, ServingError
from adapterdistill.serve import app
from adapterdistill.serve.grpc import rpc_proxy
from adapterdistill.serving.v1 import serving_pb2 as pb
from tests.serving_store import make_tenant, put_live
from tests.unit.serve.grpc.rpc_calls import Context

RUNNING = {"port": 9000, "grpc_servicer_functions": ["x"], "enable_reflection": False}


@pytest.fixture
def serve_calls(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Records the calls to Ray Serve, and answers at once."""
    calls = Mock()
    monkeypatch.setattr(app.ray_serve, "start", calls.start)
    monkeypatch.setattr(app.ray_serve, "run", calls.run)
    monkeypatch.setattr(app.httpx, "get", calls.get)
    return calls


def test_the_wrapper_passes_each_call_of_serve_on_to_the_replica(
    store: Path, encoder: Encoder, encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_live(store, make_tenant(encoder, "acme", seed=1))
    replica_id = SimpleNamespace(unique_id="replica-7")
    context = SimpleNamespace(replica_id=replica_id)
    monkeypatch.setattr(app.ray_serve, "get_replica_context", lambda: context)
    garbage = Mock()
    monkeypatch.setattr(app, "collect_garbage_seldom", garbage)
    args = {"store": str(store), "encoder": str(encoder_folder), "open_to_all": True}
    service = app.SearchService(args)
    garbage.assert_called_once_with()
    with TestClient(service.__serve_build_asgi_app__()) as client:
        body = client.post("/v1/tenants/acme/search", json={"query": "hi"}).json()
        assert body["tenant"] == "acme"
        assert 'replica="replica-7"' in client.get("/metrics").text
    service.check_health()
    refused = Context()
    request = pb.SearchRequest(tenant="acme").SerializeToString()
    assert asyncio.run(service.Search(request, refused)) == pb.SearchResponse()
    assert asyncio.run(service.GetTenant(request, refused)) == pb.GetTenantResponse()
    assert refused.code is not None and refused.code.name == "UNAUTHENTICATED"
    closed = Mock(wraps=service._replica.close)
    monkeypatch.setattr(service._replica, "close", closed)
    service.__del__()
    closed.assert_called_once_with()


def test_a_wrapper_whose_construction_failed_ends_quietly() -> None:
    app.SearchService.__new__(app.SearchService).__del__()


@pytest.mark.parametrize(
    ("host", "address"),
    [("127.0.0.1", "http://127.0.0.1:8001"), ("::1", "http://[::1]:8001")],
)
def test_a_deployment_on_loopback_is_open_and_tells_its_address(
    serve_calls: Mock, tmp_path: Path, host: str, address: str
) -> None:
    assert app.deploy({"store": str(tmp_path)}, host=host, port=8001) == address
    started = serve_calls.start.call_args.kwargs
    assert started["http_options"]["host"] == host and started["grpc_options"] is None
    [deployed] = serve_calls.run.call_args.args
    [settings] = deployed._bound_deployment.init_args
    assert settings["open_to_all"] and settings["store"] == str(tmp_path)
    serve_calls.get.assert_called_once_with(f"{address}/healthz", timeout=5)


@pytest.mark.parametrize("running", [RUNNING, None])
def test_a_running_serve_with_other_grpc_options_is_refused(
    serve_calls: Mock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    running: dict[str, Any] | None,
) -> None:
    wanted = rpc_proxy.options(9000, app.REQUEST_TIMEOUT_S)
    found = wanted if running is None else running | {"request_timeout_s": 1}
    monkeypatch.setattr(app.ray_private, "serve_grpc_options", lambda: found)
    if running is None:
        assert app.deploy({"store": str(tmp_path)}, grpc_port=9000) == "http://127.0.0.1:8000"
        assert serve_calls.start.call_args.kwargs["grpc_options"] == wanted
    else:
        with pytest.raises(ServingError, match="without gRPC on port 9000"):
            app.deploy({"store": str(tmp_path)}, grpc_port=9000)
        serve_calls.run.assert_not_called()


def test_an_address_that_does_not_answer_in_time_is_a_warning_and_no_error(
    serve_calls: Mock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    serve_calls.get.side_effect = httpx.ConnectError("nobody")
    monkeypatch.setattr(app._wait_for_route.retry, "stop", tenacity.stop_after_attempt(2))
    monkeypatch.setattr(app._wait_for_route.retry, "sleep", Mock())
    app._log.propagate = True
    app.deploy({"store": str(tmp_path)})
    assert serve_calls.get.call_count == 2
    assert "http://127.0.0.1:8000 does not answer yet" in caplog.text


@pytest.mark.parametrize("insecure", [False, True])
def test_a_cluster_without_a_token_is_refused_to_every_way_of_deploying(
    store: Path, monkeypatch: pytest.MonkeyPatch, insecure: bool
) -> None:
    monkeypatch.setattr(app.ray, "is_initialized", lambda: True)
    context = SimpleNamespace(gcs_address="10.0.0.1:6379")
    monkeypatch.setattr(app.ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(app.ray_private, "asks_for_token", lambda _: False)
    args = {"store": str(store), "open_to_all": True, "insecure_cluster": insecure}
    if insecure:
        app.build(args)
        return
    with pytest.raises(ConfigError, match="asks for no token"):
        app.build(args)
