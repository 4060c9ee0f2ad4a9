"""One deployment for all tests of one layout: they run in order, each on what those before left."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts import site
from tests.hosts.lan import Lan, eventually, lan, why_not


@pytest.fixture(scope="session")
def disks() -> Iterator[Path]:
    """A folder for the hosts' disks, on this machine's own."""
    if reason := why_not():
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="hosts-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster(disks: Path) -> Iterator[Lan]:
    """A head, two owners, two serving nodes, a registry and an edge, with all nodes started."""
    folder = disks / "one"
    folder.mkdir()
    with lan(folder, "10.77.1", site.one_cluster) as made:
        site.put_encoder(made)
        site.start_nodes(made)  # they wait for each other while certificates are made
        registry, head = made.hosts["registry"], made.hosts["head"]
        site.start_registry(registry)
        for name, tenant in site.OWNERS.items():
            site.enrol(registry, made.hosts[name], tenant)
        eventually(lambda: site.num_nodes(head) == len(site.NODES), 300)
        yield made
