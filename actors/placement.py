"""Starts a data owner on its owner's node, or says why it cannot."""

import time
from collections.abc import Callable
from typing import Any

import ray

from adapterdistill.actors.data_owner import DataOwner
from adapterdistill.actors.training.room import RESOURCE_SLIVER
from adapterdistill.config import OnboardConfig
from adapterdistill.errors import PlacementError
from adapterdistill.sections import PlacementConfig

_POLL_S = 0.5
_WATCH_S = 5.0


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
    while _offered(placement.resource) < RESOURCE_SLIVER:
        if time.monotonic() > deadline:
            raise PlacementError(
                f"no node of the cluster offers the resource {placement.resource!r} (waited "
                f"{placement.timeout_s:g} s): start the owner's node with cluster/nodes/owner.sh, "
                "or on one machine with cluster/single/start.sh"
            )
        time.sleep(_POLL_S)


def _offered(resource: str) -> float:
    resources = ray.cluster_resources()
    return float(resources.get(resource, 0))


def wait_for(result: Any, placement: PlacementConfig) -> Any:
    """The value of the owner's `result`, an ObjectRef.

    Raises:
        PlacementError: the owner's node left the cluster and did not come back in time, or the
            owner's process died too often. Ray would wait for the node forever.
    """
    while not ray.wait([result], timeout=_WATCH_S)[0]:
        wait_for_node(placement)
    try:
        return ray.get(result)
    except ray.exceptions.RayActorError as error:
        raise PlacementError(
            f"the data owner's process or node died ({type(error).__name__}), perhaps for lack of "
            "memory; submit again to continue at the first stage that has not finished"
        ) from None
    except ray.exceptions.RayTaskError as error:
        # Ray's own error prints where it was raised; the cause is what the owner raised.
        raise error.cause from None


def start_data_owner(config: OnboardConfig, *, promote: bool = False) -> Any:
    """A `DataOwner` as a Ray actor on its owner's node; it dies with the job that started it.

    Its stages are idempotent, so Ray may restart it and run a stage again. Calls are repeated until
    no restart is left: while a node is lost, Ray counts each of them as a failure.
    """
    wait_for_node(config.placement)
    resource = config.placement.resource
    owner_class: Any = ray.remote(DataOwner)
    return owner_class.options(
        num_cpus=config.placement.num_cpus,
        resources={resource: RESOURCE_SLIVER} if resource else None,
        max_restarts=2,
        max_task_retries=-1,
    ).remote(config, promote=promote)


def on_owner_node(work: Callable[[OnboardConfig], Any], config: OnboardConfig) -> Any:
    """`work(config)` on the owner's node. Raises PlacementError if the cluster has none."""
    wait_for_node(config.placement)
    resource = config.placement.resource
    task: Any = ray.remote(work)
    result = task.options(
        num_cpus=config.placement.num_cpus,
        resources={resource: RESOURCE_SLIVER} if resource else None,
        max_retries=0,
    ).remote(config)
    return wait_for(result, config.placement)
