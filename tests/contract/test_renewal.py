"""Certificates that renew themselves over the wire, and an authority that is replaced meanwhile."""

import json
import logging
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from adapterdistill.cli import app
from adapterdistill.errors import (
    AdapterDistillError,
    AuthorityOfflineError,
    SignatureError,
    UnauthenticatedError,
)
from adapterdistill.registry.access import Caller
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.client.renewal import keep_renewed, renew
from adapterdistill.registry.trust import pem
from adapterdistill.registry.trust.authority import create, opened
from adapterdistill.registry.trust.certificates import serial_of
from adapterdistill.registry.trust.credentials import read_credentials
from adapterdistill.registry.upkeep.audit_verify import examine
from adapterdistill.registry.v1 import registry_pb2_grpc
from tests.contract.running_registry import Running, parts, refusal, signed_by
from tests.enrolment import ACME, BOLT, enrolled, listed
from tests.unit.registry.samples import sample

WORDS = b"correct horse"
DUE = timedelta(minutes=3)
"""Lifetime of a certificate that is due at once: it also begins ten minutes ago."""
Connect = Callable[..., RegistryClient]


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Running]:
    """A registry whose authority is encrypted, and which has no passphrase: offline."""
    create(tmp_path / "locked", ["127.0.0.1"], passphrase=WORDS)
    running = Running(tmp_path / "locked")
    yield running
    running.close()


def run(line: str) -> str:
    result = CliRunner().invoke(app, line.split())
    if isinstance(result.exception, AdapterDistillError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def renewals(registry: Running) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    examined = examine(registry.root / "audit" / "log.jsonl", visit=found.append)
    assert examined.fault is None
    return [one for one in found if one["kind"] == "renewed"]


def test_a_client_that_stays_renews_and_goes_on_with_new_keys(
    private_registry: Running, connect: Connect, tmp_path: Path
) -> None:
    client, folder = connect(), tmp_path / str(ACME)
    old, before = read_credentials(folder), len(renewals(private_registry))
    assert renew(client, folder, if_due=True) == old or not old.is_due(datetime.now(UTC))
    own = renew(client, folder)
    with opened(private_registry.root) as authority:
        authority.revoke(serial=serial_of(old.certificate))
    listed(client)
    manifest, payload = sample(31)
    client.publish(manifest, payload)
    assert connect(BOLT).fetch(manifest.ref)[1] == payload
    (line,) = renewals(private_registry)[before:]
    serials = (serial_of(own.certificate), serial_of(own.signing_certificate))
    assert line["caller"] == "owner/acme" and line["reason"] == "certificates {} and {}".format(
        *serials
    )


def test_nobody_renews_for_another_and_every_refusal_is_a_line(
    private_registry: Running, connect: Connect, tmp_path: Path
) -> None:
    bolt = connect(BOLT)
    connect(ACME)
    bare = pem.request_credentials(tmp_path / "x", BOLT).read_bytes()
    acmes = pem.request_credentials(tmp_path / "y", ACME).read_bytes()
    for request, says in (
        (bare, "must be signed by the signing key"),
        (acmes, "owner/bolt asks for certificates of owner/acme"),
        (b"x", "request_pem: expected two certificate requests"),
        (bare + b"x" * 9000, "more than 8192 bytes"),
    ):
        with pytest.raises(AdapterDistillError, match=says):
            bolt.renew_certificates(request)
    log = (private_registry.root / "audit" / "log.jsonl").read_text()
    assert log.count('"call":"RenewCertificates"') == 4


def test_two_processes_that_share_a_folder_renew_it_once(
    private_registry: Running, connect: Connect, tmp_path: Path
) -> None:
    client, folder = connect(lifetime=DUE), tmp_path / str(ACME)
    before = len(renewals(private_registry))
    threads = [
        threading.Thread(target=keep_renewed, args=(private_registry.address, folder))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(renewals(private_registry)) == before + 1
    assert not read_credentials(folder).is_due(datetime.now(UTC))
    listed(client)


def test_what_is_not_due_is_left_and_what_fails_is_logged_with_the_days_that_are_left(
    locked: Running, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "acme"
    request = pem.request_credentials(folder, ACME)

    def issue(lifetime: timedelta) -> None:
        with opened(locked.root, WORDS) as authority:
            pem.write(folder / pem.CERTIFICATES, authority.enrol(ACME, request, lifetime=lifetime))

    issue(timedelta(days=30))
    with caplog.at_level(logging.WARNING):
        keep_renewed(locked.address, folder)
        assert caplog.messages == []
        issue(DUE)
        keep_renewed(locked.address, folder)
        keep_renewed(locked.address, tmp_path / "absent")
    due, absent = (one for one in caplog.messages if "were not renewed" in one)
    assert "(0 days), were not renewed: the registry has no key to sign" in due
    assert "absent" in absent


def test_an_offline_authority_signs_a_request_by_hand(
    locked: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with opened(locked.root, WORDS) as authority:
        pem.write(
            Path("acme") / pem.CERTIFICATES,
            authority.enrol(ACME, pem.request_credentials(Path("acme"), ACME)),
        )
    pem.write(Path("words"), WORDS + b"\n")
    old = read_credentials(Path("acme"))
    with pytest.raises(AuthorityOfflineError, match=r"Send acme/renewal/request\.pem to the"):
        run(f"owner renew acme --address {locked.address}")
    assert "Send acme/renewal/request.pem" in run("owner renew acme --offline")
    client = RegistryClient(locked.address, credentials=Path("acme"))
    try:
        listed(client)
        run(
            "registry enrol acme --root locked --request acme/renewal/request.pem"
            " --out acme/certificates.pem --passphrase-file words"
        )
        own = read_credentials(Path("acme"))
        assert own.tls_key_pem != old.tls_key_pem
        listed(client)  # by the new certificate, without a restart
        with opened(locked.root, WORDS) as authority:
            authority.revoke(serial=serial_of(old.certificate))
        listed(client)
    finally:
        client.close()
    assert renewals(locked) == []


def test_a_passphrase_makes_the_registry_renew(tmp_path: Path) -> None:
    create(tmp_path / "root", ["127.0.0.1"], passphrase=WORDS)
    registry = Running(tmp_path / "root", passphrase=WORDS)
    try:
        operator = tmp_path / "root" / "operator"
        shown = run(f"owner renew {operator} --address {registry.address}")
        assert "certificates of operator/operator, until" in shown and "(29 days)" in shown
        assert "registry" in json.loads(run(f"owner show {operator} --format json"))
        listed(registry.client)
    finally:
        registry.close()


def test_certificates_that_ended_say_what_to_do(
    private_registry: Running, connect: Connect, tmp_path: Path
) -> None:
    connect(lifetime=-timedelta(minutes=1))
    folder = tmp_path / str(ACME)
    said = rf"expired at .*run `adapterdistill owner keygen {folder} --tenant acme`, and send"
    for line in (
        f"owner renew {folder} --address {private_registry.address}",
        f"owner show {folder}",
    ):
        with pytest.raises(UnauthenticatedError, match=said):
            run(line)
    enrolled(private_registry.root, folder, new_keys=True)  # the same keys, once more signed
    assert "(29 days)" in run(f"owner renew {folder} --address {private_registry.address}")
    assert "(29 days)" in run(f"owner renew {folder} --address {private_registry.address} --if-due")


def test_the_server_renews_its_own_certificate_when_it_is_due(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    create(tmp_path / "root", ["127.0.0.1"])
    with opened(tmp_path / "root") as authority:
        authority.certify_server(lifetime=DUE)
    file = tmp_path / "root" / "server" / "server.pem"
    before = file.read_bytes()
    registry = Running(tmp_path / "root")
    try:
        registry_served = _until(lambda: file.read_bytes() != before)
        assert registry_served and listed(registry.client) == []
    finally:
        registry.close()
    create(tmp_path / "locked", ["127.0.0.1"], passphrase=WORDS)
    with opened(tmp_path / "locked", WORDS) as authority:
        authority.certify_server(lifetime=DUE)
    locked = Running(tmp_path / "locked")
    try:
        assert _until(lambda: any("renew-server" in one for one in caplog.messages))
        assert any("valid until" in one and "encrypted" in one for one in caplog.messages)
    finally:
        locked.close()


def _until(condition: Callable[[], bool]) -> bool:
    for _ in range(200):
        if condition():
            return True
        threading.Event().wait(0.05)
    return False


def test_an_authority_is_replaced_while_everyone_works(tmp_path: Path) -> None:
    root = tmp_path / "root"
    create(root, ["127.0.0.1"])
    registry = Running(root)
    folders = {caller: tmp_path / caller.name for caller in (ACME, BOLT)}
    for caller, folder in folders.items():
        enrolled(root, folder, caller)
    clients = {
        caller: RegistryClient(registry.address, timeout_s=10, credentials=folder)
        for caller, folder in folders.items()
    }
    acme, bolt = clients[ACME], clients[BOLT]
    old = tmp_path / "old"
    everyone = [*folders.values(), root / "operator"]

    def renew_all() -> None:
        for folder in everyone:
            run(f"owner renew {folder} --address {registry.address}")

    try:
        first, second, third = (sample(seed, adapter="rotated") for seed in (41, 42, 43))
        acme.publish(*first)
        run(f"registry rotate-authority begin --root {root}")
        assert bolt.fetch(first[0].ref)[1] == first[1]  # whoever has not renewed works on
        renew_all()
        run(f"registry rotate-authority switch --root {root}")
        assert bolt.fetch(first[0].ref)[1] == first[1]
        acme.publish(*second)  # by certificates of the old authority
        old.mkdir(mode=0o700)
        for file in folders[BOLT].iterdir():
            pem.write(old / file.name, file.read_bytes())
        renew_all()
        acme.publish(*third)  # by certificates of the new one
        before = RegistryClient(registry.address, timeout_s=10, credentials=old)
        for client in (bolt, before):
            for manifest, payload in (first, second, third):
                assert client.fetch(manifest.ref)[1] == payload
        run(f"registry rotate-authority drop --root {root}")
        threading.Event().wait(1.1)  # its end is told in whole seconds
        with pytest.raises(UnauthenticatedError, match="of the authority expired at"):
            listed(before)
        before.close()
        with (
            RegistryClient(registry.address, timeout_s=10, credentials=old) as again,
            pytest.raises(UnauthenticatedError, match="one of an authority that was replaced"),
        ):
            listed(again)
        renew_all()
        for client in (bolt, acme):  # versions outlive the authority that they were signed under
            for manifest, payload in (first, second, third):
                assert client.fetch(manifest.ref)[1] == payload
        assert "no faults" in run(f"registry fsck {root}")
    finally:
        for client in clients.values():
            client.close()
        registry.close()


def test_a_statement_for_one_registry_is_refused_by_another(tmp_path: Path) -> None:
    """The owner has the same keys at both, so that each registry certifies the signing key."""
    registries: list[Running] = []
    folders = []
    try:
        for name in ("a", "b"):
            create(tmp_path / name, ["127.0.0.1"])
            registries.append(Running(tmp_path / name))
            folders.append(tmp_path / f"acme-{name}")
            if name == "b":
                for key in (pem.TLS_KEY, pem.SIGNING_KEY):
                    pem.write(folders[1] / key, (folders[0] / key).read_bytes())
            enrolled(tmp_path / name, folders[-1], Caller("owner", "acme"))
        at_a, at_b = (read_credentials(folder) for folder in folders)
        assert at_a.registry != at_b.registry
        manifest, payload = sample(1, tenant="acme")
        signed = signed_by(at_a, manifest)
        # The certificate is not part of what is signed: a thief sends the right one.
        replayed = type(signed)(
            signed.statement_json,
            signed.signature,
            signed_by(at_b, manifest).certificate,
        )
        with grpc.secure_channel(registries[1].address, at_b.for_grpc()) as channel:
            stub: Any = registry_pb2_grpc.RegistryServiceStub(channel)  # type: ignore[no-untyped-call]  # generated
            error = refusal(
                lambda: stub.Publish(parts(manifest, payload, signed=replayed), timeout=10)
            )
            assert type(error) is SignatureError
            assert f"for registry {at_a.registry}, this is {at_b.registry}" in str(error)
            stub.Publish(parts(manifest, payload, signed=signed_by(at_b, manifest)), timeout=10)
    finally:
        for one in registries:
            one.close()
