"""Owners with certificates are onboarded in turn; each teaches the next, none acts as another."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from adapterdistill.actors.onboarding import OnboardReport
from adapterdistill.config import OnboardConfig, parse_config
from adapterdistill.errors import NotPermittedError, UnauthenticatedError
from adapterdistill.evaluation.choice import Choice, choose
from adapterdistill.manifest import VersionRef
from adapterdistill.registry.access import Caller
from adapterdistill.registry.trust.authority import opened
from adapterdistill.registry.trust.credentials import read_credentials
from adapterdistill.registry.v1 import registry_pb2 as pb
from tests.contract.running_registry import Running
from tests.enrolment import enrolled
from tests.owner_runs import HELD, run_of, run_through, write_shop


def configured(
    registry: Running, home: Path, encoder: Path, tenant: str, *, enrolled_as: str
) -> OnboardConfig:
    """A run of the tenant's with the credentials of `enrolled_as`."""
    folder = home / "credentials" / enrolled_as
    if not folder.exists():
        enrolled(registry.root, folder, Caller("owner", enrolled_as))
    write_shop(home / "data" / tenant, splits=HELD)
    values = run_of(home, tenant, encoder=encoder, registry=registry.address).model_dump()
    section = {"address": registry.address, "timeout_s": 10, "credentials": str(folder)}
    return parse_config(values | {"registry": section}, source="test")


def _choose_the_own_adapter(*given: Any, **named: Any) -> Choice:
    return replace(choose(*given, **named), chosen="own")


def test_owners_learn_from_each_other_by_their_certificates(
    private_registry: Running,
    tiny_encoder_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The bare encoder, which a tiny one's few rows may prefer, teaches nobody.
    monkeypatch.setattr("adapterdistill.evaluation.arrival.choose", _choose_the_own_adapter)

    def onboarded(tenant: str, *, enrolled_as: str) -> OnboardReport:
        return run_through(
            configured(
                private_registry, tmp_path, tiny_encoder_folder, tenant, enrolled_as=enrolled_as
            )
        )[0]

    first = onboarded("florist", enrolled_as="florist")
    second = onboarded("grocer", enrolled_as="grocer")
    assert second.fetch_teachers.teachers == (first.publish.name,)
    assert VersionRef.parse(second.publish.name).tenant == "grocer"
    with pytest.raises(NotPermittedError, match="owner/grocer may not write under tenants/hatter"):
        onboarded("hatter", enrolled_as="grocer")
    with opened(private_registry.root) as authority:
        authority.revoke(Caller("owner", "grocer"))
    with pytest.raises(UnauthenticatedError, match="owner/grocer is revoked"):
        onboarded("ironmonger", enrolled_as="grocer")


def test_a_run_renews_certificates_that_are_due_and_publishes_by_them(
    private_registry: Running,
    tiny_encoder_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("adapterdistill.evaluation.arrival.choose", _choose_the_own_adapter)
    folder = tmp_path / "credentials" / "joiner"
    old = enrolled(
        private_registry.root,
        folder,
        Caller("owner", "joiner"),
        lifetime=timedelta(minutes=4),  # and ten before: a third of it is left
    )
    assert old.is_due(datetime.now(UTC))
    config = configured(
        private_registry, tmp_path, tiny_encoder_folder, "joiner", enrolled_as="joiner"
    )
    report = run_through(config)[0]
    own = read_credentials(folder)
    assert not own.is_due(datetime.now(UTC)) and own.tls_key_pem != old.tls_key_pem
    request = pb.GetVersionRequest(name=report.publish.name)
    version = private_registry.stub.GetVersion(request, timeout=5).version
    shown = own.signing_certificate.public_bytes(Encoding.DER)
    assert version.statement.certificate == shown
    log = (private_registry.root / "audit" / "log.jsonl").read_text("utf-8")
    assert log.count('"caller":"owner/joiner","kind":"renewed"') == 1
