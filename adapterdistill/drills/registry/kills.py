"""A registry that is killed again and again amid concurrent publishes.

What counts is what clients were told: a publish that was answered must be there afterwards, fetched
and verified, and one that was not answered is there whole or not at all.
"""

import contextlib
import random
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from adapterdistill.drills.registry.report import kills_sections
from adapterdistill.errors import AdapterDistillError, RegistryUnavailableError
from adapterdistill.manifest import Manifest, VersionRef
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.upkeep.audit_verify import LOG, examine
from adapterdistill.registry.upkeep.fsck import fsck
from adapterdistill.testbed.progress import phase
from adapterdistill.testbed.random_adapters import SMALL, adapter
from adapterdistill.testbed.registry import RegistryProcess, registry_process
from adapterdistill.testbed.reporting import Part

_LONGEST_WAIT_S = 0.4
_FIRST_ANSWER_S = 30.0
_CALL_TIMEOUT_S = 0.5
PUBLISHERS = 8


@dataclass
class KillReport:
    """Counts are of versions; `faults` says what must not be, and is empty where all is well."""

    kills: int = 0
    acknowledged: int = 0
    found: int = 0
    """Acknowledged versions that were fetched whole afterwards."""
    unacknowledged: int = 0
    """There and whole, though the answer was lost."""
    lines_repaired: int = 0
    """Lines of the audit log that a kill had cut short."""
    recovery_s: list[float] = field(default_factory=list)
    """Seconds from the start of each process after a kill until it was ready."""
    faults: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """The report, with median and maximum of the recoveries in place of all."""
        recovery = {
            "median": round(statistics.median(self.recovery_s), 3),
            "max": round(max(self.recovery_s), 3),
        }
        return asdict(self) | {"recovery_s": recovery}


def kills_part(folder: Path, kills: int, seed: int) -> Part:
    return Part(
        "kills",
        lambda: kill_repeatedly(folder / "registry", kills, PUBLISHERS, seed).figures(),
        kills_sections,
        lambda found: found["kills"]["faults"],
    )


def kill_repeatedly(root: Path, kills: int, publishers: int, seed: int) -> KillReport:
    """Serves `root` and kills the process `kills` times, each at a random moment.

    Args:
        root: a folder that does not exist yet.
        publishers: threads that publish all the while, each under its own tenant's name.
    """
    report, draw = KillReport(), random.Random(seed)
    acknowledged: dict[VersionRef, Manifest] = {}
    crowd = Publishers(publishers, seed, acknowledged)
    with phase("registry killed", kills if kills > 1 else 0) as advance:
        for _ in range(kills):
            with _started(root, report) as server, crowd.publishing(server.address):
                time.sleep(draw.uniform(0, _LONGEST_WAIT_S))
                crowd.killed.set()
                server.process.send_signal(signal.SIGKILL)
            report.kills += 1
            advance()
    report.faults += crowd.faults
    report.acknowledged = len(acknowledged)
    with _started(root, report) as server:
        report.faults += missing(server, acknowledged, report)
        report.faults += (f"fsck: {one.kind} {one.name}" for one in fsck(root).findings)
    report.recovery_s.pop(0)  # the first start followed no kill
    report.faults += audit_faults(root, report)
    return report


@contextmanager
def _started(root: Path, report: KillReport) -> Iterator[RegistryProcess]:
    started = time.monotonic()
    with registry_process(root) as server, RegistryClient(server.address) as client:
        while not client.health():
            time.sleep(0.01)
        report.recovery_s.append(time.monotonic() - started)
        yield server


class Publishers:
    """Threads that publish, one version after another, while there is a registry to publish to."""

    def __init__(self, number: int, seed: int, acknowledged: dict[VersionRef, Manifest]) -> None:
        self.faults: list[str] = []
        self.killed = threading.Event()
        """Set it when the registry is killed; until then the threads go on trying to reach it."""
        self._answered, self._ended = threading.Event(), threading.Event()
        self._acknowledged = acknowledged
        self._numbers = [seed * 1_000_000 + writer * 100_000_000 for writer in range(number)]

    @contextmanager
    def publishing(self, address: str) -> Iterator[None]:
        """The block is entered when a publish was answered, and left when `killed` ended all."""
        self.killed.clear()
        self._ended.clear()
        self._answered.clear()
        threads = [
            threading.Thread(target=self._publish, args=(writer, address))
            for writer in range(len(self._numbers))
        ]
        for thread in threads:
            thread.start()
        try:
            if not self._answered.wait(_FIRST_ANSWER_S):
                self.faults.append(f"no publish was answered within {_FIRST_ANSWER_S:g} s")
            yield
        finally:
            self.killed.set()
            self._ended.set()
            for thread in threads:
                thread.join()

    def _publish(self, writer: int, address: str) -> None:
        with RegistryClient(address, timeout_s=_CALL_TIMEOUT_S) as client:
            while not self._ended.is_set():
                seed = self._numbers[writer]
                manifest, payload = adapter(SMALL, seed, tenant=f"publisher-{writer}", name="faq")
                try:
                    client.publish(manifest, payload)
                except RegistryUnavailableError:
                    if self.killed.is_set():
                        return
                    continue  # the machine is busy: the same again
                except AdapterDistillError as error:
                    self.faults.append(f"publish refused: {error.reason}: {error}")
                    return
                self._acknowledged[manifest.ref] = manifest
                self._answered.set()
                self._numbers[writer] += 1


def missing(
    server: RegistryProcess, acknowledged: dict[VersionRef, Manifest], report: KillReport
) -> Iterator[str]:
    with RegistryClient(server.address, timeout_s=30) as client:
        for ref, manifest in acknowledged.items():
            with contextlib.suppress(AdapterDistillError):
                if client.fetch(ref)[0] == manifest:
                    report.found += 1
                    continue
            yield f"acknowledged and not there: {ref.name}"
        for manifest in client.list(latest_only=False):
            if manifest.ref not in acknowledged:
                report.unacknowledged += 1
                try:
                    client.fetch(manifest.ref)
                except AdapterDistillError as error:
                    yield f"half there: {manifest.ref.name}: {error.reason}"


def audit_faults(root: Path, report: KillReport) -> Iterator[str]:
    """Faults of the log of the registry, which was stopped."""
    published: set[str] = set()
    before: str | None = None

    def visit(record: dict[str, Any]) -> None:
        nonlocal before
        if record["kind"] == "void" and before is not None:
            published.discard(before)  # the registry was killed before that line's change was made
        before = record["name"] if record["kind"] in ("published", "quarantined") else None
        if before is not None:
            published.add(before)
        report.lines_repaired += record["kind"] == "repaired"

    found = examine(root / "audit" / LOG, visit=visit)
    if found.fault is not None:
        yield f"audit log: {found.fault}"
    if found.signed_records != found.records:
        yield "audit log: its end is not signed"
    if len(published) != report.acknowledged + report.unacknowledged:
        yield f"audit log: {len(published)} publishes, of {report.acknowledged} acknowledged"
