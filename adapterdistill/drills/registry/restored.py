"""The drill of a registry that is lost after its last backup."""

import random
import signal
import time
from functools import partial
from pathlib import Path

from adapterdistill.drills.drill import Outcome, not_refused, seconds_until
from adapterdistill.drills.registry.acknowledged import OWNER, Acknowledged, fsck_findings
from adapterdistill.registry.access import EVERYONE, NOBODY, Consent
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.upkeep.backup import backup, reopen, restore
from adapterdistill.testbed.registry import registry_process

VERSIONS = 8
_PATIENT_S = 30.0


def restored(folder: Path, draw: random.Random) -> Outcome:
    """Kill a registry some time after its backup, and restore it with its audit log."""
    told, root = Acknowledged(), folder / "registry"
    consent: Consent = EVERYONE
    with (
        registry_process(root) as server,
        RegistryClient(server.address, timeout_s=_PATIENT_S) as client,
    ):
        versions = [told.publish(client)[0] for _ in range(VERSIONS)]
        backup(root, folder / "backup")
        withdrawn = draw.sample(versions, draw.randint(1, VERSIONS - 1))
        for manifest in withdrawn:
            client.withdraw(manifest.ref, "by the drill")
            if draw.random() < 0.5:
                consent = draw.choice((EVERYONE, NOBODY, frozenset({"tenant-a", "tenant-b"})))
                client.set_consent(OWNER, "faq", consent)
        told.publish(client)  # is lost
        server.process.send_signal(signal.SIGKILL)
    log = root / "audit" / "log.jsonl"
    began = time.monotonic()
    restore(folder / "backup", folder / "new", audit=log)
    restore(folder / "backup", folder / "closed")
    findings: list[str] = []
    with (
        registry_process(folder / "new") as server,
        RegistryClient(server.address, timeout_s=_PATIENT_S) as client,
    ):
        seconds_until(lambda: list(client.list()))
        recovery_s = time.monotonic() - began
        for manifest in versions:
            if manifest in withdrawn:
                findings += not_refused(partial(client.fetch, manifest.ref), "WITHDRAWN")
            elif client.fetch(manifest.ref)[0] != manifest:
                findings.append(f"{manifest.ref.name} has another manifest")
            if client.describe(manifest.ref).consent != consent:
                findings.append(f"{manifest.ref.name} has another consent than was given last")
    with (
        registry_process(folder / "closed") as server,
        RegistryClient(server.address, timeout_s=_PATIENT_S) as client,
    ):
        findings += not_refused(lambda: client.fetch(versions[0].ref), "REGISTRY_CLOSED")
        findings += not_refused(lambda: list(client.list()), "REGISTRY_CLOSED")
        reopen(folder / "closed")
        seconds_until(lambda: client.fetch(versions[0].ref))
    return Outcome(recovery_s, (*findings, *fsck_findings(folder / "new")))
