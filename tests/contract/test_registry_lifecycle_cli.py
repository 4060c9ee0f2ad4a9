"""`adapterdistill registry alias|consent|withdraw|watch` against a real registry."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from adapterdistill.cli.registry import app
from adapterdistill.errors import (
    ConfigError,
    InvalidManifestError,
    NotFoundError,
    RegistryUnavailableError,
    WithdrawnError,
)
from adapterdistill.manifest import Manifest
from tests.contract.running_registry import Running
from tests.unit.registry.samples import sample


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path / "registry")
    yield running
    running.close()


@pytest.fixture
def family(registry: Running) -> tuple[Manifest, Manifest]:
    teacher, payload = sample(1, tenant="teacher")
    registry.client.publish(teacher, payload)
    student = registry.client.publish(*sample(2, teachers=[teacher.ref.name]))
    return teacher, student


def run(registry: Running, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--address", registry.address])


@pytest.mark.parametrize(
    ("options", "allowed", "told"),
    [
        (["--nobody"], frozenset(), "nobody"),
        (["--everyone"], frozenset({"*"}), "everyone"),
        (["--tenant", "b", "--tenant", "a"], frozenset({"a", "b"}), "a, b"),
    ],
)
def test_consent_is_set_and_told(
    registry: Running,
    family: tuple[Manifest, Manifest],
    options: list[str],
    allowed: frozenset[str],
    told: str,
) -> None:
    result = run(registry, "consent", "tenants/teacher/adapters/faq", *options)
    assert result.output == f"tenants/teacher/adapters/faq: shared with {told}\n"
    assert registry.client.describe(family[0].ref).consent == allowed


def test_an_alias_is_set_and_moved_and_names_its_version(registry: Running) -> None:
    first, second = (registry.client.publish(*sample(seed, tenant="acme")) for seed in (3, 4))
    name = "tenants/acme/adapters/faq/aliases/live"
    for version in (first, first, second, first):
        short = version.ref.name[: version.ref.name.rindex("/") + 9]
        assert run(registry, "alias", short, "live").output == f"{name}: {version.ref.name}\n"
        shown = run(registry, "show", name, "--format", "json").output
        assert json.loads(shown)["manifest"]["version"] == version.version


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["alias", f"tenants/teacher/adapters/faq/versions/{'0' * 64}", "live"], NotFoundError),
        (["alias", "teacher/faq", "live"], InvalidManifestError),
        (["consent", "tenants/teacher/adapters/faq"], ConfigError),
        (["consent", "tenants/teacher/adapters/faq", "--nobody", "--everyone"], ConfigError),
        (["consent", "teacher/faq", "--nobody"], InvalidManifestError),
        (["consent", "tenants/teacher/adapters/none", "--nobody"], NotFoundError),
        (["consent", "tenants/teacher/adapters/faq", "--tenant", "Not One"], InvalidManifestError),
        (["withdraw", f"tenants/a/adapters/b/versions/{'0' * 64}", "--reason", "x"], NotFoundError),
    ],
)
def test_faults_are_domain_errors(
    registry: Running,
    family: tuple[Manifest, Manifest],
    arguments: list[str],
    error: type[Exception],
) -> None:
    assert type(run(registry, *arguments).exception) is error


def test_withdrawal_names_those_that_learnt_from_it(
    registry: Running, family: tuple[Manifest, Manifest]
) -> None:
    teacher, student = family
    result = run(
        registry, "withdraw", teacher.ref.name, "--reason", "wrong labels", "--format", "json"
    )
    assert json.loads(result.output) == {"name": teacher.ref.name, "marked": {student.ref.name: 1}}
    refused = run(registry, "fetch", teacher.ref.name, "/dev/null/x").exception
    assert isinstance(refused, WithdrawnError)
    assert "wrong labels" in str(refused)


def test_watch_prints_each_change_and_gives_up_when_the_registry_is_gone(
    tmp_path: Path,
) -> None:
    registry = Running(tmp_path / "registry")
    manifest = registry.client.publish(*sample(1))
    registry.client.withdraw(manifest.ref, "old")
    closing = threading.Timer(1.0, registry.close)
    closing.start()
    result = run(registry, "watch", "--timeout", "0.5", "--format", "json")
    closing.join()
    changes = [json.loads(line) for line in result.output.splitlines()]
    assert [(c["kind"], c["name"]) for c in changes] == [
        ("published", manifest.ref.name),
        ("withdrawn", manifest.ref.name),
    ]
    assert isinstance(result.exception, RegistryUnavailableError)
