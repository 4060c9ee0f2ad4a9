"""The drill of an audit log that cannot be written."""

import random
from pathlib import Path
from typing import Any

import grpc

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
from adapterdistill.registry.status import from_call
from adapterdistill.registry.upkeep.audit_verify import LOG, examine
from adapterdistill.registry.v1 import registry_pb2 as pb
from adapterdistill.registry.v1 import registry_pb2_grpc
from adapterdistill.registry.wire import adapter_name, consent_message

_CHANGES = 12
_PATIENT_S = 30.0


def unwritable_audit(folder: Path, draw: random.Random) -> Outcome:
    """Fill the disk of the audit log amid changes, and free it again: none has an effect alone."""
    told, findings = Acknowledged(), list[str]()
    consents: list[Consent] = [EVERYONE]
    reasons: set[str] = set()
    with (
        serving_on_small_disk(folder, "audit") as disk,
        RegistryClient(disk.server.address, timeout_s=_PATIENT_S) as client,
        grpc.insecure_channel(disk.server.address) as channel,
    ):
        # Not the client: it repeats a refused call until its answer may be lost.
        stub: Any = registry_pb2_grpc.RegistryServiceStub(channel)  # type: ignore[no-untyped-call]
        told.publish(client)

        def change() -> None:
            consent = frozenset(f"tenant-{draw.randrange(10**9)}" for _ in range(3))
            refused = _set_consent(stub, consent)
            if refused is not None:
                raise refused
            consents.append(consent)

        change()
        disk.fill(draw.randrange(4 << 10))
        ref = told.versions[0][0].ref
        for _ in range(_CHANGES):
            try:
                change()
            except AdapterDistillError as error:
                reasons.add(error.reason)
            if client.describe(ref).consent != consents[-1]:
                findings.append("a change that was refused took effect, or the other way round")
        findings += fetch_findings(client, *told.versions[0])  # reads go on
        disk.free()
        recovery_s = seconds_until(change)
        findings += told.findings(client)
    if not reasons:
        findings.append("nothing was refused, so this shows nothing")
    findings += (f"refused with {reason}" for reason in sorted(reasons - REFUSALS))
    findings += _log_findings(folder / "registry", len(consents) - 1)
    return Outcome(recovery_s, (*findings, *fsck_findings(folder / "registry")), disk.note)


def _set_consent(stub: Any, consent: Consent) -> AdapterDistillError | None:
    """Change the consent once; return the refusal, if it is refused."""
    name = adapter_name(OWNER, "faq")
    request = pb.SetConsentRequest(adapter_name=name, consent=consent_message(consent))
    try:
        stub.SetConsent(request, timeout=_PATIENT_S)
    except grpc.RpcError as error:
        return from_call(error, "set_consent")
    return None


def _log_findings(root: Path, changes: int) -> list[str]:
    """Findings unless the log tells of each acknowledged change, and of no other."""
    kinds: list[str] = []
    examine(root / "audit" / LOG, visit=lambda record: kinds.append(record["kind"]))
    made = kinds.count("consent_changed") - kinds.count("void")
    return (
        [] if made == changes else [f"the audit log tells of {made} changes, {changes} were made"]
    )
