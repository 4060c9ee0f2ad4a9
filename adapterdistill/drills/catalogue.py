"""Every drill there is."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from adapterdistill.drills.drill import Drill
from adapterdistill.drills.named import OnNamed


@dataclass(frozen=True)
class Later:
    """A function that is imported when it is called: some need Ray or torch."""

    module: str
    name: str

    def function(self) -> Callable[..., Any]:
        module = importlib.import_module(f"adapterdistill.drills.{self.module}")
        found: Callable[..., Any] = getattr(module, self.name)
        return found

    def __call__(self, *arguments: Any, **sizes: Any) -> Any:
        return self.function()(*arguments, **sizes)


_MADE_UP = "it publishes a made-up tenant"
ON_NAMED: dict[str, OnNamed | str] = {
    "kill-registry": "a registry at an address is no process that can be killed and started",
    "kill-shared-registry": "it kills processes and the database of a registry",
    "drop-rpc": OnNamed(("registry",), Later("registry.named", "drop_rpc")),
    "slow-rpc": OnNamed(("registry",), Later("registry.named", "slow_rpc")),
    "corrupt-blob": "it damages a published adapter",
    "fill-disk": "it takes the disk from everybody",
    "restore": "it kills the registry, and restores another one",
    "unwritable-audit": "it keeps the registry from writing",
    "slow-clients": "it takes connections from everybody",
    "flooded-registry": "it takes the registry's time from everybody",
    "clock-skew": "it lets an owner's certificates expire",
    "stale-teacher": "it withdraws adapters for ever",
    "poisoned-teacher": "it publishes adapters that break loaders",
    "kill-serve-replica": OnNamed(
        ("serving", "ray"), Later("endpoint.named", "kill_serve_replica")
    ),
    "kill-onboarding": _MADE_UP,
    "lose-registry": _MADE_UP,
    "partition": _MADE_UP,
    "lossy-network": _MADE_UP,
    "kill-head": _MADE_UP,
    "kill-owner": _MADE_UP,
    "kill-node": _MADE_UP,
    "kill-train-worker": _MADE_UP,
    "fuzz-registry": "it publishes made-up adapters at a high rate",
    "history": "it kills the registry, and restores another one",
    "isolation": "it changes, withdraws and removes tenants",
    "encoders": "it moves tenants to other bundles",
    "soak": _MADE_UP,
}
"""How each is done on a deployment that somebody runs, or why it is not done there."""
DRILLS = {
    drill.name: drill
    for drill in (
        Drill(
            "kill-registry",
            "Kill the registry amid publishes: all that it acknowledged is there and sound",
            Later("registry.calls", "kill_registry"),
            {"kills": 1},
        ),
        Drill(
            "kill-shared-registry",
            "Kill either of two registries on one PostgreSQL, or that: the other serves on",
            Later("registry.shared", "kill_shared_registry"),
            {"kills": 3},
        ),
        Drill(
            "drop-rpc",
            "Break connections amid uploads and downloads: clients go on, nothing happens twice",
            Later("registry.calls", "drop_rpc"),
        ),
        Drill(
            "slow-rpc",
            "Slow the network down: patient clients get right bytes, hasty ones an error in time",
            Later("registry.calls", "slow_rpc"),
        ),
        Drill(
            "corrupt-blob",
            "Damage a payload on disk: no client gets it, fsck names it, publishing repairs it",
            Later("registry.disk", "corrupt_blob"),
        ),
        Drill(
            "fill-disk",
            "Fill the registry's disk (or limit its files): it refuses, still reads, and recovers",
            Later("registry.disk", "fill_disk"),
        ),
        Drill(
            "restore",
            "Lose a registry after its backup: no later withdrawal or consent is lost with it",
            Later("registry.restored", "restored"),
        ),
        Drill(
            "unwritable-audit",
            "Fill the audit log's disk amid changes: none has an effect without its line",
            Later("registry.unwritable", "unwritable_audit"),
        ),
        Drill(
            "slow-clients",
            "Hold connections and uploads that say hardly anything: others are served as before",
            Later("registry.crowded", "slow_clients"),
            {"seconds": 8.0},
        ),
        Drill(
            "flooded-registry",
            "Flood the registry with changes, watches and refused calls: others hardly notice",
            Later("registry.crowded", "flooded_registry"),
            {"seconds": 8.0},
        ),
        Drill(
            "clock-skew",
            "Set clocks wrong: statements, certificates and tokens are refused if far off only",
            Later("registry.clocks", "clock_skew"),
        ),
        Drill(
            "stale-teacher",
            "Withdraw a listed teacher, or change the encoder: it teaches nobody, the others do",
            Later("onboarding.stale_teacher", "stale_teacher"),
        ),
        Drill(
            "poisoned-teacher",
            "Offer adapters that break whoever loads them: they are refused, the sound one teaches",
            Later("onboarding.poisoned_teacher", "poisoned_teacher"),
            {"payloads": 1_000},
        ),
        Drill(
            "kill-serve-replica",
            "Kill one of two replicas amid queries: each query gets a right answer in the end",
            Later("endpoint.kill", "kill_serve_replica"),
            {"seconds": 8.0},
        ),
        Drill(
            "kill-onboarding",
            "Kill an onboarding without Ray several times: it ends as an undisturbed run does",
            Later("onboarding.resuming", "kill_onboarding"),
        ),
        Drill(
            "lose-registry",
            "Kill the registry amid an onboarding, for a while: it ends the same, published once",
            Later("onboarding.resuming", "lose_registry"),
        ),
        Drill(
            "partition",
            "Cut the network to the registry in silence, for a while: the onboarding ends the same",
            Later("onboarding.network", "partition"),
        ),
        Drill(
            "lossy-network",
            "Lose 30% of the packets to and from the registry: the onboarding ends the same",
            Later("onboarding.network", "lossy_network"),
        ),
        Drill(
            "kill-head",
            "Kill the cluster's head amid an onboarding: started again, it ends the same",
            Later("onboarding.lose_head", "kill_head"),
        ),
        Drill(
            "kill-owner",
            "Kill an onboarding's owner actor or its driver: it ends with the same adapter",
            Later("onboarding.on_ray", "kill_owner"),
        ),
        Drill(
            "kill-node",
            "Kill the owner's node for a while: the onboarding waits or says so; it ends the same",
            Later("onboarding.on_ray", "kill_owner_node"),
        ),
        Drill(
            "kill-train-worker",
            "Kill a training worker of Ray Train: the onboarding ends with the same adapter",
            Later("onboarding.on_ray", "kill_train_worker"),
        ),
        Drill(
            "fuzz-registry",
            "Send mutated uploads and calls: the registry accepts what an independent judge does",
            Later("registry.fuzz", "fuzz_registry"),
            {"calls": 5_000},
        ),
        Drill(
            "history",
            "Call it from several sides amid kills and a restore: one order explains every answer",
            Later("history.run", "history"),
            {"calls": 500},
        ),
        Drill(
            "isolation",
            "Change and withdraw tenants amid queries: each answer is the tenant's own and live",
            Later("endpoint.isolation", "isolation"),
            {"requests": 20_000, "tenants": 100, "data": None},
        ),
        Drill(
            "encoders",
            "Move tenants between two encoders amid queries: no answer is by the wrong encoder",
            Later("endpoint.encoders", "encoders"),
            {"requests": 20_000, "tenants": 24, "data": None},
        ),
        Drill(
            "soak",
            "Onboard and query for long: memory stays flat, answers stay right, nothing is left",
            Later("soak.command", "soak_drill"),
            {"minutes": 30.0, "rate": 20.0},
        ),
    )
}
