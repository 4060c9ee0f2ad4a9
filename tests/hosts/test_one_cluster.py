"""One cluster on several hosts: cluster/README.md's several machines, as it stands."""

import re
import subprocess
from pathlib import Path

import pytest

from adapterdistill.errors import DataError, UnauthenticatedError
from tests.hosts import site
from tests.hosts.lan import HOME, Lan, eventually

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(700)]
ALL, OWN, LOOPBACK = "all interfaces", "its address", "loopback"
NODE_PORTS = {
    **{port: {ALL} for port in (6380, 6381, 6383, 6384)},
    6382: {OWN},
    52365: {OWN, LOOPBACK},
}
"""Ports of every node, and where they listen."""
HEAD_PORTS = {
    **NODE_PORTS,
    **{port: {ALL} for port in (6379, 44217, 44227)},
    10001: {OWN, LOOPBACK},
    **{port: {LOOPBACK} for port in (8000, 8265, 8500)},
}
SERVING_PORTS = NODE_PORTS | {8000: {LOOPBACK}, 8443: {ALL}}
RANGES = {range(10100, 10300): {ALL}, range(30000, 31001): {LOOPBACK}}
"""Ports of Ray's workers, and of replicas' HTTP."""
DRAWN = range(32768, 61000)
"""A replica has one port of these on all interfaces, for other replicas: the wall closes it."""


def test_two_owners_onboard_through_the_head_with_the_run_s_own_exit_code(cluster: Lan) -> None:
    head, registry = cluster.hosts["head"], cluster.hosts["registry"]
    for name, tenant in site.OWNERS.items():
        toml = site.write_run(registry, cluster.hosts[name], tenant)
        log = f"{tenant}.log"
        assert site.onboard(head, tenant, toml, log).wait(300) == 0
        assert site.job_status(head, log) == "succeeded"
        assert f"[9/9] {tenant} bundle: " in head.path(log).read_text()
    # The second owner learned from the first.
    [first] = re.findall(r"publish: (\S+)", head.path(f"{site.OWNERS['owner1']}.log").read_text())
    report = cluster.hosts["owner2"].path(f"/srv/{tenant}/work1/{tenant}/report.json").read_text()
    assert first.rpartition("/")[2] in report


def test_a_run_that_fails_ends_onboard_with_its_exit_code(cluster: Lan) -> None:
    head, owner = cluster.hosts["head"], cluster.hosts["owner1"]
    tenant = site.OWNERS["owner1"]
    toml = site.write_run(cluster.hosts["registry"], owner, tenant, number=9)
    text = owner.path(toml).read_text().replace(f"/srv/{tenant}/data", f"/srv/{tenant}/absent")
    owner.path(toml).write_text(text)
    assert site.onboard(head, tenant, toml, "fails.log").wait(200) == DataError.exit_code
    assert site.job_status(head, "fails.log") == "failed"


def test_rows_are_on_their_owner_s_disk_alone(cluster: Lan) -> None:
    for name, tenant in site.OWNERS.items():
        questions = site.python(
            cluster.hosts[name],
            "import sys; from pyarrow.parquet import read_table; "
            "print(*read_table(sys.argv[1]).column('text').to_pylist(), sep='\\n')",
            f"/srv/{tenant}/data/queries.parquet",
        ).splitlines()
        phrases = cluster.folder / "phrases"
        phrases.write_text("\n".join(sorted({q for q in questions if len(q) > 20})[:40]))
        assert len(phrases.read_text().splitlines()) == 40
        for other in cluster.hosts.values():
            if other.name == name:
                continue
            # `home`, `srv` and `tmp`: with Ray's logs, sessions and spilled objects.
            folders = [str(other.path(top)) for top in ("home", "srv", "tmp")]
            found = subprocess.run(
                ["grep", "-rlaF", "-f", phrases, *folders],
                capture_output=True,
                text=True,
                check=False,
            )
            # The samples are public, and part of the package that is mounted on every host.
            assert found.stdout == "", (tenant, other.name)


def test_a_shell_with_the_environment_sees_the_cluster(cluster: Lan) -> None:
    for name in ("head", "owner1", "serving1"):
        assert site.num_nodes(cluster.hosts[name]) == len(site.NODES)
    # Without the token, nobody does.
    done = cluster.hosts["head"].run(
        "bash",
        "-c",
        "source cluster/nodes/environment.sh; RAY_AUTH_TOKEN_PATH=/dev/null timeout 30 ray status",
        check=False,
    )
    assert done.returncode != 0


def test_serving_admits_nobody_before_there_are_tokens_and_their_tenants_after(
    cluster: Lan,
) -> None:
    site.put_proxies(cluster)
    edge = cluster.hosts["edge"]
    for tenant in site.OWNERS.values():
        edge.path(f"{HOME}/{tenant}.token").write_text("adt_none\n")
        edge.path(f"{HOME}/{tenant}.token").chmod(0o600)

    def refused() -> bool:
        exit_code, said = site.ask(cluster, "larkhill-vets")
        assert "DEPLOY_FAILED" not in said
        return exit_code == UnauthenticatedError.exit_code and "UNAUTHENTICATED" in said

    eventually(refused, 120)
    site.make_tokens(cluster)
    for tenant in site.OWNERS.values():
        eventually(lambda tenant=tenant: site.ask(cluster, tenant)[0] == 0, 30)
    exit_code, said = site.ask(cluster, "larkhill-vets", token_of="brookfield-library")
    assert exit_code == UnauthenticatedError.exit_code and "UNAUTHENTICATED" in said
    assert "RUNNING" in site.shell(cluster.hosts["head"], "serve status").stdout


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("head", HEAD_PORTS),
        ("owner1", NODE_PORTS),
        ("owner2", NODE_PORTS),
        ("serving1", SERVING_PORTS),
        ("serving2", SERVING_PORTS),
        ("registry", {site.REGISTRY_PORT: {ALL}}),
        ("edge", {8443: {ALL}}),
    ],
)
def test_only_the_documented_ports_listen_and_where_it_is_documented(
    cluster: Lan, name: str, expected: dict[int, set[str]]
) -> None:
    host = cluster.hosts[name]
    found: dict[int, set[str]] = {}
    for address, port, program in host.listening():
        kind = LOOPBACK if address.startswith("127.") else OWN if address == host.address else ALL
        if port in DRAWN and program.startswith("ray::ServeRepli"):
            continue
        if allowed := next((where for ports, where in RANGES.items() if port in ports), None):
            assert kind in allowed, (address, port, program)
            continue
        found.setdefault(port, set()).add(kind)
    assert found == expected


def test_no_host_reaches_a_port_that_is_not_for_it(cluster: Lan) -> None:
    edge, head = cluster.hosts["edge"], cluster.hosts["head"]
    probe = "exec 3<>/dev/tcp/{}/{}"
    for port in (6379, 6380, 8265, 10001, 44217, 52365):
        command = ("timeout", "1", "bash", "-c", probe.format(head.address, port))
        assert edge.run(*command, check=False).returncode != 0
    serving = cluster.hosts["serving1"].address
    assert edge.run("bash", "-c", probe.format(serving, 8443)).returncode == 0


def test_the_project_is_read_only_for_its_hosts(cluster: Lan) -> None:
    """Else a test could change the checkout."""
    assert cluster.hosts["head"].run("touch", "README.md", check=False).returncode != 0
    assert Path("README.md").exists()
