"""`registry receipt` as owners and auditors call it, and offline on what it wrote."""

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adapterdistill.cli import app
from adapterdistill.errors import (
    AdapterDistillError,
    AuditBrokenError,
    ConfigError,
    DigestMismatchError,
    IntegrityError,
    NotFoundError,
    SignatureError,
)
from adapterdistill.manifest import Manifest
from adapterdistill.registry.access import Caller
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.trust.authority import create
from tests.contract.running_registry import Running
from tests.enrolment import enrolled
from tests.unit.registry.samples import sample

Run = Callable[[str], str]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("receipts")


@pytest.fixture(scope="module")
def registry(home: Path) -> Iterator[Running]:
    create(home / "registry", ["127.0.0.1"])
    running = Running(home / "registry")
    for caller in (Caller("owner", "acme"), Caller("owner", "bolt"), Caller("auditor", "ada")):
        enrolled(running.root, home / caller.name, caller)
    yield running
    running.close()


@pytest.fixture(scope="module")
def published(home: Path, registry: Running) -> Manifest:
    """A student of bolt's teacher, published by acme."""
    teacher, taught = sample(1, tenant="bolt")
    with RegistryClient(registry.address, credentials=home / "bolt") as bolt:
        bolt.publish(teacher, taught)
    student, payload = sample(2, tenant="acme", teachers=[teacher.ref.name])
    with RegistryClient(registry.address, credentials=home / "acme") as acme:
        acme.publish(student, payload)
    return student


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(home)
    monkeypatch.setenv("COLUMNS", "300")

    def one(line: str) -> str:
        result = CliRunner().invoke(app, ["registry", "receipt", *line.split()])
        if isinstance(result.exception, AdapterDistillError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    return one


def test_an_owner_sees_who_signed_what_from_whom(
    registry: Running, published: Manifest, run: Run
) -> None:
    shown = run(
        f"{published.ref.name[:-40]} --address {registry.address} --credentials acme"
        " --audit registry --public-key registry/audit/public.pem"
    )
    for said in (
        published.ref.name,
        "owner/acme, at 20",
        sample(1, tenant="bolt")[0].ref.name,
        "none stated",
        f"its sha256 is {published.version}",
        "by owner/acme",
        "not recorded",
    ):
        assert said in shown


def test_an_auditor_is_told_what_is_not_verified(
    registry: Running, published: Manifest, run: Run
) -> None:
    shown = run(f"{published.ref.name} --address {registry.address} --credentials ada")
    assert "not verified: auditor/ada may read manifests, not payloads" in shown
    assert "not verified: give --audit" in shown


def test_what_was_written_is_verified_without_the_registry(
    registry: Running, published: Manifest, run: Run, home: Path
) -> None:
    connect = f"--address {registry.address} --credentials acme"
    written = run(f"{published.ref.name} {connect} --audit registry --format json")
    content = json.loads(base64.b64decode(json.loads(written)["payload"]))
    assert content["subject"][0]["digest"]["sha256"] == published.version
    assert content["predicate"]["audit"]["name"] == published.ref.name
    (home / "receipt.json").write_text(written)
    (home / "payload").write_bytes(sample(2)[1])
    offline = "--file receipt.json --authority registry/server/ca.pem"
    shown = run(f"{offline} --payload payload --audit registry")
    assert published.ref.name in shown and f"its sha256 is {published.version}" in shown
    assert "not verified: give --payload" in run(offline)
    assert run(f"{offline} --format json") == written
    assert run("--file receipt.json --credentials bolt --format json") == written
    (home / "payload").write_bytes(b"another")
    with pytest.raises(DigestMismatchError, match="not that of"):
        run(f"{offline} --payload payload")
    content["predicate"]["time"] = "2020-01-01T00:00:00Z"
    changed = json.loads(written) | {
        "payload": base64.b64encode(json.dumps(content).encode()).decode()
    }
    (home / "changed.json").write_text(json.dumps(changed))
    with pytest.raises(IntegrityError, match=r"differs .* in: payload\.predicate\.time"):
        run("--file changed.json --authority registry/server/ca.pem")
    create(home / "other", ["127.0.0.1"])
    with pytest.raises(SignatureError, match="not issued by the registry's authority"):
        run("--file receipt.json --authority other/server/ca.pem")


def test_a_withdrawn_version_has_its_receipt(registry: Running, run: Run, home: Path) -> None:
    manifest, payload = sample(3, tenant="acme", adapter="gone")
    with RegistryClient(registry.address, credentials=home / "acme") as acme:
        acme.publish(manifest, payload)
        acme.withdraw(manifest.ref, "wrong rows")
    shown = run(f"{manifest.ref.name} --address {registry.address} --credentials acme")
    assert "is withdrawn: wrong rows" in shown and "owner/acme, at 20" in shown


def test_faults_are_named(registry: Running, published: Manifest, run: Run, home: Path) -> None:
    connect = f"--address {registry.address} --credentials acme"
    (home / "log.jsonl").write_bytes(b"{}\n")
    (home / "no.json").write_bytes(b"{}")
    name = published.ref.name
    faults: list[tuple[str, type[Exception], str]] = [
        ("--authority registry/server/ca.pem", ConfigError, "which receipt"),
        (f"{name} --file no.json", ConfigError, "which receipt"),
        (f"{name} --address {registry.address}", ConfigError, "whom to trust"),
        ("--file no.json --authority no.json", ConfigError, r"no\.json: no certificates in PEM"),
        ("--file no.json --credentials acme", IntegrityError, "not a receipt"),
        ("--file absent --credentials acme", ConfigError, "absent: No such file"),
        (f"{name} {connect} --payload absent", ConfigError, "absent: No such file"),
        (f"{name} {connect} --audit log.jsonl", AuditBrokenError, "line 1: edited"),
        (f"{name[:-64]}{'0' * 64} {connect}", NotFoundError, "no version|0000"),
    ]
    for line, error, says in faults:
        with pytest.raises(error, match=says):
            run(line)


def test_over_plain_text_nobody_signed_anything(run: Run, home: Path, registry: Running) -> None:
    plain = Running(home / "plain")
    try:
        manifest, payload = sample(4)
        plain.client.publish(manifest, payload)
        with pytest.raises(SignatureError, match="is not signed by its owner"):
            run(f"{manifest.ref.name} --address {plain.address} --authority registry/server/ca.pem")
    finally:
        plain.close()


def test_a_receipt_outlives_the_rotation_of_the_authority(
    registry: Running, published: Manifest, run: Run, home: Path
) -> None:
    written = run(
        f"{published.ref.name} --address {registry.address} --credentials acme --format json"
    )
    (home / "receipt.json").write_text(written)
    for step in ("begin", "switch", "drop"):
        done = CliRunner().invoke(
            app, ["registry", "rotate-authority", step, "--root", "registry", "--force"]
        )
        assert done.exit_code == 0, done.output
    offline = "--file receipt.json --authority registry/server/ca.pem"
    assert run(f"{offline} --format json") == written
