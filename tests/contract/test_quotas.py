"""Quotas of each caller, over real gRPC: refusals say why, and when to try again."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, QuotaFailure, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from adapterdistill import errors
from adapterdistill.registry.admission.quotas import Quotas
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.server import handler, service
from adapterdistill.registry.server.server import SERVICE_NAME
from adapterdistill.registry.v1 import registry_pb2 as pb
from tests.contract.running_registry import Running, believing, parts, refusal, wait_until
from tests.unit.registry.samples import large_sample, sample

ACME, BROOK = "owner/acme", "owner/brook"


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for module in (handler, service):
        monkeypatch.setattr(module, "caller_of", believing)
    running: list[Running] = []

    def start_one(**quotas: Any) -> Running:
        running.append(Running(tmp_path, quotas=Quotas(**quotas)))
        return running[-1]

    yield start_one
    for one in running:
        one.close()


def status_of(call: Any) -> tuple[grpc.StatusCode, list[Any]]:
    """Code and details of a refusal, as any client reads them."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    ((_, raw),) = [p for p in caught.value.trailing_metadata() if p[0].endswith("details-bin")]
    kinds = {kind.DESCRIPTOR.full_name: kind for kind in (ErrorInfo, RetryInfo, QuotaFailure)}
    kinds[BadRequest.DESCRIPTOR.full_name] = BadRequest
    details = []
    for packed in Status.FromString(raw).details:
        details.append(kinds[packed.TypeName()]())
        packed.Unpack(details[-1])
    return caught.value.code(), details


def test_a_tenant_stores_as_many_versions_and_bytes_as_it_may(start: Any) -> None:
    size = len(sample(1)[1])
    registry = start(versions=3, stored_bytes=5 * size)
    with registry.client_of(ACME) as acme, registry.client_of(BROOK) as brook:
        for number in range(3):
            acme.publish(*sample(number))
        with pytest.raises(errors.QuotaExceededError, match="versions 4"):
            acme.publish(*sample(3))
        acme.publish(*sample(2))  # what is there already takes no more
        brook.publish(*sample(3, tenant="brook"))
        with pytest.raises(errors.QuotaExceededError, match="stored_bytes"):
            brook.publish(*large_sample(1, tenant="brook", adapter="large"))


def test_a_quota_is_refused_before_the_body_is_read(start: Any) -> None:
    registry = start(stored_bytes=100)
    done = threading.Event()

    def header_only() -> Iterator[pb.PublishRequest]:
        yield next(parts(*sample(1)))
        done.wait(9)

    started = time.monotonic()
    code, details = status_of(lambda: registry.stub_of(ACME).Publish(header_only()))
    done.set()
    assert time.monotonic() - started < 8
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    reason, failure = details
    assert (reason.reason, reason.domain) == ("QUOTA_EXCEEDED", "adapterdistill")
    assert "stored_bytes" in failure.violations[0].description


def test_too_many_calls_are_told_when_to_come_again_and_the_client_does(start: Any) -> None:
    registry = start(calls_per_s=5.0, burst_calls=3)
    stub = registry.stub_of(ACME)
    for _ in range(3):
        stub.ListVersions(pb.ListVersionsRequest())
    code, (reason, wait) = status_of(lambda: stub.ListVersions(pb.ListVersionsRequest()))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert reason.reason == "RATE_LIMITED"
    assert 0 < wait.retry_delay.ToNanoseconds() <= 0.2e9
    with registry.client_of(ACME) as client:
        begun = time.monotonic()
        for _ in range(4):
            assert list(client.list()) == []
        assert 0.5 < time.monotonic() - begun < 9


def test_a_client_does_not_wait_beyond_its_time(start: Any) -> None:
    registry = start(publishes_per_hour=1)
    with registry.client_of(ACME, timeout_s=10) as client:
        client.publish(*sample(1))
        begun = time.monotonic()
        with pytest.raises(errors.RateLimitedError) as caught:
            client.publish(*sample(2))
        assert time.monotonic() - begun < 8
        assert 3000 < (caught.value.retry_after_s or 0) <= 3600


def test_one_tenants_flood_does_not_keep_another_from_its_calls(start: Any) -> None:
    """All the uploads that one tenant can begin hang; another's are quick all the same."""
    registry = start(calls_at_once=20, transfers_at_once=2, burst_calls=1000)
    hold = threading.Event()

    def stalling(seed: int) -> Iterator[pb.PublishRequest]:
        header, _ = parts(*sample(seed))
        yield header
        hold.wait(20)

    flood = registry.stub_of(ACME)
    calls = [flood.Publish.future(stalling(seed), timeout=20) for seed in range(60)]
    try:
        wait_until(lambda: sum(call.done() for call in calls) >= 40)
        error = refusal(lambda: flood.ListVersions(pb.ListVersionsRequest()))
        assert type(error) is errors.RateLimitedError
        assert "20 calls open" in str(error)
        with registry.client_of(BROOK) as brook:
            begun = time.monotonic()
            for seed in range(100, 105):
                manifest, payload = sample(seed, tenant="brook")
                brook.publish(manifest, payload)
                assert brook.fetch(manifest.ref) == (manifest, payload)
            assert time.monotonic() - begun < 10
    finally:
        for call in calls:
            call.cancel()
        hold.set()


def test_an_argument_at_fault_is_named(start: Any) -> None:
    registry = start()
    request = pb.WithdrawRequest(name=sample(1)[0].ref.name, reason="why", request_id="7")
    registry.client.publish(*sample(1))
    code, (reason, fault) = status_of(lambda: registry.stub.Withdraw(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert reason.reason == "INVALID_CONFIG"
    assert fault.field_violations[0].field == "request_id"


def test_a_change_sent_twice_is_made_once_and_answered_alike(start: Any) -> None:
    registry = start()
    one, two = (registry.client.publish(*sample(number)).ref for number in range(2))
    request_id = "5e7b1b52-61a5-4d3e-9b0a-1f8f2b7c9d10"
    alias = pb.Alias(name="tenants/acme/adapters/faq/aliases/live", version_name=one.name)
    request = pb.SetAliasRequest(alias=alias, request_id=request_id)
    stub = registry.stub_of(ACME)
    first = stub.SetAlias(request)
    with registry.client_of(ACME) as acme:
        acme.set_alias(two, "live", first.alias.etag)
    assert stub.SetAlias(request) == first  # though the alias has moved since
    assert registry.client.resolve_alias("acme", "faq", "live")[0] == two
    request.alias.version_name = two.name
    assert type(refusal(lambda: stub.SetAlias(request))) is errors.RequestIdReusedError
    withdraw = pb.WithdrawRequest(
        name=one.name, reason="a fault", request_id=request_id.replace("5e", "6f")
    )
    answers = [stub.Withdraw(withdraw) for _ in range(2)]
    assert answers[0] == answers[1]
    withdrawn = [c for c in _changes(registry, 5) if c.kind == "withdrawn"]
    assert [(c.name, c.reason) for c in withdrawn] == [(one.name, "a fault")]


def _changes(registry: Running, number: int) -> list[Any]:
    watched = registry.client.watch()
    changes = [next(watched) for _ in range(number)]
    watched.close()  # type: ignore[attr-defined]
    return changes


def test_a_watch_goes_on_after_the_registry_restarted(tmp_path: Path) -> None:
    registry = Running(tmp_path)
    names = [registry.client.publish(*sample(number)).ref.name for number in range(2)]
    port = int(registry.address.rpartition(":")[2])
    with RegistryClient(registry.address, timeout_s=10) as client:
        watched = client.watch()
        seen = [next(watched) for _ in range(2)]
        registry.close()
        again = Running(tmp_path, port=port)
        try:
            names.append(again.client.publish(*sample(2)).ref.name)
            seen.append(next(watched))
            assert [(one.kind, one.name) for one in seen] == [("published", n) for n in names]
            assert next(client.watch(seen[1].revision, [("acme", "faq")])) == seen[2]
            threading.Timer(0.3, client.close).start()
            with pytest.raises(errors.RegistryUnavailableError, match="closed"):
                next(watched)
        finally:
            again.close()


def test_a_watch_of_an_absent_registry_is_given_up_in_time() -> None:
    with RegistryClient("127.0.0.1:1", timeout_s=0.5) as client:
        begun = time.monotonic()
        with pytest.raises(errors.RegistryUnavailableError, match=r"127\.0\.0\.1:1"):
            next(client.watch())
        assert time.monotonic() - begun < 10


def test_reflection_tells_the_calls_when_it_is_turned_on(tmp_path: Path) -> None:
    running = Running(tmp_path, reflection=True)
    try:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(running.channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = stub.ServerReflectionInfo(iter([asked]), timeout=5)
        names = {one.name for one in answer.list_services_response.service}
        assert {SERVICE_NAME, "grpc.health.v1.Health"} <= names
    finally:
        running.close()
