"""Statements over mutual TLS: every version is its owner's, for registry and other owners alike."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from adapterdistill import errors
from adapterdistill.manifest import Manifest, sha256_hex
from adapterdistill.registry import wire
from adapterdistill.registry.access import Caller
from adapterdistill.registry.client import signing
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.trust.authority import create, opened
from adapterdistill.registry.trust.credentials import Credentials
from adapterdistill.registry.trust.statement import Signed
from adapterdistill.registry.v1 import registry_pb2 as pb
from adapterdistill.registry.v1 import registry_pb2_grpc
from tests.contract.running_registry import Running, parts, refusal, signed_by
from tests.enrolment import enrolled
from tests.unit.registry.samples import arrays, manifest_of, payload_of, sample


@dataclass(frozen=True)
class Owner:
    """An owner with a stub, which sends what its client would not."""

    client: RegistryClient
    stub: Any
    credentials: Credentials

    @property
    def tenant(self) -> str:
        return self.credentials.caller.name

    def sign(self, manifest: Manifest, **options: Any) -> Signed:
        return signed_by(self.credentials, manifest, **options)

    def send(self, manifest: Manifest, payload: bytes, signed: Signed | None) -> pb.Version:
        """Publishes with this very statement."""
        upload = parts(manifest, payload, signed=signed)
        return self.stub.Publish(upload, timeout=10).version

    def refused(
        self, manifest: Manifest, payload: bytes, signed: Signed | None
    ) -> errors.AdapterDistillError:
        return refusal(functools.partial(self.send, manifest, payload, signed))


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("registry")
    create(root, ["localhost", "127.0.0.1"])
    running = Running(root)
    yield running
    running.close()


@pytest.fixture(scope="module")
def owners(
    registry: Running, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Owner]]:
    found = {}
    channels = []
    for tenant in ("acme", "bolt"):
        folder = tmp_path_factory.mktemp(tenant)
        credentials = enrolled(registry.root, folder, Caller("owner", tenant))
        channels.append(grpc.secure_channel(registry.address, credentials.for_grpc()))
        client = RegistryClient(registry.address, timeout_s=5, credentials=folder)
        stub: Any = registry_pb2_grpc.RegistryServiceStub(channels[-1])  # type: ignore[no-untyped-call]
        found[tenant] = Owner(client, stub, credentials)
    yield found
    for owner in found.values():
        owner.client.close()
    for channel in channels:
        channel.close()


@pytest.fixture
def acme(owners: dict[str, Owner]) -> Owner:
    return owners["acme"]


@pytest.fixture
def bolt(owners: dict[str, Owner]) -> Owner:
    return owners["bolt"]


def stored(registry: Running, manifest: Manifest) -> bool:
    try:
        registry.client.describe(manifest.ref)
    except errors.NotFoundError:
        return False
    return True


def test_what_one_owner_signs_another_verifies(acme: Owner, bolt: Owner) -> None:
    manifest, payload = sample(1)
    assert acme.client.publish(manifest, payload) == manifest
    assert bolt.client.fetch(manifest.ref) == (manifest, payload)


def test_versions_of_an_adapter_form_a_chain(acme: Owner, registry: Running) -> None:
    manifests = [sample(seed, adapter="chain") for seed in (2, 3, 4)]
    for manifest, payload in manifests:
        acme.client.publish(manifest, payload)
    acme.client.withdraw(manifests[-1][0].ref, "a mistake")
    last = sample(5, adapter="chain")
    acme.client.publish(*last)  # after the withdrawn one
    previous = "null"
    for manifest, _ in [*manifests, last]:
        request = pb.GetVersionRequest(name=manifest.ref.name)
        version = registry.stub.GetVersion(request, timeout=5).version
        assert f'"previous":{previous}'.encode() in version.statement.statement_json
        previous = f'"{sha256_hex(manifest.version.encode())}"'


def test_a_repeated_publish_changes_nothing(acme: Owner, registry: Running) -> None:
    manifest, payload = sample(6, adapter="repeated")
    first = acme.send(manifest, payload, acme.sign(manifest))
    assert acme.client.publish(manifest, payload) == manifest
    again = acme.send(manifest, payload, acme.sign(manifest, previous=manifest.version))
    assert (again.revision, again.statement) == (first.revision, first.statement)


def test_an_unsigned_upload_is_refused(acme: Owner, registry: Running) -> None:
    manifest, payload = sample(7, adapter="unsigned")
    error = acme.refused(manifest, payload, None)
    assert type(error) is errors.SignatureError and "must bring" in str(error)
    assert not stored(registry, manifest)


def test_another_tenants_certificate_signs_for_nobody(
    acme: Owner, bolt: Owner, registry: Running
) -> None:
    manifest, payload = sample(8, adapter="forged")
    assert type(acme.refused(manifest, payload, bolt.sign(manifest))) is errors.SignatureError
    # Nor does bolt get as far as that under its own certificate.
    assert type(bolt.refused(manifest, payload, bolt.sign(manifest))) is errors.NotPermittedError
    assert not stored(registry, manifest)


@pytest.mark.parametrize("part", ["statement_json", "signature", "certificate"])
def test_a_statement_changed_on_the_way_is_refused(
    part: str, acme: Owner, registry: Running
) -> None:
    manifest, payload = sample(9, adapter="changed")
    signed = acme.sign(manifest)
    content = getattr(signed, part)
    for place in range(0, len(content), max(1, len(content) // 5)):
        flipped = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        error = acme.refused(manifest, payload, replace(signed, **{part: flipped}))
        assert type(error) is errors.SignatureError
    assert not stored(registry, manifest)


def test_a_header_that_says_more_than_was_signed_is_refused(acme: Owner, registry: Running) -> None:
    manifest, payload = sample(10, adapter="header")
    other, _ = sample(11, adapter="header")
    cases: list[tuple[Manifest, Signed]] = [
        (manifest, acme.sign(manifest, consent=frozenset({"bolt"}))),
        (manifest, acme.sign(other)),
        (manifest.model_copy(update={"seed": 5}), acme.sign(manifest)),
        (manifest.model_copy(update={"adapter": "header2"}), acme.sign(manifest)),
    ]
    for told, signed in cases:
        assert type(acme.refused(told, payload, signed)) is errors.SignatureError
    assert not stored(registry, manifest)


def test_a_replayed_upload_brings_nothing_back(acme: Owner, registry: Running) -> None:
    manifest, payload = sample(12, adapter="replayed")
    signed = acme.sign(manifest)
    first = acme.send(manifest, payload, signed)
    assert acme.send(manifest, payload, signed).revision == first.revision
    acme.client.withdraw(manifest.ref, "out of date")
    assert type(acme.refused(manifest, payload, signed)) is errors.WithdrawnError


def test_a_statement_that_skips_or_repeats_a_version_is_refused(
    acme: Owner, registry: Running
) -> None:
    (first, one), (second, two), (third, three) = (
        sample(seed, adapter="stale") for seed in (13, 14, 15)
    )
    early = acme.sign(third)  # before there was any version: kept back by a thief, say
    acme.send(first, one, acme.sign(first))
    acme.send(second, two, acme.sign(second, previous=first.version))
    for signed in (early, acme.sign(third, previous=first.version), acme.sign(third)):
        assert type(acme.refused(third, three, signed)) is errors.StaleStatementError
    assert not stored(registry, third)
    acme.send(third, three, acme.sign(third, previous=second.version))


def test_a_statement_before_the_newest_ones_time_is_refused(acme: Owner) -> None:
    (first, one), (second, two) = sample(16, adapter="clock"), sample(17, adapter="clock")
    now = datetime.now(UTC)
    acme.send(first, one, acme.sign(first, at=now))
    before = acme.sign(second, previous=first.version, at=now - timedelta(minutes=1))
    error = acme.refused(second, two, before)
    assert type(error) is errors.StaleStatementError and "before" in str(error)


@pytest.mark.parametrize("minutes", [-11, 11])
def test_a_wrong_clock_is_named(minutes: int, acme: Owner) -> None:
    manifest, payload = sample(18, adapter="skewed")
    signed = acme.sign(manifest, at=datetime.now(UTC) + timedelta(minutes=minutes))
    error = acme.refused(manifest, payload, signed)
    # Eleven minutes ago the certificate did not hold yet, which is as true.
    assert isinstance(error, errors.SignatureError)
    assert type(error) is errors.ClockSkewError or minutes < 0


def test_a_client_that_lost_a_race_signs_again(
    acme: Owner, registry: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = sample(19, adapter="race"), sample(20, adapter="race")
    ask = signing._newest_version
    raced: list[str | None] = []

    def ask_and_lose(*arguments: Any) -> str | None:
        answer = ask(*arguments)
        raced.append(answer)
        if len(raced) == 1:
            acme.send(*first, acme.sign(first[0]))
        return answer

    monkeypatch.setattr(signing, "_newest_version", ask_and_lose)
    acme.client.publish(*second)
    assert raced == [None, first[0].version]


def test_what_a_registry_holds_unsigned_is_refused_by_owners(
    acme: Owner, bolt: Owner, registry: Running
) -> None:
    manifest, payload = sample(21, adapter="tampered")
    acme.client.publish(manifest, payload)
    other, other_payload = sample(22, tenant="bolt", adapter="tampered")
    bolt.client.publish(other, other_payload)

    def alter(change: str) -> None:
        """Answer as a dishonest registry would."""
        db = registry.server._service._index.db
        registry.run(registry.server._service._on_index(db.execute, change, (manifest.version,)))

    alter(
        "UPDATE versions SET statement = (SELECT statement FROM versions WHERE tenant = 'bolt'"
        " AND adapter = 'tampered') WHERE version = ? AND adapter = 'tampered'"
    )
    with pytest.raises(errors.SignatureError, match="bolt signed for owner/acme"):
        bolt.client.fetch(manifest.ref)
    alter("UPDATE versions SET statement = NULL WHERE version = ? AND adapter = 'tampered'")
    with pytest.raises(errors.SignatureError, match="not signed"):
        bolt.client.fetch(manifest.ref)


def test_only_those_concerned_learn_which_version_is_newest(acme: Owner, bolt: Owner) -> None:
    manifest, payload = sample(23, adapter="newest")
    acme.client.publish(manifest, payload)
    request = pb.GetAdapterRequest(name=wire.adapter_name("acme", "newest"))
    answer = acme.stub.GetAdapter(request, timeout=5)
    assert answer.newest_version_name == manifest.ref.name and answer.consent.everyone
    refusals = [
        refusal(functools.partial(bolt.stub.GetAdapter, one, timeout=5))
        for one in (request, pb.GetAdapterRequest(name=wire.adapter_name("acme", "none")))
    ]
    assert {type(one) for one in refusals} == {errors.NotFoundError}


def test_what_was_signed_before_a_revocation_stays_valid(
    acme: Owner, registry: Running, tmp_path: Path
) -> None:
    gone = Caller("owner", "gone")
    folder = tmp_path / "gone"
    enrolled(registry.root, folder, gone)
    manifest, payload = sample(24, tenant="gone")
    with RegistryClient(registry.address, timeout_s=5, credentials=folder) as client:
        client.publish(manifest, payload)
        with opened(registry.root) as authority:
            authority.revoke(gone)
        with pytest.raises(errors.UnauthenticatedError):
            client.publish(*sample(25, tenant="gone"))
    assert acme.client.fetch(manifest.ref) == (manifest, payload)


def test_plain_text_registry_takes_no_statement(acme: Owner, tmp_path: Path) -> None:
    plain = Running(tmp_path)
    try:
        manifest, payload = sample(26)
        upload = parts(manifest, payload, signed=acme.sign(manifest))
        error = refusal(lambda: plain.stub.Publish(upload, timeout=5))
        assert type(error) is errors.SignatureError
    finally:
        plain.close()


def test_quarantine_is_between_owner_and_operator(
    acme: Owner, bolt: Owner, registry: Running
) -> None:
    tensors = {name: 1000 * array for name, array in arrays(27).items()}
    payload = payload_of(tensors)
    manifest = manifest_of(payload, adapter="strong")
    acme.client.publish(manifest, payload)
    assert acme.client.describe(manifest.ref).state == "quarantined"
    assert acme.client.fetch(manifest.ref) == (manifest, payload)
    with pytest.raises(errors.NotFoundError):
        bolt.client.fetch(manifest.ref)
    for owner in (acme, bolt):
        with pytest.raises(errors.NotPermittedError):
            owner.client.release_from_quarantine(manifest.ref)
    taught, taught_payload = sample(28, adapter="taught", teachers=[manifest.ref.name])
    with pytest.raises(errors.InvalidManifestError, match="in quarantine"):
        acme.client.publish(taught, taught_payload)
    registry.client.release_from_quarantine(manifest.ref)
    assert bolt.client.fetch(manifest.ref) == (manifest, payload)
    acme.client.publish(taught, taught_payload)
