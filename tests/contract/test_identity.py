"""Mutual TLS on loopback: who may connect, as whom, and until when."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from adapterdistill.actors.teacher_registry import TeacherRegistry
from adapterdistill.errors import (
    ConfigError,
    NotPermittedError,
    RegistryUnavailableError,
    UnauthenticatedError,
)
from adapterdistill.registry.access import NOBODY, Caller
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.server.server import RegistryServer
from adapterdistill.registry.status import from_call
from adapterdistill.registry.trust import issuing, pem
from adapterdistill.registry.trust.authority import create
from adapterdistill.registry.trust.certificates import Usage
from adapterdistill.registry.v1 import registry_pb2 as pb
from adapterdistill.registry.v1 import registry_pb2_grpc
from tests.contract.running_registry import Running
from tests.enrolment import ACME, BOLT, enrolled, listed, refused_at_once
from tests.unit.registry.samples import sample

AUDITOR = Caller("auditor", "kpm")
Connect = Callable[..., RegistryClient]


def failed_listing(private_registry: Running, secure: grpc.ChannelCredentials) -> grpc.RpcError:
    """List without our client, and return the error."""
    with grpc.secure_channel(private_registry.address, secure) as channel:
        stub = registry_pb2_grpc.RegistryServiceStub(channel)  # type: ignore[no-untyped-call]
        with pytest.raises(grpc.RpcError) as caught:
            stub.ListVersions(pb.ListVersionsRequest(), timeout=5)
    return caught.value


def certified(root: Path, folder: Path, key: pem.Key, *names: x509.GeneralName) -> None:
    """Puts a certificate with any names, as the authority would never give, into a folder."""
    ca_key = pem.read_tls_key(root / "authority/ca.key")
    (ca,) = pem.read_certificates(root / "authority/ca.pem")
    made = issuing.new_certificate(
        ca,
        ca_key,
        key.public_key(),
        Usage.client,
        x509.SubjectAlternativeName(names),
        timedelta(days=1),
    )
    certificates = pem.read_certificates(folder / pem.CERTIFICATES)
    pem.write(folder / pem.CERTIFICATES, pem.certificate_pem(made, *certificates[1:]))


def test_owner_publishes_and_fetches_by_its_certificate(
    private_registry: Running, connect: Connect
) -> None:
    manifest, payload = sample(1)
    assert connect().publish(manifest, payload) == manifest
    assert connect(BOLT).fetch(manifest.ref) == (manifest, payload)
    assert connect().health() and connect(AUDITOR).health() and private_registry.client.health()


def test_nobody_writes_under_anothers_name_whether_or_not_it_is_there(
    private_registry: Running, connect: Connect
) -> None:
    there, payload = sample(2)
    connect().publish(there, payload)
    absent, other_payload = sample(3)
    for caller in (BOLT, AUDITOR, Caller("operator", "ops")):
        client = connect(caller)
        for manifest, content in ((there, payload), (absent, other_payload)):
            for write in (
                lambda m=manifest, c=content: client.publish(m, c),  # noqa: B023
                lambda m=manifest: client.set_alias(m.ref, "live"),  # noqa: B023
                lambda m=manifest: client.set_consent("acme", m.adapter, NOBODY),  # noqa: B023
            ):
                with pytest.raises(NotPermittedError, match=f"{caller} may not write under"):
                    write()


def test_auditor_reads_everything_but_payloads_and_writes_nothing(
    connect: Connect,
) -> None:
    manifest, payload = sample(4)
    connect().publish(manifest, payload)
    auditor = connect(AUDITOR)
    assert auditor.get(manifest.ref) == manifest
    with pytest.raises(NotPermittedError):
        auditor.fetch(manifest.ref)
    with pytest.raises(NotPermittedError):
        auditor.publish(*sample(5, tenant=AUDITOR.name))
    with pytest.raises(NotPermittedError):
        auditor.withdraw(manifest.ref, "because")


def test_client_without_credentials_is_told_that_it_needs_them(private_registry: Running) -> None:
    with (
        RegistryClient(private_registry.address, timeout_s=10) as client,
        refused_at_once("speaks TLS only: a credentials folder is needed"),
    ):
        listed(client)


def test_connection_without_a_certificate_is_refused(private_registry: Running) -> None:
    ca = (private_registry.root / "server/ca.pem").read_bytes()
    error = failed_listing(private_registry, grpc.ssl_channel_credentials(ca))
    assert error.code() is grpc.StatusCode.UNAVAILABLE


def test_certificate_of_another_authority_is_refused(
    private_registry: Running, tmp_path: Path
) -> None:
    """A stranger's client does not believe the server; made to believe, the server refuses it."""
    create(tmp_path / "other", ["127.0.0.1"])
    folder = tmp_path / "stranger"
    enrolled(tmp_path / "other", folder)
    with (
        RegistryClient(private_registry.address, timeout_s=10, credentials=folder) as client,
        refused_at_once("credentials are for: another authority issued its certificate$"),
    ):
        listed(client)
    own = pem.read_certificates(folder / pem.CERTIFICATES)[:2]
    ca = pem.read_certificates(private_registry.root / "server/ca.pem")
    pem.write(folder / pem.CERTIFICATES, pem.certificate_pem(*own, *ca))
    with (
        RegistryClient(private_registry.address, timeout_s=10, credentials=folder) as client,
        refused_at_once("refuses certificate|not issued by the registry's authority"),
    ):
        listed(client)


def test_signing_certificate_opens_no_connection(private_registry: Running, tmp_path: Path) -> None:
    folder = tmp_path / "acme"
    own = enrolled(private_registry.root, folder, new_keys=True)
    secure = grpc.ssl_channel_credentials(
        pem.certificate_pem(own.ca),
        pem.key_pem(own.signing_key),
        pem.certificate_pem(own.signing_certificate),
    )
    error = failed_listing(private_registry, secure)
    assert error.code() is grpc.StatusCode.UNAVAILABLE


def test_server_for_another_host_is_not_believed(tmp_path: Path) -> None:
    create(tmp_path / "root", ["registry.example"])
    running = Running(tmp_path / "root")
    try:
        with refused_at_once("are for: its certificate names other hosts$"):
            listed(running.client)
        assert not running.client.health()
    finally:
        running.close()


@pytest.mark.parametrize(
    "names",
    [
        ["adapterdistill://owner/acme", "adapterdistill://owner/bolt"],
        ["adapterdistill://king/acme"],
        ["https://acme.example"],
    ],
)
def test_certificate_that_names_nobody_or_two_is_refused(
    private_registry: Running, tmp_path: Path, names: list[str]
) -> None:
    folder = tmp_path / "acme"
    own = enrolled(private_registry.root, folder, new_keys=True)
    key = pem.read_tls_key(folder / pem.TLS_KEY)
    certified(private_registry.root, folder, key, *map(x509.UniformResourceIdentifier, names))
    chain = pem.certificate_pem(pem.read_certificates(folder / pem.CERTIFICATES)[0])
    secure = grpc.ssl_channel_credentials(pem.certificate_pem(own.ca), own.tls_key_pem, chain)
    error = failed_listing(private_registry, secure)
    assert isinstance(from_call(error, "list"), UnauthenticatedError)
    with pytest.raises(ConfigError, match=r"certificates\.pem"):
        RegistryClient(private_registry.address, credentials=folder)


def test_credentials_for_a_registry_in_plain_text_are_not_sent(
    connect: Connect, private_registry: Running, tmp_path: Path
) -> None:
    connect()
    plain = Running(tmp_path / "plain")
    try:
        folder = tmp_path / str(ACME)
        with (
            RegistryClient(plain.address, timeout_s=10, credentials=folder) as client,
            refused_at_once("speaks no TLS"),
        ):
            listed(client)
    finally:
        plain.close()


def test_registry_that_is_away_is_waited_for_and_not_taken_for_a_refusal(
    connect: Connect, tmp_path: Path
) -> None:
    connect()
    folder = tmp_path / str(ACME)
    with (
        RegistryClient("127.0.0.1:1", timeout_s=0.5, credentials=folder) as client,
        pytest.raises(RegistryUnavailableError),
    ):
        listed(client)


def test_server_that_lost_its_credentials_does_not_open_to_anyone(tmp_path: Path) -> None:
    root = tmp_path / "root"
    create(root, ["127.0.0.1"])
    for name in (pem.CRL_PEM, pem.CA_PEM, pem.SERVER_PEM):
        (root / "server" / name).unlink()
        with pytest.raises(ConfigError, match=r"server/\w+\.pem"):
            RegistryServer(root)
    (root / "server").rmdir()
    with pytest.raises(ConfigError, match=r"server/\w+\.pem"):
        RegistryServer(root)


def test_beyond_loopback_is_served_with_certificates_only(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="registry init"):
        RegistryServer(tmp_path / "root", host="0.0.0.0")
    create(tmp_path / "root", ["registry.example"])
    RegistryServer(tmp_path / "root", host="0.0.0.0")


def test_actor_of_a_registry_with_certificates_asks_for_them(tmp_path: Path) -> None:
    create(tmp_path / "root", ["127.0.0.1"])
    actor = TeacherRegistry(str(tmp_path / "root"))
    try:
        with RegistryClient(actor.address(), credentials=tmp_path / "root/operator") as client:
            assert client.health()
        with RegistryClient(actor.address()) as client:
            assert not client.health()
    finally:
        actor.stop()
