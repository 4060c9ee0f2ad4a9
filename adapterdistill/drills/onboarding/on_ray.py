"""Drills of an onboarding on a Ray cluster: what trains is killed, and the result is the same."""

import contextlib
import io
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from actors.cluster import (
    OwnCluster,
    join_own_cluster,
    kill_node,
    start_own_cluster,
    stop_own_cluster,
)
from actors.onboarding import OnboardReport, in_process, onboard
from adapterdistill.backbone import load_encoder
from adapterdistill.config import OnboardConfig, parse_config
from adapterdistill.data.importing import import_samples
from adapterdistill.drills.drill import Outcome
from adapterdistill.drills.onboarding.owner import TENANT, toml
from adapterdistill.drills.registry.acknowledged import fsck_findings
from adapterdistill.errors import PlacementError, TrainingError
from adapterdistill.manifest import VersionRef
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.testbed.faq_banks import random_adapters
from adapterdistill.testbed.random_adapters import publish_adapter
from adapterdistill.testbed.registry import serving
from adapterdistill.testbed.tiny_encoder import make_tiny_encoder

RESOURCE = f"owner:{TENANT}"
ONBOARD = ("onboard",)
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
"""The owner's actor is there, or a stage has its result, and the seconds that the kill waits at
most: about as long as what follows takes, and as often."""
_VICTIMS = (OWNER, "driver")
_CHECKPOINTS = "ray/owners/*/runs/*/**/ray_train/*/checkpoint_*"
_LONGEST_WAIT_S = 0.5
_TIMEOUT_S = 300.0
_ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Site:
    """An owner's cluster and files, and a registry with a teacher in it."""

    folder: Path
    cluster: OwnCluster
    registry: str
    patience_s: float = 30.0
    """For the owner's node."""

    def config(self, work: str, num_workers: int) -> dict[str, Any]:
        return {
            "tenant": TENANT,
            "data": str(self.folder / "data"),
            "workspace": str(self.folder / work / "owners"),
            "serving_store": str(self.folder / work / "serving"),
            "encoder": {"name": str(self.folder / "encoder"), "dtype": "float32"},
            "registry": {"address": self.registry, "timeout_s": 30.0},
            "placement": {"resource": RESOURCE, "timeout_s": self.patience_s},
            "training": {
                "bottleneck_size": 8,
                "extract_steps": 12,
                "distil_steps": 12,
                "evaluate_every": 2,
                "num_workers": num_workers,
            },
        }


def kill_owner(folder: Path, draw: random.Random) -> Outcome:
    """The owner's actor, which Ray starts again, or the driver, which is run again.

    At any moment of the run from when the actor is there, which has not validated yet then.
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
    """Of the first stage or of the second, before or after its first checkpoint."""
    stage, checkpointed = draw.choice(("validated", "fetched")), draw.choice((False, True))
    wait_s = draw.uniform(0, _LONGEST_WAIT_S)

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
    site: Site, strike: Callable[[Site, psutil.Popen], None], *, num_workers: int = 0
) -> Outcome:
    """Onboard while `strike` happens, and compare with an onboarding in this process."""
    findings = []
    with driver_of(site, site.config("ray", num_workers)) as driver:
        strike(site, driver)
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
    report = OnboardReport.model_validate_json(
        (site.folder / "ray/owners" / TENANT / "report.json").read_bytes()
    )
    alone = _alone(parse_config(site.config("alone", 0), source="the drill"))
    if report.publish.name != alone.publish.name:
        findings.append("the adapter is another than that of a run without the fault")
    with RegistryClient(site.registry) as client:
        client.fetch(VersionRef.parse(report.publish.name))
        versions = len([*client.list(tenant=TENANT, latest_only=False)])
        if versions != 1:
            findings.append(f"{versions} versions were published, expected one")
    return Outcome(recovery_s, (*findings, *fsck_findings(site.folder / "registry")))


@contextmanager
def site_in(
    folder: Path,
    *,
    dashboard: bool = False,
    on_head: bool = True,
    environment: dict[str, str] | None = None,
) -> Iterator[Site]:
    """The owner's node is the head; else the cluster has none yet."""
    import_samples(TENANT, folder / "data")
    encoder = load_encoder(str(make_tiny_encoder(folder / "encoder")), dtype="float32")
    ray_folder = folder / "c"  # apart: whatever names it belongs to the cluster
    ray_folder.mkdir()
    with serving(folder / "registry") as server:
        with RegistryClient(server.address) as client:
            (adapter,) = random_adapters(encoder, 1)
            publish_adapter(client, encoder, "teacher", adapter)
        cluster = start_own_cluster(
            ray_folder,
            num_cpus=2,
            resources={RESOURCE: 1} if on_head else {},
            environment={"PYTHONPATH": str(_ROOT), **(environment or {})},
            dashboard=dashboard,
        )
        try:
            yield Site(folder, cluster, server.address)
        finally:
            stop_own_cluster(cluster)


@contextmanager
def driver_of(site: Site, config: dict[str, Any]) -> Iterator[psutil.Popen]:
    """`adapterdistill onboard` on the cluster, in a process that is ended with the block."""
    file = site.folder / "run.toml"
    file.write_text(toml(config), "utf-8")
    with (
        (site.folder / "driver.log").open("ab") as log,
        psutil.Popen(
            [sys.executable, "-m", "adapterdistill", *ONBOARD, "--config", str(file)],
            env=os.environ | site.cluster.environment | {"RAY_ADDRESS": site.cluster.address},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as driver,
    ):
        try:
            yield driver
        finally:
            if driver.is_running():
                driver.kill()


def _alone(config: OnboardConfig) -> OnboardReport:
    """In this process, without Ray, told to nobody."""
    with contextlib.redirect_stderr(io.StringIO()):
        return onboard(config, in_process(config), emit=lambda line: None)


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
        raise TrainingError(f"there is no {name} to kill any more, so this shows nothing")
    _kill(found[0])


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        if process.status() != psutil.STATUS_ZOMBIE:
            process.kill()
            return
    raise TrainingError("what is to be killed has ended, so this shows nothing")


def wait_until(happened: Callable[[], bool], driver: psutil.Popen) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while not happened():
        if driver.poll() is not None or time.monotonic() > deadline:
            raise TrainingError("the onboarding ended before the fault, so this shows nothing")
        time.sleep(0.02)


_PATIENCE_S = 10.0
_LONGEST_AWAY_S = 30.0
_LONGEST_WAIT_S = 0.5
_FINISHED = ("validated", "extracted", "fetched", "distilled", "evaluated", "published")
_ERROR, _TRACE = "error [", "Traceback"
_HEALTH = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "5"}
"""The cluster hears of a dead node in some 5 s."""


def kill_owner_node(folder: Path, draw: random.Random) -> Outcome:
    """After a stage that is drawn. The driver, on the head, waits for the node, or says that it is
    away; then it is run again."""
    stage, wait_s = draw.choice(_FINISHED), draw.uniform(0, _LONGEST_WAIT_S)
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
