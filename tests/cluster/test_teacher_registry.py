"""The registry's actor: one a cluster, and back with all that was published after a kill."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapterdistill.actors.cluster import free_port
from adapterdistill.registry.client.client import RegistryClient
from tests.cluster.processes import kill_one, ray_processes
from tests.unit.registry.samples import sample

pytestmark = pytest.mark.ray


@pytest.fixture
def actor(ray_cluster: str, tmp_path: Path) -> Iterator[Any]:
    import ray

    from adapterdistill.actors.teacher_registry import start_teacher_registry

    started = start_teacher_registry(
        tmp_path / "root", port=free_port(), address_file=tmp_path / "address"
    )
    yield started
    ray.kill(started, no_restart=True)


def test_a_killed_registry_comes_back_with_all_that_was_published(
    actor: Any, tmp_path: Path
) -> None:
    import ray

    from adapterdistill.actors.teacher_registry import start_teacher_registry

    address = ray.get(actor.address.remote())
    assert (tmp_path / "address").read_text().strip() == address
    with RegistryClient(address, timeout_s=60) as client:
        published = [sample(n, tenant=f"tenant-{n}") for n in range(3)]
        for manifest, payload in published:
            client.publish(manifest, payload)
        etag = client.set_alias(published[0][0].ref, "live")

        dead = kill_one("TeacherRegistry")
        for manifest, payload in published:  # the client rides the restart out
            assert client.fetch(manifest.ref) == (manifest, payload)
        assert client.resolve_alias("tenant-0", published[0][0].adapter, "live") == (
            published[0][0].ref,
            etag,
        )
        assert client.health()
    assert ray.get(actor.address.remote()) == address
    (process,) = ray_processes("TeacherRegistry")
    assert process.pid != dead

    again = start_teacher_registry(tmp_path / "another-root", port=free_port())
    assert again._actor_id == actor._actor_id
    assert ray.get(again.address.remote()) == address
    assert not (tmp_path / "another-root").exists()
