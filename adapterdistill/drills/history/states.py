"""The registry as a sequential machine: what one change after the other makes of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from adapterdistill.drills.history.record import (
    OPERATOR,
    Adapter,
    Call,
    Effect,
    adapter_of,
    tenant_of,
)
from adapterdistill.registry.access import EVERYONE, NOBODY, Consent

ACTIVE, WITHDRAWN = "active", "withdrawn"


@dataclass(frozen=True)
class State:
    """The registry between two changes."""

    versions: Mapping[str, str] = field(default_factory=dict)
    """ACTIVE or WITHDRAWN, by name."""
    first: Mapping[str, Consent] = field(default_factory=dict)
    """What the first version of each adapter said."""
    asked: Mapping[str, Consent] = field(default_factory=dict)
    """What was said of an adapter last."""
    lost: frozenset[str] = frozenset()
    """Withdrawn versions that a restored backup does not have. They may not come back."""

    def consent(self, adapter: str) -> Consent:
        return self.asked.get(adapter, self.first.get(adapter, NOBODY))

    def has(self, adapter: str) -> bool:
        return any(adapter_of(name) == adapter for name in self.versions)

    def sees(self, caller: str, name: str) -> bool:
        """Say whether the version is there for this caller."""
        if name not in self.versions:
            return False
        consent = self.consent(adapter_of(name))
        return caller in (OPERATOR, tenant_of(name)) or caller in consent or consent == EVERYONE

    def after(self, change: Effect, uploads: Mapping[str, Adapter]) -> "State":
        """Return the state after a change, lawful or not."""
        name = change.name
        match change.kind:
            case "published":
                first = self.first
                if not self.has(adapter_of(name)):
                    first = {**first, adapter_of(name): uploads[name].consent}
                return replace(self, versions={**self.versions, name: ACTIVE}, first=first)
            case "withdrawn":
                return replace(self, versions={**self.versions, name: WITHDRAWN})
            case "consent_changed":
                return replace(self, asked={**self.asked, name: consent_of(change.detail)})
        return self

    def fault(self, change: Effect, uploads: Mapping[str, Adapter]) -> str:
        """Say why this change cannot be made now; empty if it can."""
        name, state = change.name, self.versions.get(change.name)
        match change.kind:
            case "published" if name not in uploads:
                return "nobody sent it"
            case "published" if state is not None:
                return f"it was there already, {state}"
            case "published" if name in self.lost:
                return "it was withdrawn before the registry was restored"
            case "published":
                for teacher in uploads[name].teachers:
                    if not self.sees(tenant_of(name), teacher):
                        return "it learnt from a version that its owner could not see"
                    if self.versions[teacher] != ACTIVE:
                        return "it learnt from a withdrawn version"
            case "withdrawn" if state != ACTIVE:
                return f"it was {state or 'not there'}"
            case "consent_changed" if not self.has(name):
                return "the adapter had no version"
            case "published" | "withdrawn" | "consent_changed":
                pass
            case _:
                return "no call makes such a change"
        return ""

    def explains(self, call: Call, uploads: Mapping[str, Adapter]) -> bool:
        """Say whether the call may have been answered so in this state."""
        name, state = call.name, self.versions.get(call.name)
        seen = self.sees(call.caller, name)
        match call.kind, call.answer:
            case "publish", "ok":
                return state == ACTIVE
            case "publish", "WITHDRAWN":
                teachers = (self.versions.get(one) for one in uploads[name].teachers)
                return state == WITHDRAWN or name in self.lost or WITHDRAWN in teachers
            case "publish", "INVALID_MANIFEST":
                return not all(self.sees(call.caller, one) for one in uploads[name].teachers)
            case "withdraw", "ok":
                return state == WITHDRAWN
            case "consent", "ok":
                return True  # that its effect is in the log is checked apart
            case "consent", "NOT_FOUND":
                return not self.has(name)
            case (("withdraw" | "fetch" | "describe"), "NOT_FOUND"):
                return not seen
            case "fetch", "ok":
                return seen and state == ACTIVE
            case "fetch", "WITHDRAWN":
                return seen and state == WITHDRAWN
            case "describe", "ok":
                return seen and call.seen == {str(state), *self.consent(adapter_of(name))}
            case "list", "ok":
                return call.seen == {
                    one
                    for one, state in self.versions.items()
                    if tenant_of(one) == name and state == ACTIVE and self.sees(call.caller, one)
                }
        return False


def consent_of(detail: str) -> Consent:
    """Read a consent as the audit log has it."""
    return NOBODY if detail == "nobody" else frozenset(detail.split(","))
