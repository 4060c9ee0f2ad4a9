"""Room for training workers: how many start, and what is said to be missing."""

from collections.abc import Iterator, Sequence

import pytest

from adapterdistill.actors.training import room as worker_room
from adapterdistill.actors.training.room import (
    NodeRoom,
    room,
    wait_for_room,
    what_lacks,
    worker_resources,
)
from adapterdistill.errors import PlacementError

OWNED = worker_resources(use_gpu=False, owner="owner:x")


def node(cpu: float, free_cpu: float, *, gpu: float = 0, owner: bool = True) -> NodeRoom:
    total = {"CPU": cpu, "GPU": gpu, "memory": 1e9} | ({"owner:x": 1.0} if owner else {})
    return NodeRoom(total, total | {"CPU": free_cpu})


def started(nodes: Sequence[NodeRoom], *, most: int, fewest: int, timeout_s: float = 0) -> int:
    return wait_for_room(OWNED, most=most, fewest=fewest, timeout_s=timeout_s, nodes=lambda: nodes)


def test_a_worker_takes_half_a_processor_a_sliver_of_its_owner_and_a_gpu_if_asked() -> None:
    assert OWNED == {"CPU": 0.5, "owner:x": 0.001}
    assert worker_resources(use_gpu=True, owner=None) == {"CPU": 0.5, "GPU": 1}


@pytest.mark.parametrize(
    ("offers", "each", "count"),
    [
        ([{"CPU": 2}], {"CPU": 0.5}, 4),
        ([{"CPU": 0.3}, {"CPU": 0.4}], {"CPU": 0.5}, 0),  # a worker is on one node
        ([{"CPU": 1}, {"CPU": 0.9}], {"CPU": 0.5}, 3),
        ([{"CPU": 8, "owner:x": 0.003}], OWNED, 3),  # 0.003 // 0.001 is 2
        ([{"CPU": 8}], OWNED, 0),
        ([{"CPU": 8, "GPU": 1}, {"CPU": 0.5, "GPU": 8}], {"CPU": 0.5, "GPU": 1}, 2),
        ([], {"CPU": 0.5}, 0),
    ],
)
def test_workers_fit_whole_on_single_nodes(
    offers: list[dict[str, float]], each: dict[str, float], count: int
) -> None:
    assert room(offers, each) == count


@pytest.mark.parametrize(
    ("nodes", "use_gpu", "owner", "missing"),
    [
        ([node(2, 1.5)], False, "owner:x", ""),
        (
            [node(2, 0.2)],
            False,
            "owner:x",
            "CPU: needs 1.5 (0.5 a worker), nodes with owner:x have 2, 0.2 free",
        ),
        (  # room elsewhere is none for an owner
            [node(1, 1), node(16, 16, owner=False)],
            False,
            "owner:x",
            "CPU: needs 1.5 (0.5 a worker), nodes with owner:x have 1, 1 free",
        ),
        (
            [node(4, 4)],
            False,
            "owner:y",
            "owner:y: needs 0.003 (0.001 a worker), the cluster has 0, 0 free",
        ),
        (
            [node(4, 4, gpu=1)],
            True,
            None,
            "GPU: needs 3 (1 a worker), the cluster has 1, 1 free",
        ),
        (
            [node(1, 0.5), node(1, 0, gpu=1)],
            True,
            None,
            "CPU: needs 1.5 (0.5 a worker), the cluster has 2, 0.5 free; "
            "GPU: needs 3 (1 a worker), the cluster has 1, 1 free",
        ),
        (
            [node(4, 4), node(0, 0, gpu=4)],
            True,
            None,
            "no node has all of them at once; "
            "CPU: needs 1.5 (0.5 a worker), the cluster has 4, 4 free; "
            "GPU: needs 3 (1 a worker), the cluster has 4, 4 free",
        ),
        ([], False, None, "CPU: needs 1.5 (0.5 a worker), the cluster has 0, 0 free"),
    ],
)
def test_what_three_workers_lack_is_named_with_its_amounts(
    nodes: list[NodeRoom], use_gpu: bool, owner: str | None, missing: str
) -> None:
    assert what_lacks(nodes, worker_resources(use_gpu=use_gpu, owner=owner), 3) == missing


def test_workers_that_the_cluster_can_never_hold_are_refused_without_waiting() -> None:
    with pytest.raises(PlacementError) as refused:
        started([node(1, 1)], most=3, fewest=3, timeout_s=1e9)
    assert str(refused.value) == (
        "the cluster cannot hold 3 training workers: "
        "CPU: needs 1.5 (0.5 a worker), nodes with owner:x have 1, 1 free"
    )


def test_all_start_at_once_where_there_is_room_and_no_more_than_the_cluster_can_hold() -> None:
    assert started([node(8, 8)], most=3, fewest=1, timeout_s=1e9) == 3
    assert started([node(1, 1)], most=3, fewest=1, timeout_s=1e9) == 2


def test_fewer_start_when_the_wait_is_over_and_not_fewer_than_the_fewest() -> None:
    assert started([node(2, 0.7)], most=3, fewest=1) == 1
    with pytest.raises(PlacementError) as refused:
        started([node(2, 0.7)], most=3, fewest=2)
    assert str(refused.value) == (
        "no room for 2 training workers within 0 s: "
        "CPU: needs 1 (0.5 a worker), nodes with owner:x have 2, 0.7 free"
    )


def test_a_wait_says_once_for_what_and_ends_when_there_is_room(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(worker_room, "_POLL_S", 0)
    seen: Iterator[list[NodeRoom]] = iter([[node(2, 0)], [node(2, 0.5)], [node(2, 1)]])
    count = wait_for_room(OWNED, most=2, fewest=1, timeout_s=1e9, nodes=lambda: next(seen))
    assert count == 2
    assert capsys.readouterr().err == (
        "waiting for room for 2 training workers: "
        "CPU: needs 1 (0.5 a worker), nodes with owner:x have 2, 0 free\n"
    )
