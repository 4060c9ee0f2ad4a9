"""A company without a registry of its own: one in the workspace, which its tenants share."""

from pathlib import Path

import psutil
import pytest

from adapterdistill.actors.preflight import preflight
from adapterdistill.actors.publishing import EMBEDDED_REGISTRY, open_registry
from adapterdistill.config import OnboardConfig
from adapterdistill.errors import RegistryError
from adapterdistill.manifest import VersionRef
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.server.embedded import embedded_registry
from adapterdistill.sections import RegistryConfig
from tests.contract.running_registry import Running
from tests.owner_runs import run_of, run_through, write_shop


@pytest.fixture
def tenants(tmp_path: Path, tiny_encoder_folder: Path) -> list[OnboardConfig]:
    """Configs of two tenants of one workspace, which name no registry."""
    found = []
    for tenant, word in (("glover", ""), ("hatter", "soon")):
        write_shop(tmp_path / "data" / tenant, word=word)
        config = run_of(tmp_path, tenant, encoder=tiny_encoder_folder, registry="127.0.0.1:1")
        found.append(config.model_copy(update={"registry": RegistryConfig()}))
    return found


def test_tenants_of_one_workspace_learn_from_each_other_without_a_registry_s_address(
    tenants: list[OnboardConfig], tmp_path: Path
) -> None:
    first, second = tenants
    before = preflight(first)
    [check] = [one for one in before.checks if one.name == "registry"]
    assert (check.status, "only its own tenants" in check.said) == ("ok", True)
    assert not Path(first.workspace).exists()  # a dry run changes nothing
    published = run_through(first)[0].publish.name
    report, _ = run_through(second)
    assert report.fetch_teachers.teachers == (published,)
    root = Path(first.workspace) / EMBEDDED_REGISTRY
    assert root.stat().st_mode & 0o777 == 0o700
    with open_registry(first) as registry:
        assert registry.get(VersionRef.parse(published)).tenant == "glover"


def test_no_other_user_of_the_machine_can_reach_it(tmp_path: Path) -> None:
    ports = {one.laddr for one in psutil.Process().net_connections() if one.status == "LISTEN"}
    with embedded_registry(tmp_path / "registry") as address:
        socket = Path(address.removeprefix("unix:"))
        assert socket.is_socket() and socket.parent.stat().st_mode & 0o777 == 0o700
        listening = [one for one in psutil.Process().net_connections() if one.status == "LISTEN"]
        assert {one.laddr for one in listening} <= ports
        with RegistryClient(address, timeout_s=10) as client:
            assert client.health() and list(client.list()) == []
    assert not socket.parent.exists()


def test_a_folder_that_is_served_already_is_refused(tmp_path: Path) -> None:
    running = Running(tmp_path / "registry")
    with pytest.raises(RegistryError), embedded_registry(tmp_path / "registry"):
        pass
    running.close()
