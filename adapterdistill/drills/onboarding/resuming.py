"""Drills of an onboarding without Ray: it is killed, or its registry is, and it ends the same."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from adapterdistill.actors.onboarding import OnboardReport
from adapterdistill.actors.stages import STAGES
from adapterdistill.drills.drill import Outcome
from adapterdistill.drills.onboarding.doomed import BEGUN
from adapterdistill.drills.onboarding.owner import (
    Made,
    Run,
    differences,
    made,
    taught,
    undisturbed,
)
from adapterdistill.errors import RegistryUnavailableError, TrainingError
from adapterdistill.testbed.owner_site import make_owner, toml
from adapterdistill.testbed.registry import registry_process

KILLS = 3
_CHANGES_A_FILE = 2
"""Least changes for each file of a run: it is staged and renamed."""
_PATIENCE_S = 3.0
_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Moment:
    """A moment: some seconds after a stage began."""

    stage: int
    after_s: float

    @classmethod
    def drawn(cls, draw: random.Random, report: OnboardReport, *, last: str) -> "Moment":
        """Any moment of the run up to the stage `last`, or of one of its stages: some are short."""
        seconds = [*report.stage_seconds().values()][: STAGES.index(last) + 1]
        (stage,) = draw.choices(range(len(seconds)), draw.choice((seconds, [1.0] * len(seconds))))
        return cls(stage, draw.uniform(0, seconds[stage]))


@dataclass(frozen=True)
class Driver:
    """`adapterdistill onboard --local`."""

    process: subprocess.Popen[bytes]
    log: Path

    def wait_for(self, moment: Moment) -> None:
        """Wait until the moment, or until the driver ends."""
        begun = f"[{moment.stage}/{len(STAGES)}]" if moment.stage else BEGUN
        deadline = time.monotonic() + _TIMEOUT_S
        while self.process.poll() is None and begun not in self.log.read_text("utf-8"):
            if time.monotonic() > deadline:
                raise TrainingError(f"{STAGES[moment.stage]} did not begin within {_TIMEOUT_S:g} s")
            time.sleep(0.002)
        time.sleep(moment.after_s)

    def ended(self, timeout_s: float = _TIMEOUT_S) -> int:
        """Its exit status."""
        return self.process.wait(timeout_s)

    def last_words(self) -> str:
        return self.log.read_text("utf-8").strip().rpartition("\n")[2]


@contextmanager
def driver(run: Run, address: str, *, dies_at: int = 0) -> Iterator[Driver]:
    """Run the onboarding until the block or its `dies_at`-th change of files ends it (0: none)."""
    file, log = run.folder / "run.toml", run.folder / "driver.log"
    file.write_text(toml(run.settings(address)), "utf-8")
    command = [
        sys.executable,
        "-m",
        "adapterdistill.drills.onboarding.doomed",
        str(run.folder),
        str(dies_at),
    ]
    with log.open("wb") as written:
        process = subprocess.Popen(
            [*command, "onboard", "--local", "--config", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Driver(process, log)
    finally:
        process.kill()
        process.wait()


def kill_onboarding(folder: Path, draw: random.Random) -> Outcome:
    """Kill it at any moment, or amid a change of a file; its next runs are killed too."""
    make_owner(folder)
    expected = undisturbed(Run(folder / "undisturbed"))
    run = Run(folder / "disturbed")
    with taught(run) as server:
        killed_at = None
        for _ in range(KILLS):
            if not _kill(run, server.address, draw, expected):
                break
            killed_at = time.monotonic()
        if killed_at is None:
            raise TrainingError("the onboarding ended before the fault, so this shows nothing")
        with driver(run, server.address) as last:
            if last.ended():
                raise TrainingError(f"the onboarding failed after a kill: {last.last_words()}")
        recovery_s = time.monotonic() - killed_at
        found = made(run, server.address)
    return Outcome(recovery_s, tuple(differences(run, found, expected)))


def _kill(run: Run, address: str, draw: random.Random, expected: Made) -> bool:
    """Kill a run; return whether it still ran."""
    amid_change = draw.random() < 0.5
    dies_at = draw.randint(1, _CHANGES_A_FILE * len(expected.left)) if amid_change else 0
    moment = Moment.drawn(draw, expected.report, last=STAGES[-1])
    with driver(run, address, dies_at=dies_at) as one:
        if not amid_change:
            one.wait_for(moment)
            one.process.kill()
        status = one.ended()
    if status not in (0, -signal.SIGKILL):
        raise TrainingError(f"the onboarding failed after a kill: {one.last_words()}")
    return status != 0


def lose_registry(folder: Path, draw: random.Random) -> Outcome:
    """Kill the registry with kill -9 before the publish is over, and start it some time later."""
    make_owner(folder)
    expected = undisturbed(Run(folder / "undisturbed"))
    run = Run(folder / "disturbed", timeout_s=_PATIENCE_S)
    findings: list[str] = []
    with ExitStack() as deployment:
        server = deployment.enter_context(taught(run))
        one = deployment.enter_context(driver(run, server.address))
        one.wait_for(Moment.drawn(draw, expected.report, last="publish"))
        server.process.kill()
        away_s = draw.uniform(0, 2 * _PATIENCE_S)
        time.sleep(away_s)
        began = time.monotonic()
        port = server.address.rpartition(":")[2]
        server = deployment.enter_context(registry_process(run.registry, "--port", port))
        if one.ended():
            if f"[{RegistryUnavailableError.reason}]" not in one.last_words():
                findings.append(f"the registry was away, and this was said: {one.last_words()}")
            one = deployment.enter_context(driver(run, server.address))
            if one.ended():
                raise TrainingError(f"the onboarding failed for good: {one.last_words()}")
        recovery_s = time.monotonic() - began
        found = made(run, server.address)
        findings += differences(run, found, expected)
    return Outcome(recovery_s, tuple(findings))
