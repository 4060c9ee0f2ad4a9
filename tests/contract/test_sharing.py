"""Consent, withdrawal and watching over real gRPC, as several callers see it.

Who calls is read from a test's own metadata here; `test_identity` shows it from certificates.
"""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from adapterdistill import errors
from adapterdistill.manifest import Manifest
from adapterdistill.registry import wire
from adapterdistill.registry.access import ANYONE, Caller
from adapterdistill.registry.commitments import committed
from adapterdistill.registry.server import handler, service
from adapterdistill.registry.v1 import registry_pb2 as pb
from tests.contract.running_registry import Running, parts, refusal, wait_until
from tests.unit.registry.samples import sample


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    def caller_of(context: Any, *_: Any) -> Caller:
        for key, value in context.invocation_metadata() or ():
            if key == "x-caller":
                role, name = value.split("/")
                return Caller(role, name)
        return ANYONE

    for module in (handler, service):
        monkeypatch.setattr(module, "caller_of", caller_of)
    running = Running(tmp_path / "registry")
    yield running
    running.close()


class As:
    """The registry's calls, made by one caller."""

    def __init__(self, registry: Running, caller: str) -> None:
        self._stub = registry.stub
        self._metadata = (("x-caller", caller),)

    def __call__(self, method: str, request: Any, timeout: float = 10) -> Any:
        return getattr(self._stub, method)(request, timeout=timeout, metadata=self._metadata)

    def publish(self, manifest: Manifest, payload: bytes, consent: pb.Consent | None = None) -> Any:
        manifest, openings = committed(manifest)
        first, *chunks = parts(manifest, payload)
        first.header.teachers.extend(wire.opening_messages(openings))
        if consent is not None:
            first.header.consent.CopyFrom(consent)
        return self("Publish", iter([first, *chunks]))

    def names(self) -> list[str]:
        return [v.name for v in self("ListVersions", pb.ListVersionsRequest()).versions]

    def get(self, name: str) -> pb.Version:
        version = self("GetVersion", pb.GetVersionRequest(name=name)).version
        assert isinstance(version, pb.Version)
        return version

    def fetched(self, name: str) -> bytes:
        return b"".join(part.chunk.data for part in self("Fetch", pb.FetchRequest(name=name)))


def test_only_the_owner_writes_under_its_name_and_learns_nothing_otherwise(
    registry: Running,
) -> None:
    manifest, payload = sample(1)
    acme, brook, auditor = (
        As(registry, who) for who in ("owner/acme", "owner/brook", "auditor/ada")
    )
    acme.publish(manifest, payload)
    absent = manifest.ref.name.replace(manifest.version, "f" * 64)
    for caller in (brook, auditor):
        for name in (manifest.ref.name, absent):
            alias = pb.Alias(name="tenants/acme/adapters/faq/aliases/live", version_name=name)
            for method, request in (
                ("SetAlias", pb.SetAliasRequest(alias=alias)),
                ("Withdraw", pb.WithdrawRequest(name=name, reason="mine")),
                ("QueryUpload", pb.QueryUploadRequest(name=name)),
                ("ReleaseVersion", pb.ReleaseVersionRequest(name=name)),
                ("SetConsent", pb.SetConsentRequest(adapter_name="tenants/acme/adapters/faq")),
            ):
                with pytest.raises(grpc.RpcError) as caught:
                    caller(method, request)
                assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED, method
        error = refusal(lambda: caller.publish(manifest, payload))  # noqa: B023
        assert isinstance(error, errors.NotPermittedError)
    error = refusal(lambda: auditor.fetched(manifest.ref.name))
    assert isinstance(error, errors.NotPermittedError)
    assert auditor.get(manifest.ref.name).name == manifest.ref.name


def test_consent_is_kept_and_told_to_those_who_may_know(registry: Running) -> None:
    manifest, payload = sample(1)
    acme, brook, corn = (As(registry, f"owner/{who}") for who in ("acme", "brook", "corn"))
    name = manifest.ref.name
    acme.publish(manifest, payload, pb.Consent(tenants=["brook"]))
    assert brook.fetched(name) == payload
    assert not brook.get(name).HasField("consent")
    assert list(acme.get(name).consent.tenants) == ["brook"]
    assert corn.names() == []
    for call in (lambda: corn.get(name), lambda: corn.fetched(name)):
        assert isinstance(refusal(call), errors.NotFoundError)
    lineage = pb.GetLineageRequest(name=name)
    assert isinstance(refusal(lambda: corn("GetLineage", lineage)), errors.NotFoundError)
    acme(
        "SetConsent",
        pb.SetConsentRequest(
            adapter_name="tenants/acme/adapters/faq", consent=pb.Consent(everyone=True)
        ),
    )
    assert corn.fetched(name) == payload


def test_a_page_token_is_no_use_to_another_caller(registry: Running) -> None:
    acme, brook = As(registry, "owner/acme"), As(registry, "owner/brook")
    for number in range(3):
        acme.publish(*sample(number))
    request = pb.ListVersionsRequest(page_size=1)
    request.page_token = acme("ListVersions", request).next_page_token
    assert acme("ListVersions", request).versions
    error = refusal(lambda: brook("ListVersions", request))
    assert isinstance(error, errors.ConfigError)


def test_withdrawal_marks_students_and_stops_fetching(registry: Running) -> None:
    teacher, payload = sample(1)
    student, other = sample(2, tenant="brook", teachers=[teacher.ref.name])
    acme, brook, operator = (
        As(registry, who) for who in ("owner/acme", "owner/brook", "operator/olga")
    )
    acme.publish(teacher, payload)
    brook.publish(student, other)
    answer = operator("Withdraw", pb.WithdrawRequest(name=teacher.ref.name, reason="leaks"))
    assert [(d.name, d.depth) for d in answer.descendants] == [(student.ref.name, 1)]
    assert answer.version.state == pb.VERSION_STATE_WITHDRAWN
    error = refusal(lambda: brook.fetched(teacher.ref.name))
    assert isinstance(error, errors.WithdrawnError)
    assert "leaks" in str(error)
    assert brook.get(student.ref.name).withdrawn_teacher == teacher.ref.name
    assert brook.names() == [student.ref.name]


@pytest.mark.parametrize("reason", ["", "x" * 501, "two\nlines"])
def test_a_withdrawal_needs_a_reason_that_can_be_shown(registry: Running, reason: str) -> None:
    manifest, payload = sample(1)
    registry.client.publish(manifest, payload)
    request = pb.WithdrawRequest(name=manifest.ref.name, reason=reason)
    error = refusal(lambda: registry.stub.Withdraw(request, timeout=10))
    assert isinstance(error, errors.ConfigError)


@pytest.mark.parametrize(
    "consent", [pb.Consent(tenants=["Not A Name"]), pb.Consent(tenants=["*"]), None]
)
def test_consent_to_what_is_no_tenant_is_refused(
    registry: Running, consent: pb.Consent | None
) -> None:
    manifest, payload = sample(1)
    registry.client.publish(manifest, payload)
    many = pb.Consent(tenants=[f"t{number}" for number in range(1001)])
    request = pb.SetConsentRequest(
        adapter_name="tenants/acme/adapters/faq", consent=consent or many
    )
    error = refusal(lambda: registry.stub.SetConsent(request, timeout=10))
    assert isinstance(error, errors.InvalidManifestError)


def test_a_watcher_sees_every_change_once_and_resumes_where_it_stopped(registry: Running) -> None:
    acme, brook = As(registry, "owner/acme"), As(registry, "owner/brook")
    manifest, payload = sample(1)
    acme.publish(manifest, payload)
    seen: list[tuple[int, str]] = []
    call = brook("Watch", pb.WatchRequest(), timeout=20)

    def watch() -> None:
        try:
            for answer in call:
                if answer.HasField("event"):
                    seen.append((answer.revision, pb.EventKind.Name(answer.event.kind)))
        except grpc.RpcError:
            pass

    watcher = threading.Thread(target=watch)
    watcher.start()
    wait_until(lambda: len(seen) == 1)
    acme("Withdraw", pb.WithdrawRequest(name=manifest.ref.name, reason="old"))
    wait_until(lambda: len(seen) == 2)
    call.cancel()
    watcher.join(timeout=10)
    (one, published), (two, withdrawn) = seen
    assert (published, withdrawn) == ("EVENT_KIND_PUBLISHED", "EVENT_KIND_WITHDRAWN")
    again = brook("Watch", pb.WatchRequest(after_revision=one), timeout=20)
    first = next(again)
    assert (first.revision, first.event.reason) == (two, "old")
    assert not next(again).HasField("event")  # a heartbeat: all was told
    again.cancel()


def test_a_watch_ends_when_the_registry_stops(tmp_path: Path) -> None:
    registry = Running(tmp_path / "registry")
    call = registry.stub.Watch(pb.WatchRequest(), timeout=20)
    assert not next(call).HasField("event")
    closing = threading.Thread(target=registry.close)
    closing.start()
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    closing.join(timeout=10)
    assert not closing.is_alive()
