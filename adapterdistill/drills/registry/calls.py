"""Drills of the way to the registry: it is killed, connections are lost, or it is slow."""

import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from adapterdistill.drills.drill import Outcome, not_refused, reported, seconds_until
from adapterdistill.drills.registry.acknowledged import Acknowledged, fsck_findings
from adapterdistill.drills.registry.kills import kills_part
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.testbed.faulty_proxy import FaultyProxy
from adapterdistill.testbed.random_adapters import Shape
from adapterdistill.testbed.registry import registry_process

DROPS = 2
_LARGE = Shape(4, 512, 128)  # 2 MiB: several chunks, so that a transfer can break off within
_CUT_WITHIN_BYTES = 1 << 20
_PATIENT_S = 60.0
_HASTY_S = 0.3
_STANDSTILL_S = 5.0


def kill_registry(folder: Path, draw: random.Random, *, kills: int) -> Outcome:
    """Kill it with kill -9 amid publishes, and start a new process on the same folder."""
    part = kills_part(folder, kills, draw.randrange(1000))
    found, outcome = reported(folder, "Registry killed", part)
    if not found["acknowledged"]:
        nothing = "nothing was acknowledged, so this shows nothing"
        outcome = replace(outcome, findings=(*outcome.findings, nothing))
    return replace(outcome, recovery_s=found["recovery_s"]["max"])


def drop_rpc(folder: Path, draw: random.Random) -> Outcome:
    """Reset connections in the middle of uploads and downloads, and refuse them for a while."""
    root, told = folder / "registry", Acknowledged(shape=_LARGE)
    recovery_s: list[float] = []
    findings: list[str] = []
    with (
        registry_process(root) as server,
        FaultyProxy(server.address) as proxy,
        RegistryClient(proxy.address, timeout_s=_PATIENT_S) as client,
        RegistryClient(proxy.address, timeout_s=_HASTY_S) as hasty,
    ):

        def interrupted(call: Callable[[], object]) -> None:
            proxy.cut_after(draw.randrange(_CUT_WITHIN_BYTES))
            call()
            ended = time.monotonic()
            if proxy.cut_at is None:
                findings.append("no connection was cut, so this shows nothing")
            else:
                recovery_s.append(ended - proxy.cut_at)

        for _ in range(DROPS):
            interrupted(lambda: told.publish(client))
            interrupted(lambda: client.fetch(told.versions[-1][0].ref))
        proxy.refuses = True
        proxy.cut()
        findings += not_refused(lambda: hasty.get(told.versions[0][0].ref), "REGISTRY_UNAVAILABLE")
        proxy.refuses = False
        recovery_s.append(seconds_until(lambda: told.publish(client)))
        with RegistryClient(server.address, timeout_s=_PATIENT_S) as direct:
            findings += told.findings(direct)
            if len(list(direct.list(latest_only=False))) != len(told.versions):
                findings.append("a call that was repeated counted twice")
    return Outcome(max(recovery_s), (*findings, *fsck_findings(root)))


def slow_rpc(folder: Path, draw: random.Random) -> Outcome:
    """Slow everything down: patient clients get right answers, hasty ones their error in time."""
    root, told = folder / "registry", Acknowledged()
    findings: list[str] = []
    with (
        registry_process(root) as server,
        FaultyProxy(server.address) as proxy,
        RegistryClient(proxy.address, timeout_s=_PATIENT_S) as client,
        RegistryClient(proxy.address, timeout_s=_HASTY_S) as hasty,
        RegistryClient(server.address, timeout_s=_PATIENT_S) as direct,
    ):
        manifest, _ = told.publish(client)
        proxy.slow_down(draw.uniform(0.02, 0.1), piece_bytes=1 << 12)
        told.publish(client)
        findings += told.findings(client)
        proxy.slow_down(_STANDSTILL_S)
        began = time.monotonic()
        findings += not_refused(lambda: hasty.get(manifest.ref), "REGISTRY_UNAVAILABLE")
        waited_s = time.monotonic() - began
        if waited_s > _STANDSTILL_S:
            findings.append(f"a deadline of {_HASTY_S:g} s was reported after {waited_s:.1f} s")
        direct.get(manifest.ref)  # others are not held up
        proxy.speed_up()
        recovery_s = seconds_until(lambda: told.publish(client))
        findings += told.findings(direct)
    return Outcome(recovery_s, (*findings, *fsck_findings(root)))
