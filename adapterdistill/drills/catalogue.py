"""Every drill there is."""

import random
from pathlib import Path

from adapterdistill.drills.drill import Drill, Outcome
from adapterdistill.drills.named import Named, OnNamed
from adapterdistill.drills.registry import named
from adapterdistill.drills.registry.calls import drop_rpc, kill_registry, slow_rpc
from adapterdistill.drills.registry.disk import corrupt_blob, fill_disk


def _clock_skew(folder: Path, draw: random.Random) -> Outcome:
    from adapterdistill.drills.registry.clocks import clock_skew

    return clock_skew(folder, draw)


def _stale_teacher(folder: Path, draw: random.Random) -> Outcome:
    from adapterdistill.drills.onboarding.stale_teacher import stale_teacher  # takes torch

    return stale_teacher(folder, draw)


def _kill_serve_replica(folder: Path, draw: random.Random) -> Outcome:
    from adapterdistill.drills.endpoint.replica import kill_serve_replica

    return kill_serve_replica(folder, draw)


def _kill_onboarding(folder: Path, draw: random.Random) -> Outcome:
    from adapterdistill.drills.onboarding.resuming import kill_onboarding

    return kill_onboarding(folder, draw)


def _lose_registry(folder: Path, draw: random.Random) -> Outcome:
    from adapterdistill.drills.onboarding.resuming import lose_registry

    return lose_registry(folder, draw)


def _kill_owner(folder: Path, draw: random.Random) -> Outcome:
    from adapterdistill.drills.onboarding.on_ray import kill_owner

    return kill_owner(folder, draw)


def _kill_node(folder: Path, draw: random.Random) -> Outcome:
    from adapterdistill.drills.onboarding.on_ray import kill_owner_node

    return kill_owner_node(folder, draw)


def _kill_train_worker(folder: Path, draw: random.Random) -> Outcome:
    from adapterdistill.drills.onboarding.on_ray import kill_train_worker

    return kill_train_worker(folder, draw)


def _kill_named_serve_replica(named: Named, draw: random.Random) -> Outcome:
    from adapterdistill.drills.endpoint.named import kill_serve_replica

    return kill_serve_replica(named, draw)


_MADE_UP = "it onboards a made-up tenant, which would be published to the others"
ON_NAMED: dict[str, OnNamed | str] = {
    "kill-registry": "a registry at an address is no process that could be killed or started",
    "drop-rpc": OnNamed(("registry",), named.drop_rpc),
    "slow-rpc": OnNamed(("registry",), named.slow_rpc),
    "corrupt-blob": "it damages what somebody published",
    "fill-disk": "it takes the disk from all who publish",
    "clock-skew": "it lets an owner's certificates expire",
    "stale-teacher": "it withdraws adapters, which is for ever",
    "kill-serve-replica": OnNamed(("serving", "ray"), _kill_named_serve_replica),
    "kill-onboarding": _MADE_UP,
    "lose-registry": _MADE_UP,
    "kill-owner": _MADE_UP,
    "kill-node": _MADE_UP,
    "kill-train-worker": _MADE_UP,
}
"""How each is done on a deployment that somebody runs, or why it is not."""
DRILLS = {
    drill.name: drill
    for drill in (
        Drill(
            "kill-registry",
            "kill -9 of the registry amid publishes: what it acknowledged is there and verifies",
            kill_registry,
        ),
        Drill(
            "drop-rpc",
            "Connections break within uploads and downloads: the client goes on, nothing is twice",
            drop_rpc,
        ),
        Drill(
            "slow-rpc",
            "A slow network: who waits gets the right bytes, who does not is told in time",
            slow_rpc,
        ),
        Drill(
            "corrupt-blob",
            "The disk damages a payload: nobody is given it, fsck names it, publishing heals it",
            corrupt_blob,
        ),
        Drill(
            "fill-disk",
            "The registry's disk is full for a while (a small file system; a limit on file sizes "
            "where none can be mounted): it refuses, goes on reading, and recovers",
            fill_disk,
        ),
        Drill(
            "clock-skew",
            "Clocks go wrong: statements, certificates and tokens of another time are refused, "
            "those of nearly now are not",
            _clock_skew,
        ),
        Drill(
            "stale-teacher",
            "A teacher is withdrawn, or the encoder another, after the list was read: it teaches "
            "nobody, the others do",
            _stale_teacher,
        ),
        Drill(
            "kill-serve-replica",
            "kill -9 of one of two replicas amid queries: each is answered in the end, and rightly",
            _kill_serve_replica,
        ),
        Drill(
            "kill-onboarding",
            "kill -9 of an onboarding without Ray, again and again, at any moment and amid writes: "
            "it ends with the adapter, the report and the files of a run that nobody disturbed",
            _kill_onboarding,
        ),
        Drill(
            "lose-registry",
            "kill -9 of the registry amid an onboarding, and it stays away for a while: the same, "
            "published once",
            _lose_registry,
        ),
        Drill(
            "kill-owner",
            "kill -9 of an onboarding's owner actor or of its driver, at any moment of the run: it "
            "ends with the adapter of a run that nobody disturbed",
            _kill_owner,
        ),
        Drill(
            "kill-node",
            "kill -9 of the owner's node with all that runs on it, and it stays away for a while: "
            "the onboarding waits, or says so, and ends the same",
            _kill_node,
        ),
        Drill(
            "kill-train-worker",
            "kill -9 of a training worker of Ray Train: the same",
            _kill_train_worker,
        ),
    )
}
