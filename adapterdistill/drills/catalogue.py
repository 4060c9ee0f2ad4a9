"""Every drill there is."""

import importlib
from collections.abc import Callable
from typing import Any

from adapterdistill.drills.drill import Drill
from adapterdistill.drills.named import OnNamed


def _from(module: str, name: str) -> Callable[..., Any]:
    """The function of this name, whose module is imported when it is called: some need Ray."""

    def run(*arguments: Any, **sizes: Any) -> Any:
        drills = importlib.import_module(f"adapterdistill.drills.{module}")
        return getattr(drills, name)(*arguments, **sizes)

    return run


_MADE_UP = "it onboards a made-up tenant, which would be published to the others"
ON_NAMED: dict[str, OnNamed | str] = {
    "kill-registry": "a registry at an address is no process that could be killed or started",
    "drop-rpc": OnNamed(("registry",), _from("registry.named", "drop_rpc")),
    "slow-rpc": OnNamed(("registry",), _from("registry.named", "slow_rpc")),
    "corrupt-blob": "it damages what somebody published",
    "fill-disk": "it takes the disk from all who publish",
    "clock-skew": "it lets an owner's certificates expire",
    "stale-teacher": "it withdraws adapters, which is for ever",
    "kill-serve-replica": OnNamed(
        ("serving", "ray"), _from("endpoint.named", "kill_serve_replica")
    ),
    "kill-onboarding": _MADE_UP,
    "lose-registry": _MADE_UP,
    "kill-owner": _MADE_UP,
    "kill-node": _MADE_UP,
    "kill-train-worker": _MADE_UP,
    "fuzz-registry": "it publishes what it makes up, and calls at a high rate",
    "isolation": "it changes, withdraws and removes tenants",
    "soak": _MADE_UP,
}
"""How each is done on a deployment that somebody runs, or why it is not done there."""
DRILLS = {
    drill.name: drill
    for drill in (
        Drill(
            "kill-registry",
            "kill -9 of the registry amid publishes: what it acknowledged is there and verifies",
            _from("registry.calls", "kill_registry"),
            {"kills": 1},
        ),
        Drill(
            "drop-rpc",
            "Connections break within uploads and downloads: the client goes on, nothing is twice",
            _from("registry.calls", "drop_rpc"),
        ),
        Drill(
            "slow-rpc",
            "A slow network: who waits gets the right bytes, who does not is told in time",
            _from("registry.calls", "slow_rpc"),
        ),
        Drill(
            "corrupt-blob",
            "The disk damages a payload: nobody is given it, fsck names it, publishing heals it",
            _from("registry.disk", "corrupt_blob"),
        ),
        Drill(
            "fill-disk",
            "The registry's disk is full for a while (a small file system; a limit on file sizes "
            "where none can be mounted): it refuses, goes on reading, and recovers",
            _from("registry.disk", "fill_disk"),
        ),
        Drill(
            "clock-skew",
            "Clocks go wrong: statements, certificates and tokens of another time are refused, "
            "those of nearly now are not",
            _from("registry.clocks", "clock_skew"),
        ),
        Drill(
            "stale-teacher",
            "A teacher is withdrawn, or the encoder another, after the list was read: it teaches "
            "nobody, the others do",
            _from("onboarding.stale_teacher", "stale_teacher"),
        ),
        Drill(
            "kill-serve-replica",
            "kill -9 of one of two replicas amid queries: each is answered in the end, and rightly",
            _from("endpoint.kill", "kill_serve_replica"),
            {"seconds": 8.0},
        ),
        Drill(
            "kill-onboarding",
            "kill -9 of an onboarding without Ray, again and again, at any moment and amid writes: "
            "it ends with the adapter, the report and the files of a run that nobody disturbed",
            _from("onboarding.resuming", "kill_onboarding"),
        ),
        Drill(
            "lose-registry",
            "kill -9 of the registry amid an onboarding, and it stays away for a while: the same, "
            "published once",
            _from("onboarding.resuming", "lose_registry"),
        ),
        Drill(
            "kill-owner",
            "kill -9 of an onboarding's owner actor or of its driver, at any moment of the run: it "
            "ends with the adapter of a run that nobody disturbed",
            _from("onboarding.on_ray", "kill_owner"),
        ),
        Drill(
            "kill-node",
            "kill -9 of the owner's node with all that runs on it, and it stays away for a while: "
            "the onboarding waits, or says so, and ends the same",
            _from("onboarding.on_ray", "kill_owner_node"),
        ),
        Drill(
            "kill-train-worker",
            "kill -9 of a training worker of Ray Train: the same",
            _from("onboarding.on_ray", "kill_train_worker"),
        ),
        Drill(
            "fuzz-registry",
            "Mutated uploads and calls: the registry refuses what an independent judge refuses, "
            "keeps what it accepts, and serves on",
            _from("registry.fuzz", "fuzz_registry"),
            {"calls": 5_000},
        ),
        Drill(
            "isolation",
            "Many tenants are asked at once while versions change, go and are withdrawn: every "
            "answer is the tenant's own, and by a version that is live",
            _from("endpoint.isolation", "isolation"),
            {"requests": 20_000, "tenants": 100, "data": None},
        ),
        Drill(
            "soak",
            "Onboardings and queries at once for a long time: memory stays, no answer is wrong, "
            "and nothing is left over",
            _from("soak.command", "soak_drill"),
            {"minutes": 30.0, "rate": 20.0},
        ),
    )
}
