"""Owners on nodes of their own: who reads which rows, by the path of every read and write.

Every process of the cluster writes down the files that it opens below the owners' folders, with the
node that it runs on (an audit hook, in before any of the project's code).
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from adapterdistill.actors.cluster import (
    OwnCluster,
    cluster_processes,
    join_own_cluster,
    start_own_cluster,
    stop_own_cluster,
)
from adapterdistill.config import OnboardConfig
from tests.contract.running_registry import Running
from tests.owner_runs import config_toml, run_of, write_shop

ROOT = Path(__file__).resolve().parents[2]
OWNERS = ("acme", "birch")
NODE = "TEST_NODE"
pytestmark = pytest.mark.e2e

_HOOK = """
import os, sys

WATCHED = tuple(f"{os.environ['TEST_HOME']}/{folder}/" for folder in ("data", "owners", "serving"))

def note(event, arguments):
    if event in ("open", "adapterdistill.read_table") and isinstance(arguments[0], (str, bytes)):
        path = os.fsdecode(arguments[0])
        if path.startswith(WATCHED):
            line = f"{os.environ.get('TEST_NODE', 'driver')} {path}\\n"
            with open(f"{os.environ['TEST_HOME']}/opened", "a") as log:
                log.write(line)

sys.addaudithook(note)
"""


@dataclass(frozen=True)
class Nodes:
    """A head without owners, and a node for each owner."""

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
            placement={"resource": f"owner:{tenant}", "timeout_s": 30.0},
            **more,
        )

    def onboard(self, config: OnboardConfig) -> None:
        """As a driver on the head."""
        toml = self.home / f"{config.tenant}.toml"
        toml.write_text(config_toml(config))
        done = subprocess.run(
            [sys.executable, "-m", "adapterdistill", "onboard", "--config", str(toml)],
            cwd=ROOT,
            env=os.environ | self.cluster.environment | {"RAY_ADDRESS": self.cluster.address},
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def opened(self) -> set[tuple[str, str]]:
        """(node, path below the home), of every file opened so far."""
        lines = (self.home / "opened").read_text().splitlines()
        pairs = (line.split(" ", 1) for line in lines)
        return {(node, str(Path(path).relative_to(self.home))) for node, path in pairs}


@pytest.fixture(scope="module")
def nodes(tiny_encoder_folder: Path) -> Iterator[Nodes]:
    home = Path(tempfile.mkdtemp(prefix="e2e-"))  # short: Ray's sockets live under it
    hooks = home / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(_HOOK)
    python_path = os.pathsep.join([str(hooks), str(ROOT)])
    environment = {"PYTHONPATH": python_path, "TEST_HOME": str(home)}
    registry = Running(home / "registry")
    cluster = start_own_cluster(
        home, num_cpus=1, resources={}, environment={**environment, NODE: "head"}
    )
    workers = []
    try:
        # As with `environment` for drivers: they are on no node.
        del cluster.environment[NODE]
        for owner in OWNERS:
            resources = {f"owner:{owner}": 1.0}
            node = join_own_cluster(
                cluster, num_cpus=2, resources=resources, environment={NODE: owner}
            )
            workers.append(node)
        yield Nodes(home, cluster, registry, tiny_encoder_folder)
    finally:
        stop_own_cluster(cluster)
        for worker in workers:
            worker.wait(30)
        left = [process.cmdline() for process in cluster_processes(cluster)]
        registry.close()
        shutil.rmtree(home, ignore_errors=True)
        assert left == []


def test_rows_and_checkpoints_stay_on_their_owners_node(nodes: Nodes) -> None:
    for tenant in OWNERS:
        write_shop(nodes.home / "data" / tenant)
    (nodes.home / "opened").unlink(missing_ok=True)
    nodes.onboard(nodes.config("acme"))
    training = {"num_workers": 1, "start_timeout_s": 60.0}
    nodes.onboard(nodes.config("birch", training=training))
    opened = nodes.opened()
    for tenant in OWNERS:
        of_tenant = {
            (node, path)
            for node, path in opened
            if path.startswith((f"data/{tenant}/", f"owners/{tenant}/", f"serving/{tenant}/"))
        }
        read = {Path(path).name for node, path in of_tenant if path.startswith("data/")}
        assert read >= {"faqs.parquet", "queries.parquet"}  # the hook is in
        assert any("/runs/" in path for _, path in of_tenant)
        # The report has numbers, names and digests: it is the driver's.
        elsewhere = {(node, path) for node, path in of_tenant if node != tenant}
        assert {node for node, _ in elsewhere} <= {"driver"}
        assert all(Path(path).parent == Path("owners") / tenant for _, path in elsewhere), elsewhere
    checkpoints = {path for node, path in opened if node == "birch" and "ray_train" in path}
    assert checkpoints
