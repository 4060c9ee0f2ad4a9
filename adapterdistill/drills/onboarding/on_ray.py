"""Drills of an onboarding on a Ray cluster: what trains is killed, and the result is the same."""

import contextlib
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psutil

from adapterdistill.actors.cluster import OwnCluster, join_own_cluster, kill_node
from adapterdistill.drills.drill import Outcome
from adapterdistill.drills.registry.acknowledged import fsck_findings
from adapterdistill.errors import PlacementError, TrainingError
from adapterdistill.manifest import VersionRef
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.testbed.owner_site import (
    RESOURCE,
    TENANT,
    Site,
    driver_of,
    onboard_here,
    read_report,
    site_in,
)

OWNER, WORKER = "DataOwner", "RayTrainWorker"
_STARTED = "started"
_MOMENTS = {
    _STARTED: 1.0,
    "validated": 1.0,
    "extracted": 0.3,
    "fetched": 0.5,
    "distilled": 0.3,
    "evaluated": 0.3,
    "published": 0.1,
}
"""Moments after which the kill strikes: the actor has started, or a stage has its result. The value
is the longest wait after it in seconds, about as long as the next stage takes, and its weight."""
_VICTIMS = (OWNER, "driver")
_CHECKPOINTS = "ray/owners/*/runs/*/**/ray_train/*/checkpoint_*"
LONGEST_WAIT_S = 0.5
_TIMEOUT_S = 300.0
_PATIENCE_S = 10.0
_LONGEST_AWAY_S = 30.0
FINISHED = tuple(stage for stage in _MOMENTS if stage != _STARTED)
_ERROR, _TRACE = "error [", "Traceback"
_HEALTH = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "5"}
"""The cluster notices a dead node after about 5 s."""


def kill_owner(folder: Path, draw: random.Random) -> Outcome:
    """Kill the owner's actor, which Ray starts again, or the driver, which is run again.

    The moment is any after the start of the actor, which has validated nothing by then.
    """
    moment, victim = draw_moment(draw), draw.choice(_VICTIMS)
    wait_s = draw.uniform(0, _MOMENTS[moment])

    def has_come(site: Site) -> bool:
        if moment == _STARTED:
            return bool(_titled(site.cluster, OWNER))
        return has_finished(site.folder, moment)

    def strike(site: Site, driver: psutil.Popen) -> None:
        wait_until(lambda: has_come(site), driver)
        time.sleep(wait_s)
        if victim == OWNER:
            _kill_first(site.cluster, OWNER)
        else:
            _kill(driver)

    with site_in(folder) as site:
        return disturbed(site, strike)


def draw_moment(draw: random.Random) -> str:
    [moment] = draw.choices([*_MOMENTS], [*_MOMENTS.values()])
    return moment


def kill_train_worker(folder: Path, draw: random.Random) -> Outcome:
    """Kill a worker of the first or second stage, before or after its first checkpoint."""
    stage, checkpointed = draw.choice(("validated", "fetched")), draw.choice((False, True))
    wait_s = draw.uniform(0, LONGEST_WAIT_S)

    def is_training(site: Site) -> bool:
        if checkpointed and not any(site.folder.glob(_CHECKPOINTS)):
            return False
        return bool(_titled(site.cluster, WORKER))

    def strike(site: Site, driver: psutil.Popen) -> None:
        wait_until(lambda: has_finished(site.folder, stage), driver)
        wait_until(lambda: is_training(site), driver)
        time.sleep(wait_s)
        _kill_first(site.cluster, WORKER)

    with site_in(folder) as site:
        return disturbed(site, strike, num_workers=1)


def disturbed(
    site: Site, strike: Callable[[Site, psutil.Popen], Site | None], *, num_workers: int = 0
) -> Outcome:
    """Onboard while `strike` happens, and compare with an onboarding in this process.

    `strike` returns the site on which the run goes on, if the fault has made another one of it.
    """
    findings = []
    with driver_of(site, site.config("ray", num_workers)) as driver:
        site = strike(site, driver) or site
        began = time.monotonic()
        driver.wait(timeout=_TIMEOUT_S)
    while driver.returncode != 0:  # as the owner would: the same once more
        if time.monotonic() - began > _TIMEOUT_S:
            raise TrainingError("the onboarding did not end after it was run again")
        with driver_of(site, site.config("ray", num_workers)) as driver:
            driver.wait(timeout=_TIMEOUT_S)
    recovery_s = time.monotonic() - began
    if left := _titled(site.cluster, OWNER):
        _, left = psutil.wait_procs(left, timeout=30)
        findings += [f"left running after the job: {OWNER}" for _ in left]
    report = read_report(site.folder / "ray" / "owners")
    _, alone = onboard_here(site.config("alone", 0))
    if report.publish.name != alone.publish.name:
        findings.append("the adapter is another than that of a run without the fault")
    with RegistryClient(site.registry) as client:
        client.fetch(VersionRef.parse(report.publish.name))
        versions = len([*client.list(tenant=TENANT, latest_only=False)])
        if versions != 1:
            findings.append(f"{versions} versions were published, expected one")
    return Outcome(recovery_s, (*findings, *fsck_findings(site.folder / "registry")))


def has_finished(folder: Path, stage: str) -> bool:
    return any((folder / "ray").glob(f"owners/*/runs/*/stages/{stage}.json"))


def _titled(cluster: OwnCluster, name: str) -> list[psutil.Process]:
    """Ray's workers of this name."""
    found = []
    for process in psutil.Process(cluster.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it ended
            title = " ".join(process.cmdline())
            if title.startswith("ray::") and name in title:
                found.append(process)
    return found


def _kill_first(cluster: OwnCluster, name: str) -> None:
    found = _titled(cluster, name)
    if not found:
        raise TrainingError(f"no {name} is left to kill, so this shows nothing")
    _kill(found[0])


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        if process.status() != psutil.STATUS_ZOMBIE:
            process.kill()
            return
    raise TrainingError("the process to kill has ended, so this shows nothing")


def wait_until(happened: Callable[[], bool], driver: psutil.Popen) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while not happened():
        if driver.poll() is not None or time.monotonic() > deadline:
            raise TrainingError("the onboarding ended before the fault, so this shows nothing")
        time.sleep(0.02)


def kill_owner_node(folder: Path, draw: random.Random) -> Outcome:
    """Kill the node after a random stage.

    The driver, on the head, waits for the node, or says that it is away; then it is run again.
    """
    stage, wait_s = draw.choice(FINISHED), draw.uniform(0, LONGEST_WAIT_S)
    away_s = draw.uniform(0, _LONGEST_AWAY_S)
    nodes: list[subprocess.Popen[bytes]] = []

    def strike(site: Site, driver: psutil.Popen) -> None:
        wait_until(lambda: has_finished(site.folder, stage), driver)
        time.sleep(wait_s)
        kill_node(nodes[-1])
        time.sleep(away_s)
        nodes.append(_joined(site))

    with ExitStack() as ended:
        site = ended.enter_context(site_in(folder, on_head=False, environment=_HEALTH))
        nodes.append(_joined(site))
        ended.callback(lambda: kill_node(nodes[-1]))
        found = disturbed(replace(site, patience_s=_PATIENCE_S), strike)
    said = (folder / "driver.log").read_text("utf-8", "replace").splitlines()
    return replace(found, findings=(*found.findings, *_wrongly_said(said)))


def _joined(site: Site) -> subprocess.Popen[bytes]:
    return join_own_cluster(site.cluster, num_cpus=2, resources={RESOURCE: 1})


def _wrongly_said(lines: list[str]) -> Iterator[str]:
    for line in lines:
        told = line.startswith(_ERROR) and f"[{PlacementError.reason}]" not in line
        if told or line.startswith(_TRACE):
            yield f"the node was away, and this was said: {line}"
