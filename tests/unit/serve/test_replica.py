"""A replica as Ray Serve starts it, without Ray: it answers, follows its sources, and ends."""

import gc
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import grpc
import pytest
from starlette.testclient import TestClient

import adapterdistill.serve.tracing
from adapterdistill.backbone import Encoder
from adapterdistill.errors import ConfigError, ServingError
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.trust.authority import create
from adapterdistill.registry.trust.credentials import read_credentials
from adapterdistill.serve.engine.engine import Refresh
from adapterdistill.serve.replica import Replica, collect_garbage_seldom
from adapterdistill.serve.settings import ServeSettings
from adapterdistill.serve.tokens import new_token, revoke
from adapterdistill.serving.v1 import serving_pb2 as pb
from adapterdistill.store.release import take_down
from tests.contract.running_registry import Running, wait_until
from tests.enrolment import enrolled
from tests.serving_store import make_tenant, put_live, save_tiny_encoder
from tests.unit.serve.grpc.rpc_calls import SECRET, Context, call

Start = Callable[..., Replica]
SEARCH = "/v1/tenants/acme/search"


@pytest.fixture
def start(
    store: Path, encoder: Encoder, encoder_folder: Path, caplog: pytest.LogCaptureFixture
) -> Iterator[Start]:
    """Starts a replica over a store that serves `acme`, with these settings changed."""
    put_live(store, make_tenant(encoder, "acme", seed=1))
    logging.getLogger("ray.serve").propagate = True
    caplog.set_level(logging.INFO, "ray.serve")
    started: list[Replica] = []

    def start(**changed: Any) -> Replica:
        args = {"store": str(store), "encoder": str(encoder_folder), "dtype": "float32"}
        args |= {"refresh_s": 0.05, "open_to_all": "tokens" not in changed, **changed}
        started.append(Replica(ServeSettings.of(args), replica_id="replica-1"))
        return started[-1]

    yield start
    for replica in started:
        replica.close()


def test_a_replica_answers_over_http_and_grpc_alike(start: Start, tmp_path: Path) -> None:
    token = new_token(tmp_path / "tokens.json", "acme", days=1)[0]
    operator = new_token(tmp_path / "tokens.json", None, days=1)[0]
    replica = start(tokens=str(tmp_path / "tokens.json"))
    bearer = {"Authorization": f"Bearer {token}"}
    with TestClient(replica.build_http_app()) as client:
        assert client.post(SEARCH, json={"query": "hi"}).status_code == 401
        answer = client.post(SEARCH, json={"query": "hi"}, headers=bearer).json()
        assert client.get("/healthz").json()["num_tenants"] == 1
        metrics = client.get("/metrics", headers={"Authorization": f"Bearer {operator}"}).text
        assert 'adapterdistill_tenants{replica="replica-1",state="live"} 1.0' in metrics
    replica = start(tokens=str(tmp_path / "tokens.json"))
    context = Context((("authorization", f"Bearer {token}"),))
    asked = pb.SearchRequest(tenant="acme", queries=["hi"]).SerializeToString()
    response = call(replica.rpc.search, asked, context)
    assert context.code is None
    assert response.adapter.version == answer["adapter"]["version"]
    [over_grpc], [over_http] = response.results, answer["results"]
    assert [r.faq_id for r in over_grpc.ranked] == [r["faq_id"] for r in over_http["ranked"]]


def test_a_store_that_is_absent_is_made_only_where_that_is_asked_for(
    start: Start, tmp_path: Path
) -> None:
    misspelt = tmp_path / "bundels"
    with pytest.raises(ConfigError, match=r"bundels: no such store.*--create"):
        start(store=str(misspelt))
    assert not misspelt.exists()
    start(store=str(misspelt), create_store=True)
    assert misspelt.stat().st_mode & 0o777 == 0o700


def test_a_new_bundle_goes_live_and_a_dropped_tenant_leaves(
    start: Start, store: Path, encoder: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    replica = start()
    new = make_tenant(encoder, "newcomer", seed=2)
    with TestClient(replica.build_http_app()) as client:
        put_live(store, new)
        wait_until(lambda: client.get("/v1/tenants/newcomer").status_code == 200)
        take_down(store, "newcomer")
        wait_until(lambda: client.get("/v1/tenants/newcomer").status_code == 404)
    wait_until(lambda: "tenant newcomer: no longer live" in caplog.text)
    version = new.bundle.manifest.version[:12]
    assert f"tenant newcomer: adapter version {version} is live" in caplog.text
    replica.check_health()


def test_a_second_encoder_is_loaded_for_the_bundle_that_needs_it_and_told_of(
    start: Start, store: Path, encoder: Encoder, other_encoder: Encoder, tmp_path: Path
) -> None:
    folder = save_tiny_encoder(tmp_path / "other-encoder", seed=1)  # the same as `other_encoder`
    replica = start(other_encoders=[str(folder)], encoder_mib=64)
    with TestClient(replica.build_http_app()) as client:
        told = client.get("/v1/encoders").json()
        assert [one["name"] for one in told["loaded"]] == [encoder.ref.name]
        assert told["not_loaded"] == ["other-encoder"]
        assert told["encoder_limit_bytes"] == 64 * 2**20
        put_live(store, make_tenant(other_encoder, "moved", seed=2))
        wait_until(lambda: client.get("/v1/tenants/moved").status_code == 200)
        assert client.get("/v1/tenants/moved").json()["encoder"] == "other-encoder"
        told = client.get("/v1/encoders").json()
        assert [one["tenants_in_memory"] for one in told["loaded"]] == [1, 1]
        assert told["not_loaded"] == []
        metrics = client.get("/metrics").text
    for one in told["loaded"]:
        assert one["encoder_bytes"] > 0 and one["adapter_bytes"] > 0
        assert f'adapterdistill_memory_bytes{{encoder="{one["name"]}",part="encoders"' in metrics
    assert 'adapterdistill_memory_limit_bytes{part="encoders",replica="replica-1"}' in metrics


def test_a_store_that_cannot_be_read_costs_nothing_that_is_live(
    start: Start, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    replica = start()
    store.rename(store.with_name("elsewhere"))
    with TestClient(replica.build_http_app()) as client:
        replica.refresh()
        assert "cannot be used: it is empty or not mounted" in caplog.text
        assert client.post(SEARCH, json={"query": "hi"}).status_code == 200


def test_a_refused_and_a_withheld_bundle_are_logged_and_counted(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    replica = start(refresh_s=3600)
    engine = replica._engine
    changed = Refresh(("gone",), (), {"bad": ServingError("no good")}, ("later",))
    monkeypatch.setattr(engine, "refresh", lambda: changed)
    monkeypatch.setattr(engine, "prove_next", lambda: Refresh((), (), changed.refused))
    replica.refresh()
    replica.prove_next()
    assert caplog.text.count("tenant bad: bundle refused [SERVING_ERROR]: no good") >= 2
    assert "tenant gone: not served: tenant gone has no live adapter" in caplog.text
    assert "1 tenants are loaded when they are asked for" in caplog.text
    monkeypatch.setattr(engine, "prove_next", Mock(side_effect=RuntimeError("no memory")))
    replica.prove_next()
    assert "a proof failed, and not because of the adapter" in caplog.text
    replica.check_health()


def test_a_revoked_token_ends_and_a_damaged_file_leaves_the_others_valid(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "tokens.json"
    (first, row), (second, _) = (new_token(path, "acme", days=1) for _ in range(2))
    replica = start(tokens=str(path))
    with TestClient(replica.build_http_app()) as client:

        def status(token: str) -> int:
            headers = {"Authorization": f"Bearer {token}"}
            return client.get("/v1/tenants/acme", headers=headers).status_code

        assert status(first) == status(second) == 200
        revoke(path, "acme", row.id)
        wait_until(lambda: status(first) == 401)
        path.write_text(f'{{"{SECRET}": 1}}', "utf-8")
        wait_until(lambda: "token file refused" in caplog.text)
        assert status(second) == 200
    assert SECRET not in caplog.text and "the token file was read again" in caplog.text


def test_deleting_the_token_file_closes_http_and_grpc_until_it_is_back(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "tokens.json"
    token = new_token(path, "acme", days=1)[0]
    replica = start(tokens=str(path))
    headers = {"Authorization": f"Bearer {token}"}
    asked = pb.SearchRequest(tenant="acme", queries=["hi"]).SerializeToString()

    def refused_over_grpc() -> bool:
        context = Context((("authorization", f"Bearer {token}"),))
        call(replica.rpc.search, asked, context)
        return context.code == grpc.StatusCode.UNAUTHENTICATED

    with TestClient(replica.build_http_app()) as client:

        def status() -> int:
            return client.get("/v1/tenants/acme", headers=headers).status_code

        assert status() == 200
        path.rename(tmp_path / "elsewhere")
        wait_until(lambda: status() == 401)
        assert refused_over_grpc()
        assert "nobody may ask until there is one" in caplog.text
        assert client.get("/healthz").status_code == 200
        (tmp_path / "elsewhere").rename(path)
        wait_until(lambda: status() == 200)


def test_an_unforeseen_fault_of_the_token_file_is_logged_by_its_class_alone(
    start: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    new_token(tmp_path / "tokens.json", "acme", days=1)
    replica = start(tokens=str(tmp_path / "tokens.json"), refresh_s=3600)
    assert replica._tokens is not None
    monkeypatch.setattr(replica._tokens, "reload", Mock(side_effect=RuntimeError(SECRET)))
    replica.reload_tokens()
    assert "the tokens read before stay valid: RuntimeError" in caplog.text
    assert SECRET not in caplog.text


def test_a_replica_without_its_token_file_admits_nobody_until_there_is_one(
    start: Start, tmp_path: Path
) -> None:
    path = tmp_path / "later.json"
    replica = start(tokens=str(path), refresh_s=0.05)
    with TestClient(replica.build_http_app()) as client:

        def status(token: str) -> int:
            headers = {"Authorization": f"Bearer {token}"}
            return client.get("/v1/tenants/acme", headers=headers).status_code

        assert status("adt_none") == 401 and client.get("/healthz").status_code == 200
        token, _ = new_token(path, "acme", days=1)
        wait_until(lambda: status(token) == 200)


def test_a_watching_replica_renews_its_certificates_and_watches_on(
    start: Start,
    store: Path,
    encoder: Encoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("adapterdistill.serve.replica.LOOK_EVERY_S", 0.05)
    root, folder = tmp_path / "registry", tmp_path / "acme"
    create(root, ["127.0.0.1"])
    registry = Running(root)
    # It ends in seconds; until then the watch runs by it.
    old = enrolled(root, folder, lifetime=timedelta(seconds=5))
    made = make_tenant(encoder, "acme", seed=1)
    replica = start(registry=registry.address, registry_credentials=str(folder))
    try:
        with RegistryClient(registry.address, credentials=folder) as owner:
            owner.publish(made.bundle.manifest, made.bundle.adapter_payload)
        wait_until(lambda: not read_credentials(folder).is_due(datetime.now(UTC)))
        wait_until(lambda: old.certificate.not_valid_after_utc < datetime.now(UTC))
        registry.client.withdraw(made.bundle.manifest.ref, "wrong labels")
        with TestClient(replica.build_http_app()) as client:
            wait_until(lambda: client.post(SEARCH, json={"query": "hi"}).status_code == 410)
        replica.check_health()
    finally:
        registry.close()


def test_what_the_registry_withdraws_is_gone(
    start: Start, encoder: Encoder, tmp_path: Path
) -> None:
    registry = Running(tmp_path / "registry")
    made = make_tenant(encoder, "acme", seed=1)
    registry.client.publish(made.bundle.manifest, made.bundle.adapter_payload)
    replica = start(registry=registry.address)
    with TestClient(replica.build_http_app()) as client:
        assert client.post(SEARCH, json={"query": "hi"}).status_code == 200
        registry.client.withdraw(made.bundle.manifest.ref, "wrong labels")
        wait_until(lambda: client.post(SEARCH, json={"query": "hi"}).status_code == 410)
        assert "adapterdistill_registry_lost_seconds" in client.get("/metrics").text
    replica.check_health()
    replica.close()
    registry.close()


def test_a_replica_whose_thread_has_ended_is_not_healthy(start: Start) -> None:
    replica = start(log_requests=False)
    replica.check_health()
    replica.close()

    def told() -> str:
        try:
            replica.check_health()
        except ServingError as error:
            return str(error)
        return ""

    wait_until(lambda: told() == "the thread that follows the store has ended")


def test_traces_are_made_and_sent_when_the_replica_ends(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracing = Mock()
    tracing.around = lambda app: app
    monkeypatch.setattr(adapterdistill.serve.tracing.Tracing, "from_environment", lambda: tracing)
    replica = start(traces=True)
    with TestClient(replica.build_http_app()) as client:
        assert client.get("/healthz").status_code == 200
    replica.close()
    tracing.close.assert_called_once_with()


def test_full_searches_for_garbage_become_a_hundred_times_rarer() -> None:
    before = gc.get_threshold()
    try:
        collect_garbage_seldom()
        assert gc.get_threshold() == (*before[:2], 100 * before[2])
        assert gc.get_freeze_count() > 0
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
