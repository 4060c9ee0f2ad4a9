"""A cluster for each owner: the registry's port, with mutual TLS, is the only way between them."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts import site
from tests.hosts.lan import Host, Lan, eventually, lan

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(700)]


def apart(made: Lan) -> None:
    made.add(*site.OWNERS, "registry")
    made.hosts["registry"].opens = f"tcp dport {site.REGISTRY_PORT} accept"


@pytest.fixture(scope="module")
def owners(disks: Path) -> Iterator[Lan]:
    """Two owners with a cluster on loopback each, and a registry."""
    folder = disks / "apart"
    folder.mkdir()
    with lan(folder, "10.77.2", apart) as made:
        registry = made.hosts["registry"]
        site.put_encoder(made)
        for name, tenant in site.OWNERS.items():
            owner = made.hosts[name]
            made.started.append(owner.start("cluster/single/start.sh", tenant, log="single.log"))
        site.start_registry(registry)
        for name, tenant in site.OWNERS.items():
            site.enrol(registry, made.hosts[name], tenant)
        yield made


def test_each_owner_onboards_in_its_own_cluster_and_learns_from_the_other(owners: Lan) -> None:
    published = []
    for name, tenant in site.OWNERS.items():
        owner = owners.hosts[name]
        toml = site.write_run(owners.hosts["registry"], owner, tenant)
        eventually(lambda owner=owner: site.num_nodes(owner) == 1, 60)
        done = site.shell(
            owner, f"adapterdistill submit --config {toml}", check=False, timeout_s=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        published += re.findall(r"publish: (\S+)", done.stdout)
        report = owner.path(f"/srv/{tenant}/work1/{tenant}/report.json").read_text()
    assert published[0].rpartition("/")[2] in report


def test_an_owner_s_cluster_listens_on_loopback_alone(owners: Lan) -> None:
    for name in site.OWNERS:
        beyond = [
            (address, port, program)
            for address, port, program in owners.hosts[name].listening()
            if not address.startswith("127.")
        ]
        # Ray's client server and metrics know no address; the firewall drops what is for them.
        assert {port for _, port, _ in beyond} <= {10001, 44217, 44227, 52365, 6382, 6383, 6384}


def reaches(one: Host, other: Host, port: int) -> bool:
    line = f"exec 3<>/dev/tcp/{other.address}/{port}"
    return one.run("timeout", "1", "bash", "-c", line, check=False).returncode == 0


def test_nothing_but_the_registry_s_port_is_open_between_owners(owners: Lan) -> None:
    one, two, registry = (owners.hosts[name] for name in (*site.OWNERS, "registry"))
    assert reaches(one, registry, site.REGISTRY_PORT)
    for here, there in ((one, two), (two, one), (registry, one), (registry, two)):
        open_ports = {port for _, port, _ in there.listening()}
        assert open_ports
        assert [port for port in open_ports if reaches(here, there, port)] == []


def test_the_registry_s_port_lets_in_enrolled_owners_alone(owners: Lan) -> None:
    one, registry = owners.hosts["owner1"], owners.hosts["registry"]
    listed = ("adapterdistill", "registry", "list", "--timeout", "3")
    listed += ("--address", f"{registry.address}:{site.REGISTRY_PORT}")
    assert one.run(*listed, "--credentials", f"/srv/{site.OWNERS['owner1']}/keys").stdout
    assert one.run(*listed, check=False).returncode != 0  # without a certificate
    one.run("adapterdistill", "registry", "init", "--root", "/tmp/other", "--host", "localhost")
    stranger = ("--credentials", "/tmp/other/operator")
    assert one.run(*listed, *stranger, check=False).returncode != 0
