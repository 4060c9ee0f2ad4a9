"""Faults of one cluster on several hosts: cables, power and packets are taken away.

Runs after test_one_cluster.py, on its deployment: two onboarded owners that are served.
"""

import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

from tests.hosts import site
from tests.hosts.lan import HOME, Host, Lan, eventually

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(600)]
CABLE_OUT_S = 20.0
FETCHED, TRAINED = "[2/9]", "[3/9]"
"""What a run's log says when training begins, and when it is over."""
LONG = 600
"""Steps of a training that is not over when the fault comes."""
LIBRARY, VETS = site.OWNERS.values()
RUNS: dict[str, Popen[bytes]] = {}
"""Runs that were started, by their logs."""


def started(cluster: Lan, name: str, number: int, **training: int) -> str:
    """Start an onboarding; returns the name of its log on the head."""
    tenant, log = site.OWNERS[name], f"{name}-{number}-{len(RUNS)}.log"
    toml = site.write_run(
        cluster.hosts["registry"], cluster.hosts[name], tenant, number=number, **training
    )
    RUNS[log] = site.onboard(cluster.hosts["head"], tenant, toml, log)
    return log


def said(cluster: Lan, log: str) -> str:
    return cluster.hosts["head"].path(log).read_text("utf-8", "replace")


def wait_for(cluster: Lan, log: str, text: str) -> None:
    eventually(lambda: text in said(cluster, log) or RUNS[log].poll() is not None, 240)
    assert RUNS[log].poll() is None, said(cluster, log)


def acknowledged(cluster: Lan, log: str) -> str:
    """The version that the run says it has published."""
    [found] = re.findall(r"publish: (tenants/\S+)", said(cluster, log))
    return str(found)


def assert_kept(cluster: Lan, *logs: str) -> None:
    """The registry has what these runs were told it has, once, and is sound."""
    registry = cluster.hosts["registry"]
    door = ("--address", f"127.0.0.1:{site.REGISTRY_PORT}")
    door += ("--credentials", "/srv/registry/operator")
    for log in logs:
        registry.run("adapterdistill", "registry", "show", acknowledged(cluster, log), *door)
    copy = f"/srv/backup-{time.monotonic_ns()}"
    registry.run("adapterdistill", "registry", "backup", "/srv/registry", copy)
    registry.run("adapterdistill", "registry", "fsck", copy)


def nodes_back(cluster: Lan) -> bool:
    return site.num_nodes(cluster.hosts["head"]) == len(site.NODES)


def test_a_run_outlives_a_cable_that_is_out_for_20_s(cluster: Lan) -> None:
    owner = cluster.hosts["owner2"]
    log = started(cluster, "owner2", 2, steps=LONG)
    wait_for(cluster, log, FETCHED)
    assert TRAINED not in said(cluster, log)
    owner.unplug()
    time.sleep(CABLE_OUT_S)
    owner.plug()
    began = time.monotonic()
    assert RUNS[log].wait(300) == 0, said(cluster, log)
    print(f"ended {time.monotonic() - began:.1f} s after the cable was back")
    assert site.job_status(cluster.hosts["head"], log) == "succeeded"
    assert_kept(cluster, log)


def test_a_run_whose_node_loses_power_ends_and_goes_on_when_it_is_submitted_again(
    cluster: Lan,
) -> None:
    """One owner's kernel closes its connections, the other's machine goes silent."""
    logs = {name: started(cluster, name, 3, steps=LONG) for name in site.OWNERS}
    for log in logs.values():
        wait_for(cluster, log, FETCHED)
    lost = time.monotonic()
    cluster.hosts["owner1"].crash(silent=False)
    cluster.hosts["owner2"].crash(silent=True)
    assert RUNS[logs["owner1"]].wait(60) == 1
    closed_s = time.monotonic() - lost
    assert RUNS[logs["owner2"]].wait(180) == 1
    print(f"ended {closed_s:.1f} s and {time.monotonic() - lost:.1f} s after the power was lost")
    for log in logs.values():
        assert site.job_status(cluster.hosts["head"], log) == "failed"
    for name in site.OWNERS:
        cluster.hosts[name].boot()
    print(f"all nodes back in {eventually(lambda: nodes_back(cluster), 300):.1f} s")
    again = {name: started(cluster, name, 3, steps=LONG) for name in site.OWNERS}
    for log in again.values():
        assert RUNS[log].wait(300) == 0, said(cluster, log)
    assert_kept(cluster, *again.values())


def test_a_run_ends_well_though_30_percent_of_its_packets_to_the_registry_are_lost(
    cluster: Lan,
) -> None:
    owner, registry = cluster.hosts["owner2"], cluster.hosts["registry"]
    owner.lose(registry, 30)
    registry.lose(owner, 30)
    try:
        log = started(cluster, "owner2", 4)
        assert RUNS[log].wait(240) == 0, said(cluster, log)
    finally:
        owner.lose(registry, 0)
        registry.lose(owner, 0)
    assert_kept(cluster, log)


@dataclass
class Load:
    """Questions that are asked all the time, and their outcomes."""

    log: Path

    def outcomes(self) -> list[dict[str, Any]]:
        lines = self.log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.endswith("}")]

    def right(self, since: float = 0.0) -> list[float]:
        """When right answers came."""
        ended = [one["ended"] for one in self.outcomes() if one["faq_id"]]
        return [when for when in ended if when > since]

    def longest_gap_s(self) -> float:
        return max(after - before for before, after in pairwise(self.right()))


@contextmanager
def load(cluster: Lan, tenant: str) -> Iterator[Load]:
    """Ask through the balancer until the block ends; no answer may ever be another."""
    edge = cluster.hosts["edge"]
    log = f"asking-{time.monotonic_ns()}.log"
    ends = f"/srv/{log}.ends"
    script = str(Path(__file__).with_name("asking.py"))
    process = edge.start(
        *("env", "SSL_CERT_FILE=/tmp/public.crt", f"PYTHONPATH={site.ROOT}"),
        *(sys.executable, script, f"https://{edge.address}:8443", tenant),
        *(f"{HOME}/{tenant}.token", site.QUESTIONS[tenant], ends),
        log=log,
    )
    asked = Load(edge.path(log))
    try:
        eventually(lambda: len(asked.right()) > 20, 60)
        yield asked
    finally:
        edge.path(ends).touch()
        process.wait(30)
    answers = {one["faq_id"] for one in asked.outcomes()} - {None}
    assert len(answers) == 1, "a wrong answer"
    allowed = {None, "OVERLOADED", "UNREACHABLE", "NOT_A_SERVER", "DEADLINE_EXCEEDED"}
    assert {one["reason"] for one in asked.outcomes()} <= allowed


def healthy(host: Host) -> bool:
    probe = "import httpx; print(httpx.get('http://127.0.0.1:8000/healthz', timeout=3).status_code)"
    return host.run(sys.executable, "-c", probe, check=False).stdout.strip() == "200"


def test_a_serving_node_that_loses_power_under_load_is_missed_for_seconds(cluster: Lan) -> None:
    head, lost = cluster.hosts["head"], cluster.hosts["serving1"]
    eventually(lambda: healthy(lost) and healthy(cluster.hosts["serving2"]), 60)
    with load(cluster, VETS) as asked:
        lost.crash(silent=True)
        time.sleep(15)
        assert len(asked.right(time.time() - 5)) > 3
        began = time.monotonic()
        lost.boot()
        site.start_proxies(cluster, "serving1")
        eventually(lambda: healthy(lost), 300, every_s=1.0)
        print(f"serves again {time.monotonic() - began:.1f} s after the power was back")
        time.sleep(2)
    print(f"the longest time without an answer was {asked.longest_gap_s():.1f} s")
    assert asked.longest_gap_s() < 20
    eventually(lambda: nodes_back(cluster), 120)
    assert "RUNNING" in site.shell(head, "serve status").stdout


def test_a_cluster_whose_head_loses_power_comes_back_by_itself(cluster: Lan) -> None:
    head = cluster.hosts["head"]
    with load(cluster, LIBRARY) as asked:
        head.crash(silent=True)
        time.sleep(10)
        assert len(asked.right(time.time() - 5)) > 3  # it serves on what it has
        back = time.time()
        head.boot()
        eventually(lambda: nodes_back(cluster), 300, every_s=2.0)
        print(f"all nodes back {time.time() - back:.1f} s after the power was")

        def recovered() -> bool:
            found = asked.right(time.time() - 8)
            return len(found) > 20 and all(
                healthy(cluster.hosts[n]) for n in ("serving1", "serving2")
            )

        eventually(recovered, 180, every_s=1.0)
        print(f"served as before {time.time() - back:.1f} s after it was")
    print(f"the longest time without an answer was {asked.longest_gap_s():.1f} s")
    log = started(cluster, "owner1", 5)
    assert RUNS[log].wait(300) == 0, said(cluster, log)
    assert_kept(cluster, log)
