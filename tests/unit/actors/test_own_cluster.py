"""Nodes of a cluster of one's own, without Ray."""

import os
import subprocess
from pathlib import Path

import psutil
import pytest

from adapterdistill.actors import cluster
from adapterdistill.actors.cluster import OwnCluster, join_own_cluster, kill_node
from adapterdistill.errors import ServingError

_READY = "Ray runtime started"
_FAMILY = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, "{_READY}", flush=True)
time.sleep(60)
"""


def joined(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> subprocess.Popen[bytes]:
    """A node that runs `script` in the place of `ray start`."""
    monkeypatch.setattr(cluster, "JOIN_ON_LOOPBACK", script)
    own = OwnCluster(os.getpid(), "127.0.0.1:1", "", str(folder), {})
    return join_own_cluster(own, num_cpus=1, resources={"owner:acme": 1})


def test_a_node_that_does_not_join_is_told_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ServingError, match="a node did not join: no room"):
        joined(tmp_path, "import sys; sys.exit('no room')", monkeypatch)


def test_a_node_is_killed_with_all_that_runs_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = joined(tmp_path, _FAMILY, monkeypatch)
    (log,) = tmp_path.glob("node-*.log")
    child = psutil.Process(int(log.read_text().split()[0]))
    kill_node(node)
    assert node.returncode == -9
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    kill_node(node)  # harmless
