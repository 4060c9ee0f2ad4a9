"""Drill of an onboarding on a Ray cluster whose head dies: the cluster starts again without it."""

import random
import subprocess
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psutil

from adapterdistill.actors.cluster import (
    join_own_cluster,
    kill_head_of,
    kill_node,
    start_own_cluster,
    stop_own_cluster,
)
from adapterdistill.drills.drill import Outcome
from adapterdistill.drills.onboarding.on_ray import (
    FINISHED,
    LONGEST_WAIT_S,
    disturbed,
    has_finished,
    wait_until,
)
from adapterdistill.errors import TrainingError
from adapterdistill.testbed.owner_site import RESOURCE, ROOT, Site, site_in

_ENVIRONMENT = {"RAY_gcs_rpc_server_reconnect_timeout_s": "5"}
"""A node ends 5 s after it lost its head, and not a minute after."""
_NODE_ENDS_S = 60.0


def kill_head(folder: Path, draw: random.Random) -> Outcome:
    """Kill the head and the driver on it after a random stage; start head and node again.

    The owner's node has to end by itself, as on a machine on which a supervisor starts it again.
    Then the run is submitted again.
    """
    stage, wait_s = draw.choice(FINISHED), draw.uniform(0, LONGEST_WAIT_S)
    with ExitStack() as ended:

        def joined(site: Site) -> subprocess.Popen[bytes]:
            node = join_own_cluster(site.cluster, num_cpus=2, resources={RESOURCE: 1})
            ended.callback(kill_node, node)
            return node

        def strike(site: Site, driver: psutil.Popen) -> Site:
            wait_until(lambda: has_finished(site.folder, stage), driver)
            time.sleep(wait_s)
            driver.kill()
            kill_head_of(site.cluster)
            try:
                node.wait(_NODE_ENDS_S)
            except subprocess.TimeoutExpired:
                raise TrainingError("the owner's node did not end without its head") from None
            again = folder / "d"
            again.mkdir()
            environment = {"PYTHONPATH": str(ROOT), **_ENVIRONMENT}
            cluster = start_own_cluster(
                again, num_cpus=2, resources={}, environment=environment, dashboard=False
            )
            ended.callback(stop_own_cluster, cluster)
            restarted = replace(site, cluster=cluster)
            joined(restarted)
            return restarted

        site = ended.enter_context(site_in(folder, on_head=False, environment=_ENVIRONMENT))
        node = joined(site)
        return disturbed(site, strike)
