"""The data owner as an actor on its owner's node."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapterdistill.actors import preflight
from adapterdistill.actors.onboarding import on_cluster, onboard
from adapterdistill.actors.stages import STAGES
from adapterdistill.config import OnboardConfig
from adapterdistill.errors import DataError, PlacementError
from adapterdistill.manifest import VersionRef
from adapterdistill.sections import PlacementConfig
from tests.cluster.processes import kill_one, ray_processes
from tests.contract.running_registry import Running
from tests.owner_runs import run_of, run_through, write_shop

pytestmark = pytest.mark.ray


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path / "registry")
    yield running
    running.close()


@pytest.fixture
def config(
    tmp_path: Path, tiny_encoder_folder: Path, registry: Running, ray_cluster: str
) -> OnboardConfig:
    write_shop(tmp_path / "data" / "acme")
    return run_of(
        tmp_path,
        "acme",
        encoder=tiny_encoder_folder,
        registry=registry.address,
        placement={"resource": "owner:here", "timeout_s": 60},
    )


def test_an_owner_on_its_node_onboards_as_it_would_in_process(
    config: OnboardConfig, registry: Running, tmp_path: Path
) -> None:
    lines: list[str] = []
    run = on_cluster(config)
    report = onboard(config, run, emit=lines.append)
    payload = registry.client.fetch(VersionRef.parse(report.publish.name))[1]
    assert len(payload) == report.publish.payload_bytes and len(lines) == len(STAGES)
    alone, _ = run_through(config.model_copy(update={"workspace": str(tmp_path / "alone")}))
    assert alone.publish.name == report.publish.name
    assert alone.bundle.bundle == report.bundle.bundle


def test_an_owner_whose_process_is_killed_comes_back_and_goes_on(config: OnboardConfig) -> None:
    run = on_cluster(config)
    extracted = run("extract")
    kill_one("DataOwner")
    assert run("extract") == extracted
    assert run("bundle").seconds > 0
    assert len(ray_processes("DataOwner")) >= 1


def test_a_data_fault_arrives_as_itself(config: OnboardConfig, tmp_path: Path) -> None:
    (tmp_path / "data" / "acme" / "faqs.parquet").write_bytes(b"torn")
    run = on_cluster(config)
    with pytest.raises(DataError) as caught:
        run("validate")
    assert type(caught.value) is DataError
    assert "Traceback" not in str(caught.value)


def test_no_node_with_the_resource_is_a_clear_error_in_time(config: OnboardConfig) -> None:
    placement = PlacementConfig(resource="owner:elsewhere", timeout_s=0.6)
    started = time.monotonic()
    with pytest.raises(PlacementError) as caught:
        on_cluster(config.model_copy(update={"placement": placement}))
    assert time.monotonic() - started < 30  # not the 60 s of the others
    message = str(caught.value)
    assert "'owner:elsewhere'" in message and "waited 0.6 s" in message
    assert "cluster/nodes/owner.sh" in message


def test_a_dry_run_looks_on_the_owner_s_node_or_says_that_there_is_none(
    config: OnboardConfig, tmp_path: Path
) -> None:
    found = preflight.on_cluster(config)
    assert found.first_error is None and found.counts["faqs"] == 5
    assert not (tmp_path / "owners").exists()
    placement = PlacementConfig(resource="owner:elsewhere", timeout_s=0.6)
    with pytest.raises(PlacementError, match="owner:elsewhere"):
        preflight.on_cluster(config.model_copy(update={"placement": placement}))
