"""Drills of an onboarding whose network to the registry fails: it ends as an undisturbed one."""

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from adapterdistill.drills.drill import Outcome
from adapterdistill.drills.onboarding.owner import (
    Made,
    Run,
    differences,
    made,
    taught,
    undisturbed,
)
from adapterdistill.drills.onboarding.resuming import Driver, Moment, driver
from adapterdistill.errors import RegistryUnavailableError, TrainingError
from adapterdistill.testbed.faulty_proxy import FaultyProxy
from adapterdistill.testbed.owner_site import make_owner

LOST_SHARE = 0.3
_PATIENCE_S = 3.0
"""The deadline of calls, in a partition that may last for twice as long."""


@dataclass(frozen=True)
class _Scene:
    """An owner and a registry with a network between them that can fail."""

    run: Run
    expected: Made
    proxy: FaultyProxy
    address: str
    """The registry's own: without the network that fails."""

    def findings(self) -> Iterator[str]:
        yield from differences(self.run, made(self.run, self.address), self.expected)


@contextmanager
def _scene(folder: Path, *, timeout_s: float) -> Iterator[_Scene]:
    make_owner(folder)
    expected = undisturbed(Run(folder / "undisturbed"))
    run = Run(folder / "disturbed", timeout_s=timeout_s)
    with taught(run) as server, FaultyProxy(server.address) as proxy:
        yield _Scene(run, expected, proxy, server.address)


def partition(folder: Path, draw: random.Random) -> Outcome:
    """Let nothing pass for some seconds, from any moment before the publish is over.

    No connection is reset: neither side is told. The run waits, or ends with the reason and is
    submitted again.
    """
    findings: list[str] = []
    with ExitStack() as deployment:
        scene = deployment.enter_context(_scene(folder, timeout_s=_PATIENCE_S))
        one = deployment.enter_context(driver(scene.run, scene.proxy.address))
        one.wait_for(Moment.drawn(draw, scene.expected.report, last="publish"))
        scene.proxy.hold()
        time.sleep(draw.uniform(0, 2 * _PATIENCE_S))
        scene.proxy.speed_up()
        began = time.monotonic()
        if one.ended():
            if f"[{RegistryUnavailableError.reason}]" not in one.last_words():
                findings.append(f"the network was away, and this was said: {one.last_words()}")
            one = deployment.enter_context(driver(scene.run, scene.proxy.address))
            _require_success(one)
        recovery_s = time.monotonic() - began
        findings += scene.findings()
    return Outcome(recovery_s, tuple(findings))


def lossy_network(folder: Path, draw: random.Random) -> Outcome:
    """Lose 30% of the packets between owner and registry, from before the run until it is over."""
    with ExitStack() as deployment:
        scene = deployment.enter_context(_scene(folder, timeout_s=30.0))
        scene.proxy.lose(LOST_SHARE, draw)
        began = time.monotonic()
        _require_success(deployment.enter_context(driver(scene.run, scene.proxy.address)))
        recovery_s = time.monotonic() - began
        findings = tuple(scene.findings())
        if not scene.proxy.num_lost:
            raise TrainingError("nothing was lost, so this shows nothing")
    return Outcome(recovery_s, findings, f"{scene.proxy.num_lost} losses")


def _require_success(one: Driver) -> None:
    if one.ended():
        raise TrainingError(f"the onboarding failed for good: {one.last_words()}")
