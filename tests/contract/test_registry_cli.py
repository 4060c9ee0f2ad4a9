"""`adapterdistill registry list|show|fetch` against a real registry."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load
from typer.testing import CliRunner

from adapterdistill.cli.registry import app
from adapterdistill.errors import AdapterDistillError, ConfigError, NotFoundError, RegistryError
from tests.contract.running_registry import Running
from tests.unit.registry.samples import sample


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("registry"))
    teacher, payload = sample(1, tenant="teacher")
    running.client.publish(teacher, payload)
    student = running.client.publish(*sample(2, teachers=[teacher.ref.name]))
    running.client.set_alias(student.ref, "live")
    yield running
    running.close()


def run(registry: Running, *arguments: str) -> str:
    result = CliRunner().invoke(app, [*arguments, "--address", registry.address])
    if isinstance(result.exception, AdapterDistillError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_list_as_json_holds_whole_manifests(registry: Running) -> None:
    listed = json.loads(run(registry, "list", "--format", "json"))
    assert [one["tenant"] for one in listed] == ["acme", "teacher"]
    manifest = sample(1, tenant="teacher")[0].model_dump(mode="json")
    assert listed[1] == manifest | {"state": "active"}
    only = json.loads(run(registry, "list", "--format", "json", "--exclude-tenant", "acme"))
    assert only == listed[1:]


def test_list_as_table_shows_the_short_digest_that_show_accepts(registry: Running) -> None:
    version = sample(1)[0].version
    assert version[:12] in run(registry, "list", "--tenant", "teacher")
    name = f"tenants/teacher/adapters/faq/versions/{version[:12]}"
    shown = json.loads(run(registry, "show", name, "--format", "json"))
    assert shown["manifest"]["version"] == version
    assert list(shown["lineage"]["students"].values()) == [1]
    assert "teachers" in run(registry, "show", name)


def test_fetch_by_alias_writes_a_loadable_adapter_and_its_manifest(
    registry: Running, tmp_path: Path
) -> None:
    manifest, payload = sample(2, teachers=[sample(1, tenant="teacher")[0].ref.name])
    run(registry, "fetch", "tenants/acme/adapters/faq/aliases/live", str(tmp_path / "a" / "b"))
    folder = tmp_path / "a" / "b"
    assert (folder / "adapter.safetensors").read_bytes() == payload
    assert (folder / "manifest.json").read_bytes() == manifest.canonical_json()
    assert len(load(payload)) == len(list(manifest.tensors))
    assert len(list(folder.iterdir())) == 2


def test_fetch_shows_how_far_it_is_only_where_a_terminal_watches(
    registry: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["fetch", "tenants/acme/adapters/faq/aliases/live", str(tmp_path)]
    arguments = [*command, "--address", registry.address]
    assert CliRunner().invoke(app, arguments).stderr == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = CliRunner().invoke(app, arguments)
    assert "kB" in shown.stderr or "bytes" in shown.stderr
    assert "verified" in shown.stdout


def test_address_may_come_from_a_file(registry: Running, tmp_path: Path) -> None:
    (tmp_path / "address").write_text(f"{registry.address}\n")
    result = CliRunner().invoke(app, ["list", "--address-file", str(tmp_path / "address")])
    assert (result.exit_code, "teacher" in result.output) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["show", "tenants/acme/adapters/faq/versions/00000000"], NotFoundError),
        (["show", "tenants/acme/adapters/faq/aliases/none"], NotFoundError),
        (["fetch", "tenants/acme/adapters/faq/aliases/live", "/dev/null/x"], ConfigError),
        (["serve", "--create", "--root", "/dev/null/x"], RegistryError),
    ],
)
def test_faults_are_domain_errors(
    registry: Running, arguments: list[str], error: type[AdapterDistillError]
) -> None:
    extra = [] if arguments[0] == "serve" else ["--address", registry.address]
    result = CliRunner().invoke(app, [*arguments, *extra])
    assert type(result.exception) is error


def test_lacking_address_is_a_domain_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ADAPTERDISTILL_REGISTRY", raising=False)
    for extra in ([], ["--address-file", "/nonexistent"]):
        assert type(CliRunner().invoke(app, ["list", *extra]).exception) is ConfigError


def test_list_chooses_by_label_task_and_language(registry: Running) -> None:
    marked = registry.client.publish(*sample(7, tenant="marked", labels=["bank"], language="de"))
    for chosen, found in (
        (["--label", "bank"], True),
        (["--label", "bank", "--label", "uk"], False),
        (["--language", "de", "--task", "retrieval"], True),
        (["--task", "nli"], False),
    ):
        listed = json.loads(run(registry, "list", "--format", "json", *chosen))
        assert [one["tenant"] for one in listed] == ([marked.tenant] if found else [])
