"""The drill of an owner's node: it dies with all that runs on it, and comes back after a while."""

import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psutil

from actors.cluster import join_own_cluster, kill_node
from adapterdistill.drills.drill import Outcome
from adapterdistill.drills.onboarding import (
    RESOURCE,
    Site,
    disturbed,
    has_finished,
    site_in,
    wait_until,
)
from adapterdistill.errors import PlacementError

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
