"""Transfers and quotas over mutual TLS: whose they are is read from certificates."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from adapterdistill import errors
from adapterdistill.registry.admission.quotas import RateLimit
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.v1 import registry_pb2 as pb
from adapterdistill.registry.v1 import registry_pb2_grpc
from tests.contract.running_registry import Running, refusal, wait_until
from tests.enrolment import ACME, BOLT
from tests.unit.registry.samples import large_sample

MIB = 1 << 20


def test_only_the_owner_whose_certificate_began_an_upload_goes_on_with_it(
    private_registry: Running, connect: Callable[..., RegistryClient]
) -> None:
    manifest, payload = large_sample(10)
    seen: list[int] = []
    staged = private_registry.root / "staging" / "owner.acme" / manifest.version

    class EnoughError(Exception):
        """Ends the upload, as the death of its client would."""

    def stop_amid(done_bytes: int, _total_bytes: int) -> None:
        if done_bytes > 5 * MIB:
            wait_until(lambda: staged.exists() and staged.stat().st_size >= 2 * MIB)
            raise EnoughError

    with pytest.raises(errors.AdapterDistillError):
        connect(timeout_s=2.0).publish(manifest, payload, on_progress=stop_amid)
    query = pb.QueryUploadRequest(name=manifest.ref.name)
    error = refusal(lambda: connect(BOLT)._stub.QueryUpload(query, timeout=5))
    assert type(error) is errors.NotPermittedError
    connect().publish(manifest, payload, on_progress=lambda done, _: seen.append(done))
    assert seen[0] > 2 * MIB
    assert connect(BOLT).fetch(manifest.ref) == (manifest, payload)


def test_the_files_of_a_credentials_folder_serve_any_tls_client_as_they_are(
    private_registry: Running, connect: Callable[..., RegistryClient], tmp_path: Path
) -> None:
    """Use them as docs/api.md says: certificates.pem is both chain and trust."""
    connect()
    certificates, key = (
        (tmp_path / str(ACME) / name).read_bytes() for name in ("certificates.pem", "tls.key")
    )
    secure = grpc.ssl_channel_credentials(certificates, key, certificates)
    with grpc.secure_channel(private_registry.address, secure) as channel:
        stub: Any = registry_pb2_grpc.RegistryServiceStub(channel)  # type: ignore[no-untyped-call]
        assert stub.ListVersions(pb.ListVersionsRequest(), timeout=5) is not None


def test_calls_are_counted_for_the_name_in_the_certificate(
    private_registry: Running,
    connect: Callable[..., RegistryClient],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limited = private_registry.server._service.limited
    monkeypatch.setattr(limited, "_rate", RateLimit("3 calls an hour", 3 / 3600, 3))
    acme, bolt = connect(timeout_s=5), connect(BOLT)
    for _ in range(3):
        list(acme.list())
    with pytest.raises(errors.RateLimitedError, match="owner/acme made more than 3 calls"):
        list(acme.list())
    with pytest.raises(errors.RateLimitedError):  # another connection is no other caller
        list(connect(timeout_s=5).list())
    list(bolt.list())
    assert acme.health()
