"""The drill of an audit log that cannot be written."""

import random
from pathlib import Path

from adapterdistill.drills.drill import Outcome, seconds_until
from adapterdistill.drills.registry.acknowledged import (
    OWNER,
    Acknowledged,
    fetch_findings,
    fsck_findings,
)
from adapterdistill.drills.registry.disk import REFUSALS, serving_on_small_disk
from adapterdistill.errors import AdapterDistillError
from adapterdistill.registry.access import EVERYONE, Consent
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.upkeep.audit_verify import LOG, examine

_CHANGES = 12
_TIMEOUT_S = 0.5
_PATIENT_S = 30.0


def unwritable_audit(folder: Path, draw: random.Random) -> Outcome:
    """Fill the disk of the audit log amid changes, and free it again: none has an effect alone."""
    told, findings = Acknowledged(), list[str]()
    consents: list[Consent] = [EVERYONE]
    reasons: set[str] = set()
    with (
        serving_on_small_disk(folder, "audit") as disk,
        RegistryClient(disk.server.address, timeout_s=_TIMEOUT_S) as client,
        RegistryClient(disk.server.address, timeout_s=_PATIENT_S) as patient,
    ):
        told.publish(patient)

        def change() -> None:
            consent = frozenset(f"tenant-{draw.randrange(10**9)}" for _ in range(3))
            client.set_consent(OWNER, "faq", consent)
            consents.append(consent)

        change()
        disk.fill(draw.randrange(4 << 10))
        ref = told.versions[0][0].ref
        for _ in range(_CHANGES):
            try:
                change()
            except AdapterDistillError as error:
                reasons.add(error.reason)
            if patient.describe(ref).consent != consents[-1]:
                findings.append("a change that was refused took effect, or the other way round")
        findings += fetch_findings(patient, *told.versions[0])  # reads go on
        disk.free()
        recovery_s = seconds_until(change)
        findings += told.findings(patient)
    if not reasons:
        findings.append("nothing was refused, so this shows nothing")
    findings += (f"refused with {reason}" for reason in sorted(reasons - REFUSALS))
    findings += _log_findings(folder / "registry", len(consents) - 1)
    return Outcome(recovery_s, (*findings, *fsck_findings(folder / "registry")), disk.note)


def _log_findings(root: Path, changes: int) -> list[str]:
    """Findings unless the log tells of each acknowledged change, and of no other."""
    kinds: list[str] = []
    examine(root / "audit" / LOG, visit=lambda record: kinds.append(record["kind"]))
    made = kinds.count("consent_changed") - kinds.count("void")
    return (
        [] if made == changes else [f"the audit log tells of {made} changes, {changes} were made"]
    )
