"""Room in the cluster for a training's workers, and the resources that are missing.

Ray itself would wait without saying for what. A worker is on one node, and an owner's workers only
on nodes that offer the owner's resource.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from adapterdistill import ray_private
from adapterdistill.errors import PlacementError

RESOURCE_SLIVER = 0.001
"""Share of the owner's resource that each actor or worker pinned to the owner's node takes."""
_CPU_EACH = 0.5
_GRAIN = 10_000
"""Ray counts resources in ten-thousandths; a quotient of floats would lose a sliver."""
_POLL_S = 0.5

Resources = Mapping[str, float]


@dataclass(frozen=True)
class NodeRoom:
    """A live node: its resources in all, and those that are free."""

    total: Resources
    free: Resources


def worker_resources(*, use_gpu: bool, owner: str | None) -> dict[str, float]:
    """Resources of each worker; `owner` is the resource that pins it to a node."""
    each: dict[str, float] = {"CPU": _CPU_EACH}
    if use_gpu:
        each["GPU"] = 1
    if owner is not None:
        each[owner] = RESOURCE_SLIVER
    return each


def room(offers: Sequence[Resources], each: Resources) -> int:
    """Number of workers that take `each` that the nodes can hold together."""
    return sum(min(_room_by(offer, name, n) for name, n in each.items()) for offer in offers)


def _room_by(offer: Resources, name: str, n: float) -> int:
    return round(offer.get(name, 0) * _GRAIN) // round(n * _GRAIN)


def what_lacks(nodes: Sequence[NodeRoom], each: Resources, count: int) -> str:
    """Resources that are too few for `count` workers; empty if there is room for them."""
    if room([node.free for node in nodes], each) >= count:
        return ""
    have = "the cluster has"
    owner = next((name for name in each if name not in ("CPU", "GPU")), None)
    if owner is not None:
        pinned = [node for node in nodes if _room_by(node.total, owner, each[owner])]
        nodes, have = (pinned, f"nodes with {owner} have") if pinned else (nodes, have)
    short, said = [], []
    for name, n in each.items():
        total = sum(node.total.get(name, 0) for node in nodes)
        free = sum(node.free.get(name, 0) for node in nodes)
        said.append(
            f"{name}: needs {n * count:g} ({n:g} a worker), {have} {total:g}, {free:g} free"
        )
        if sum(_room_by(node.free, name, n) for node in nodes) < count:
            short.append(said[-1])
    return "; ".join(short or ["no node has all of them at once", *said])


def wait_for_room(
    each: Resources,
    *,
    most: int,
    fewest: int,
    timeout_s: float,
    nodes: Callable[[], Sequence[NodeRoom]],
) -> int:
    """Wait for room, and return the number of workers to start, from `fewest` to `most`.

    It is the number that the cluster can hold at all, as soon as there is room for them; after
    `timeout_s`, the number that there is room for.

    Raises:
        PlacementError: the cluster can never hold `fewest` (raised at once), or had no room for
            them in time.
    """
    now = nodes()
    possible = min(most, room([node.total for node in now], each))
    if possible < fewest:
        raise PlacementError(
            f"the cluster cannot hold {_workers(fewest)}: {what_lacks(now, each, fewest)}"
        )
    deadline = time.monotonic() + timeout_s
    told = False
    while (found := room([node.free for node in now], each)) < possible:
        if time.monotonic() >= deadline:
            break
        if not told:
            told = True
            print(
                f"waiting for room for {_workers(possible)}: {what_lacks(now, each, possible)}",
                file=sys.stderr,
                flush=True,
            )
        time.sleep(_POLL_S)
        now = nodes()
    if found < fewest:
        raise PlacementError(
            f"no room for {_workers(fewest)} within {timeout_s:g} s: "
            f"{what_lacks(now, each, fewest)}"
        )
    return min(found, possible)


def _workers(count: int) -> str:
    return f"{count} training worker{'s' if count > 1 else ''}"


def cluster_nodes() -> list[NodeRoom]:
    """The live nodes of the Ray cluster at hand, as they were about a second ago."""
    return [NodeRoom(total, free) for total, free in ray_private.node_resources()]
