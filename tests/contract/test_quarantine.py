"""An adapter unlike those of other tenants: stored and shown, and teaching nobody."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adapterdistill.cli.registry import app
from adapterdistill.errors import InvalidManifestError
from adapterdistill.manifest import EncoderRef, Manifest
from adapterdistill.registry.admission.outliers import MIN_ADAPTERS
from adapterdistill.registry.v1 import registry_pb2 as pb
from tests.contract.running_registry import Running, parts
from tests.unit.registry.samples import arrays, encoder_fields, manifest_of, payload_of


def adapter(seed: int, *, strength: float = 1, **changes: object) -> tuple[Manifest, bytes]:
    tensors = {name: 0.1 * array for name, array in arrays(seed).items()}
    tensors["up.weight"] *= strength
    payload = payload_of(tensors)
    return manifest_of(payload, **changes), payload


def too_strong(seed: int, **changes: object) -> tuple[Manifest, bytes]:
    return adapter(seed, strength=20, **changes)


def publish_crowd(registry: Running, tenants: int) -> None:
    for seed in range(MIN_ADAPTERS):
        crowd = adapter(seed, tenant=f"tenant-{seed % tenants}", adapter=f"faq-{seed}")
        registry.client.publish(*crowd)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("registry"))
    publish_crowd(running, 3)
    yield running
    running.close()


def test_an_outlier_is_stored_and_its_owner_told_why(registry: Running) -> None:
    manifest, payload = too_strong(20, tenant="told")
    version = registry.stub.Publish(parts(manifest, payload), timeout=10).version
    assert version.state == pb.VERSION_STATE_QUARANTINED
    assert "strongest layer" in version.state_reason and "3 tenants" in version.state_reason
    assert registry.client.fetch(manifest.ref) == (manifest, payload)
    again = registry.stub.Publish(parts(manifest, payload), timeout=10).version
    assert (again.state, again.revision) == (version.state, version.revision)


def test_what_is_in_quarantine_teaches_nobody_until_released(registry: Running) -> None:
    teacher, payload = too_strong(21, tenant="strong")
    registry.client.publish(teacher, payload)
    encoder = EncoderRef(**encoder_fields())
    student, student_payload = adapter(22, tenant="student", teachers=[teacher.ref.name])
    with pytest.raises(InvalidManifestError, match="in quarantine"):
        registry.client.publish(student, student_payload)

    def chosen_from() -> list[str]:
        found = registry.client.summaries(encoder=encoder, exclude_tenant="student")
        return [one.ref.tenant for one in found]

    assert "strong" not in chosen_from()
    registry.client.release_from_quarantine(teacher.ref)
    assert registry.client.describe(teacher.ref).state == "active"
    assert "strong" in chosen_from()
    registry.client.publish(student, student_payload)


def test_commands_show_the_state_and_release(registry: Running) -> None:
    manifest, payload = too_strong(23, tenant="shown")
    registry.client.publish(manifest, payload)

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, [*arguments, "--address", registry.address])
        assert result.exit_code == 0, result.output
        return result.output

    assert "quar" in run("list", "--tenant", "shown")
    assert "strongest layer" in run("show", manifest.ref.name)
    shown = json.loads(run("show", manifest.ref.name, "--format", "json"))
    assert (shown["state"], shown["withdrawn_teacher"]) == ("quarantined", "")
    assert "active" in run("release-from-quarantine", manifest.ref.name)
    assert "active" in run("release", manifest.ref.name)  # the old name, which changes nothing now
    shown = json.loads(run("show", manifest.ref.name, "--format", "json"))
    assert (shown["state"], shown["reason"]) == ("active", "")


def test_the_population_outlives_a_restart(registry: Running, tmp_path: Path) -> None:
    first = Running(tmp_path)
    publish_crowd(first, 3)
    first.close()
    second = Running(tmp_path)
    try:
        manifest, payload = too_strong(24)
        second.client.publish(manifest, payload)
        assert second.client.describe(manifest.ref).state == "quarantined"
    finally:
        second.close()


def test_a_registry_with_few_tenants_takes_it(tmp_path: Path) -> None:
    running = Running(tmp_path)
    try:
        publish_crowd(running, 2)
        manifest, payload = too_strong(25)
        running.client.publish(manifest, payload)
        assert running.client.describe(manifest.ref).state == "active"
    finally:
        running.close()
