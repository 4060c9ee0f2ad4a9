"""Drills of the way to the registry: it is killed, connections are lost, or it is slow."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from adapterdistill.drills.drill import Outcome, not_refused, reported, seconds_until
from adapterdistill.drills.registry.acknowledged import Acknowledged, fsck_findings
from adapterdistill.drills.registry.kills import kills_part
from adapterdistill.manifest import VersionRef
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
_UNAVAILABLE = "REGISTRY_UNAVAILABLE"


@dataclass(frozen=True)
class Way:
    """Clients of a registry, and a proxy in front of it that only they use."""

    proxy: FaultyProxy
    client: RegistryClient
    hasty: RegistryClient
    """A client through the proxy like `client`, with a short deadline."""
    direct: RegistryClient

    def cut_after(self, passed_bytes: int, call: Callable[[], object]) -> tuple[float, list[str]]:
        """Cut connections during the call; seconds from the cut to its end, and findings."""
        self.proxy.cut_after(passed_bytes)
        call()
        ended = time.monotonic()
        if self.proxy.cut_at is None:
            return 0.0, ["no connection was cut, so this shows nothing"]
        return ended - self.proxy.cut_at, []

    def refuse(self, ref: VersionRef) -> list[str]:
        """Refuse connections while a hasty client asks for this version."""
        self.proxy.refuses = True
        self.proxy.cut()
        findings = not_refused(lambda: self.hasty.get(ref), _UNAVAILABLE)
        self.proxy.refuses = False
        return findings

    def stand_still(self, ref: VersionRef) -> list[str]:
        """Slow the network down to a standstill while a hasty client asks for this version."""
        self.proxy.slow_down(_STANDSTILL_S)
        began = time.monotonic()
        findings = not_refused(lambda: self.hasty.get(ref), _UNAVAILABLE)
        waited_s = time.monotonic() - began
        if waited_s > _STANDSTILL_S:
            findings.append(f"a deadline of {_HASTY_S:g} s was reported after {waited_s:.1f} s")
        return findings


@contextmanager
def way_to(
    address: str, credentials: Path | None = None, *, timeout_s: float = _PATIENT_S
) -> Iterator[Way]:
    connect = partial(RegistryClient, credentials=credentials)
    # The registry's certificate is for its own name, not for the proxy's.
    name = address.rpartition(":")[0].strip("[]")
    # The direct client comes first: it says what is wrong with an address.
    with connect(address, timeout_s=timeout_s) as direct, FaultyProxy(address) as proxy:
        through = partial(connect, proxy.address, server_name=name)
        with through(timeout_s=timeout_s) as client, through(timeout_s=_HASTY_S) as hasty:
            yield Way(proxy, client, hasty, direct)


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
    with registry_process(root) as server, way_to(server.address) as way:
        for _ in range(DROPS):
            for call in (
                lambda: told.publish(way.client),
                lambda: way.client.fetch(told.versions[-1][0].ref),
            ):
                seconds, found = way.cut_after(draw.randrange(_CUT_WITHIN_BYTES), call)
                recovery_s.append(seconds)
                findings += found
        findings += way.refuse(told.versions[0][0].ref)
        recovery_s.append(seconds_until(lambda: told.publish(way.client)))
        findings += told.findings(way.direct)
        if len(list(way.direct.list(latest_only=False))) != len(told.versions):
            findings.append("a call that was repeated counted twice")
    return Outcome(max(recovery_s), (*findings, *fsck_findings(root)))


def slow_rpc(folder: Path, draw: random.Random) -> Outcome:
    """Slow everything down: patient clients get right answers, hasty ones their error in time."""
    root, told = folder / "registry", Acknowledged()
    with registry_process(root) as server, way_to(server.address) as way:
        manifest, _ = told.publish(way.client)
        way.proxy.slow_down(draw.uniform(0.02, 0.1), piece_bytes=1 << 12)
        told.publish(way.client)
        findings = [*told.findings(way.client), *way.stand_still(manifest.ref)]
        way.direct.get(manifest.ref)  # others are not held up
        way.proxy.speed_up()
        recovery_s = seconds_until(lambda: told.publish(way.client))
        findings += told.findings(way.direct)
    return Outcome(recovery_s, (*findings, *fsck_findings(root)))
