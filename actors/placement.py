"""Puts a data owner on its owner's node, or says why it cannot be."""

import time
from typing import Any

import ray

from actors.data_owner import DataOwner
from actors.train_loop import RESOURCE_SLIVER
from adapterdistill.config import OnboardConfig, PlacementConfig
from adapterdistill.errors import PlacementError

_POLL_S = 0.5


def wait_for_node(placement: PlacementConfig) -> None:
    """Wait until a node offers the owner's resource.

    Ray itself would leave the actor pending forever, and there is no other node to fall back to:
    the rows are on that one.

    Raises:
        PlacementError: no node offers it within `placement.timeout_s`.
    """
    if placement.resource is None:
        return
    deadline = time.monotonic() + placement.timeout_s
    while ray.cluster_resources().get(placement.resource, 0) < RESOURCE_SLIVER:
        if time.monotonic() > deadline:
            raise PlacementError(
                f"no node of the cluster offers the resource {placement.resource!r} (waited "
                f"{placement.timeout_s:g} s): start the owner's node with "
                f"ray start --resources '{{\"{placement.resource}\": 1}}'"
            )
        time.sleep(_POLL_S)


def start_data_owner(config: OnboardConfig) -> Any:
    """A `DataOwner` as a Ray actor on its owner's node; it dies with the job that started it.

    Its stages are idempotent, so Ray may restart it and run a stage again.
    """
    wait_for_node(config.placement)
    resource = config.placement.resource
    owner_class: Any = ray.remote(DataOwner)
    return owner_class.options(
        num_cpus=config.placement.num_cpus,
        resources={resource: RESOURCE_SLIVER} if resource else None,
        max_restarts=2,
        max_task_retries=2,
    ).remote(config)
