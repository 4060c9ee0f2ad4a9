"""Onboarding sent by `adapterdistill submit`: exit codes, and submitting the same work again."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from adapterdistill.actors.cluster import (
    OwnCluster,
    cluster_processes,
    start_own_cluster,
    stop_own_cluster,
)
from adapterdistill.config import OnboardConfig
from adapterdistill.files import read_secret
from adapterdistill.manifest import VersionRef
from tests.cluster.processes import ray_processes
from tests.contract.running_registry import Running, wait_until
from tests.owner_runs import HELD, config_toml, run_of, write_shop

SECRET = "plover"
pytestmark = pytest.mark.e2e


@dataclass(frozen=True)
class Site:
    """A cluster of the test's own with the node of one owner, and a registry outside it."""

    home: Path
    cluster: OwnCluster
    registry: Running
    encoder: Path

    def config(self, tenant: str, **more: object) -> OnboardConfig:
        return run_of(
            self.home,
            tenant,
            encoder=self.encoder,
            registry=self.registry.address,
            placement={"resource": "owner:acme", "timeout_s": 60.0},
            **more,
        )

    def submit(
        self, config: OnboardConfig, submission_id: str, *, wait: bool = True
    ) -> tuple[int, str]:
        """Exit status of `adapterdistill submit` and what it printed, the job's log among it."""
        toml = self.home / f"{config.tenant}.toml"
        toml.write_text(config_toml(config))
        return self.run(
            *("adapterdistill", "submit", f"--config={toml}", f"--submission-id={submission_id}"),
            *(f"--package={self.home}/package.zip", *([] if wait else ["--no-wait"])),
        )

    def job(self, verb: str, *arguments: str) -> tuple[int, str]:
        """Exit status of `ray job VERB`, and what it printed."""
        return self.run("ray.scripts.scripts", "job", verb, *arguments)

    def run(self, module: str, *arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments, f"--address={self.cluster.dashboard}"],
            cwd=self.home,
            env=os.environ | self.cluster.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=250,
        )
        return done.returncode, done.stdout

    def owners(self) -> list[psutil.Process]:
        """Actors of data owners that live."""
        return ray_processes("DataOwner", self.cluster.pid)


@pytest.fixture(scope="module")
def site(tiny_encoder_folder: Path) -> Iterator[Site]:
    home = Path(tempfile.mkdtemp(prefix="e2e-"))  # short: Ray's sockets live under it
    registry = Running(home / "registry")
    cluster = start_own_cluster(home, num_cpus=2, resources={"owner:acme": 1}, environment={})
    try:
        yield Site(home, cluster, registry, tiny_encoder_folder)
    finally:
        stop_own_cluster(cluster)
        left = [process.cmdline() for process in cluster_processes(cluster)]
        registry.close()
        shutil.rmtree(home, ignore_errors=True)
        assert left == []


def test_a_job_onboards_and_submitting_the_same_work_again_is_harmless(site: Site) -> None:
    write_shop(site.home / "data" / "acme", word=SECRET)
    config = site.config("acme")
    status, log = site.submit(config, "first")
    assert status == 0, log
    assert "[9/9] acme bundle:" in log and "job first ended with exit code 0" in log
    assert "$ ray job submit " in log and " -- python -m adapterdistill onboard --config" in log
    assert SECRET not in log
    path = site.home / "owners" / "acme" / "report.json"
    report = json.loads(path.read_text())
    assert report["submission_id"] == "first"
    version = VersionRef.parse(report["publish"]["name"])
    assert site.registry.client.get(version).tenant == "acme"

    status, again = site.submit(config, "second")
    assert status == 0, again
    assert "step 1/" in log and "step 1/" not in again  # nothing was trained again
    repeated = json.loads(path.read_text())
    changed = {key for key in report if report[key] != repeated[key]}
    assert changed <= {"submission_id", "seconds"}
    versions = list(site.registry.client.list(tenant="acme", latest_only=False))
    assert [manifest.ref for manifest in versions] == [version]


def test_the_clusters_token_is_in_its_own_file_alone(site: Site) -> None:
    """In no argument, environment or log of any process, and in no record of a job."""
    file = Path(site.cluster.environment["RAY_AUTH_TOKEN_PATH"])
    token = read_secret(file)
    processes = cluster_processes(site.cluster)
    assert len(processes) > 3
    for process in processes:
        for about in ("cmdline", "environ"):
            with suppress(ProcessLookupError, FileNotFoundError):  # it may have ended since
                assert token not in Path(f"/proc/{process.pid}/{about}").read_bytes()
    _, jobs = site.job("list")
    assert "submission_id" in jobs and token.decode() not in jobs
    files = [path for path in site.home.rglob("*") if path.is_file() and path != file]
    assert [path for path in files if token in path.read_bytes()] == []


def test_a_job_whose_data_are_at_fault_fails_with_their_exit_code(site: Site) -> None:
    folder = write_shop(site.home / "data" / "broken", word=SECRET)
    (folder / "queries.parquet").write_bytes((folder / "queries.parquet").read_bytes()[:-30])
    status, log = site.submit(site.config("broken"), "broken")
    assert status == 3
    assert "exit code 3" in log and "error [INVALID_DATA]" in log and "queries.parquet" in log
    assert SECRET not in log and "Traceback" not in log
    assert not (site.home / "owners" / "broken").exists()


def test_a_job_that_is_stopped_leaves_nothing_and_can_be_submitted_again(site: Site) -> None:
    # With `valid` rows, since folds of few rows fix the steps at 20.
    write_shop(site.home / "data" / "stopped", word=SECRET, splits=HELD)
    long = {"extract_steps": 100_000, "evaluate_every": 100_000}
    status, log = site.submit(site.config("stopped", training=long), "stopped", wait=False)
    assert status == 0, log
    rows = "owners/stopped/runs/*/rows.safetensors"
    wait_until(lambda: bool(list(site.home.glob(rows))), timeout_s=60)
    assert len(site.owners()) == 1
    status, log = site.job("stop", "stopped")
    assert status == 0, log
    wait_until(lambda: not site.owners(), timeout_s=30)
    assert list(site.registry.client.list(tenant="stopped")) == []
    assert not (site.home / "serving" / "stopped").exists()

    status, log = site.submit(site.config("stopped"), "again")
    assert status == 0, log
    assert list((site.home / "owners").rglob(".staged-*")) == []


def test_a_job_without_its_owners_node_fails_with_that_exit_code(site: Site) -> None:
    write_shop(site.home / "data" / "lost")
    config = site.config("lost")
    placement = config.placement.model_copy(update={"resource": "owner:lost", "timeout_s": 1.0})
    status, log = site.submit(config.model_copy(update={"placement": placement}), "lost")
    assert status == 7
    assert "exit code 7" in log and "owner:lost" in log and "Traceback" not in log
