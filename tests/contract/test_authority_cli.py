"""`adapterdistill registry init|enrol|revoke` and `adapterdistill owner`, as people type them."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from typer.testing import CliRunner

from adapterdistill.cli import app
from adapterdistill.config import parse_config
from adapterdistill.errors import (
    AdapterDistillError,
    ConfigError,
    NotFoundError,
    UnauthenticatedError,
)
from tests.contract.running_registry import Running
from tests.enrolment import enrolled
from tests.unit.registry.samples import sample

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def one(line: str, **environment: str) -> str:
        result = CliRunner().invoke(app, line.split(), env=environment)
        if isinstance(result.exception, AdapterDistillError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    return one


def certificates(run: Run) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(
        run("registry certificates --root root --format json")
    )
    return listed


def test_owner_is_enrolled_connects_and_is_revoked(run: Run) -> None:
    assert "root/operator" in run("registry init --root root")
    assert "acme/request.pem" in run("owner keygen acme --tenant acme")
    assert "180 days" in run(
        "registry enrol acme --root root --request acme/request.pem --out acme/certificates.pem"
        " --days 180"
    )
    shown = json.loads(run("owner show acme --format json"))
    assert (shown["name"], shown["role"]) == ("acme", "owner")
    left = datetime.fromisoformat(shown["expires"]) - datetime.now(UTC)
    assert timedelta(days=179) < left <= timedelta(days=180)
    assert "owner" in run("owner show acme")
    registry = Running(Path("root"))
    try:
        connect = f"--address {registry.address} --credentials acme"
        assert json.loads(run(f"registry list {connect} --format json")) == []
        in_environment = {
            "ADAPTERDISTILL_CREDENTIALS": "root/operator",
            "ADAPTERDISTILL_REGISTRY": registry.address,
        }
        assert json.loads(run("registry list --format json", **in_environment)) == []
        revoked = json.loads(run("registry revoke acme --root root --format json"))
        assert {one["use"] for one in revoked} == {"client", "signing"}
        assert all(one["revoked"] for one in revoked)
        for verb in ("list", f"show {sample(1)[0].ref.name}", f"fetch {sample(1)[0].ref.name} out"):
            with pytest.raises(UnauthenticatedError, match="owner/acme is revoked"):
                run(f"registry {verb} {connect}")
    finally:
        registry.close()


def test_certificates_lists_who_has_which(run: Run) -> None:
    run("registry init --root root --host registry.example --host 192.0.2.7")
    run("registry keygen kpm --name kpm --role auditor")
    with pytest.raises(ConfigError, match="asks for certificates of auditor/kpm"):
        run("registry enrol kpm --root root --request kpm/request.pem --out kpm/certificates.pem")
    run(
        "registry enrol kpm --role auditor --root root --request kpm/request.pem"
        " --out kpm/certificates.pem"
    )
    listed = certificates(run)
    assert {(one["name"], one["role"]) for one in listed} == {
        ("operator", "operator"),
        ("kpm", "auditor"),
    }
    assert len({one["serial"] for one in listed}) == 4
    serial = next(one["serial"] for one in listed if one["name"] == "kpm")
    short = serial[:12]
    assert short in run("registry certificates --root root")
    assert "revoked" in run(f"registry revoke --serial {short.upper()} --root root")
    assert [one["serial"] for one in certificates(run) if one["revoked"]] == [serial]
    assert "kpm" in run("registry certificates --root root")


def test_server_is_always_good_for_loopback(run: Run) -> None:
    for command in ("init", "renew-server"):
        run(f"registry {command} --root root --host registry.example")
        certificate = x509.load_pem_x509_certificate(Path("root/server/server.pem").read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["registry.example", "localhost"]
        assert "127.0.0.1" in map(str, names.get_values_for_type(x509.IPAddress))


def test_server_is_renewed_for_its_hosts(run: Run) -> None:
    run("registry init --root root")
    before = Path("root/server/server.pem").read_bytes()
    run("registry renew-server --root root")
    assert Path("root/server/server.pem").read_bytes() != before


@pytest.mark.parametrize(
    ("line", "error", "says"),
    [
        ("registry init --root root", ConfigError, "authority already"),
        ("registry certificates --root absent", ConfigError, "registry init"),
        ("registry revoke --root root", ConfigError, "either a name or --serial"),
        ("registry revoke acme --root root --serial 1f", ConfigError, "either a name or"),
        ("registry revoke acme --root root", NotFoundError, "owner/acme"),
        ("registry revoke operator --root root", NotFoundError, "owner/operator"),
        ("owner keygen acme --tenant ACME", ConfigError, "not a name"),
        ("owner show absent", ConfigError, "tls.key"),
        ("registry enrol a --root root --request no --out c", ConfigError, "no: No such file"),
        ("registry list --address 127.0.0.1:1 --credentials none", ConfigError, "none/tls.key"),
    ],
)
def test_faults_are_named(run: Run, line: str, error: type[Exception], says: str) -> None:
    run("registry init --root root")
    with pytest.raises(error, match=says):
        run(line)


def test_expired_credentials_are_shown_and_refused(run: Run, tmp_path: Path) -> None:
    run("registry init --root root")
    enrolled(tmp_path / "root", tmp_path / "acme", lifetime=-timedelta(minutes=1))
    with pytest.raises(UnauthenticatedError, match="expired at"):
        run("owner show acme")


def test_a_run_names_its_credentials_by_a_path_that_is_made_absolute() -> None:
    values = {
        "tenant": "acme",
        "data": "data",
        "workspace": "w",
        "serving_store": "s",
        "registry": {"address": "registry.example:7000", "credentials": "acme"},
    }
    config = parse_config(values, source="test")
    assert config.registry.credentials == str(Path("acme").absolute())
    assert (
        parse_config(values, source="test").digest()
        == parse_config(
            values | {"registry": {"address": "registry.example:7000"}}, source="test"
        ).digest()
    )
