"""What is served at one moment: tenants in memory, tenants that could be, and the withdrawn.

Every live tenant is known by its bundle's id, which costs little; its adapter and FAQs are in
memory for as long as there is room. Everything here is immutable.

What is served has a key: the live bundle's is its tenant's name, the candidate's is
`TENANT@canary`, which no tenant can be called. A candidate is paged as any tenant is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from adapterdistill.adapters import AdapterStack
from adapterdistill.confidence import Calibration
from adapterdistill.data.schema import Faq
from adapterdistill.distill.method import Variant as ServedForm
from adapterdistill.errors import (
    NoCandidateError,
    OverloadedError,
    UnknownTenantError,
    WithdrawnError,
)
from adapterdistill.manifest import Manifest, VariantKind
from adapterdistill.release import Candidate
from serve.engine.adapter_bank import Slot
from serve.engine.drift import Drift
from serve.engine.faq_index import FaqIndex

NotLive = UnknownTenantError | WithdrawnError | OverloadedError
"""Why a tenant is not answered; the last where it is live and not in memory."""
ServedAs = VariantKind | Literal["adapter"]
"""What a tenant is served by: its adapter, or a cheaper form of it."""
Alias = Literal["live", "canary"]
"""Which of a tenant's bundles answers: the live one, or the candidate, whatever its mode."""


def key_of(tenant: str, alias: Alias) -> str:
    return tenant if alias == "live" else f"{tenant}@{alias}"


def tenant_of(key: str) -> str:
    return key.partition("@")[0]


@dataclass(frozen=True, eq=False)
class LiveTenant:
    """What one bundle is in memory. Whoever holds it keeps its slot from reuse."""

    bundle_id: str
    manifest: Manifest
    served: Slot | ServedForm
    """The adapter's place in the bank, or what is served in its stead."""
    index: FaqIndex
    faqs: tuple[Faq, ...]
    threshold: float
    calibration: Calibration | None
    drift: Drift
    """Counts of what it answered; the only part of it that changes."""

    @property
    def form(self) -> ServedAs:
        return "adapter" if isinstance(self.served, Slot) else self.served.settings.kind

    def confidence(self, top_score: float) -> float | None:
        """P(the best FAQ is right); None where the bundle has no calibration."""
        return None if self.calibration is None else self.calibration.confidence(top_score)


@dataclass(frozen=True)
class Recalled:
    """A live bundle whose version was withdrawn: it is not served."""

    bundle_id: str
    name: str
    """Of the version."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Everything that a batch needs, of one moment. Holding it keeps its slots from reuse."""

    stack: AdapterStack
    tenants: Mapping[str, LiveTenant]
    """Those in memory, by key, as are the next two."""
    bundles: Mapping[str, str]
    """Every bundle id that is served, in memory or not; not those of the withdrawn."""
    recalled: Mapping[str, Recalled]
    withdrawn: frozenset[str]
    """Names of versions that are not to be served."""
    candidates: Mapping[str, Candidate]
    """Of every tenant that has one in the store, by name: refused and withdrawn ones, too."""

    def find(self, key: str) -> LiveTenant | str | UnknownTenantError | WithdrawnError:
        """What is in memory, or the id of its bundle, or the error that says why neither."""
        tenant = tenant_of(key)
        if key != tenant and tenant not in self.bundles:
            return self._why_not(tenant)  # not even its candidate's answers are served
        if key != tenant and self.candidate(tenant) is None:
            return self._why_not(key)
        return self.tenants.get(key) or self.bundles.get(key) or self._why_not(key)

    def live(self, key: str) -> LiveTenant | NotLive:
        """What is in memory, or the error that says why it does not answer."""
        found = self.find(key)
        if isinstance(found, str):
            tenant = tenant_of(key)
            return OverloadedError(f"tenant {tenant}'s adapter is not in memory", retry_after_s=1)
        return found

    def candidate(self, tenant: str) -> Candidate | None:
        """The candidate that may answer: not one that is refused, withdrawn or not proven yet."""
        candidate = self.candidates.get(tenant)
        if candidate is None or self.bundles.get(key_of(tenant, "canary")) != candidate.bundle:
            return None
        return candidate

    def bundle_id(self, key: str) -> str | None:
        """The bundle that is served, or withdrawn, under the key."""
        recalled = self.recalled.get(key)
        return recalled.bundle_id if recalled else self.bundles.get(key)

    def serving(self, name: str) -> tuple[str, ...]:
        """Keys under which the version of this name is served."""
        return tuple(
            key
            for key, bundle_id in self.bundles.items()
            if name.startswith(f"tenants/{tenant_of(key)}/") and name.endswith(f"/{bundle_id[:64]}")
        )

    @property
    def num_tenants(self) -> int:
        """Tenants whose live bundle is served."""
        return len(self.bundles) - self._num_candidates(self.bundles)

    @property
    def num_withdrawn(self) -> int:
        """Tenants whose live bundle is not served because its version was withdrawn."""
        return len(self.recalled) - self._num_candidates(self.recalled)

    def _num_candidates(self, keys: Mapping[str, object]) -> int:
        return sum(key_of(tenant, "canary") in keys for tenant in self.candidates)

    def _why_not(self, key: str) -> UnknownTenantError | WithdrawnError:
        tenant = tenant_of(key)
        if key in self.recalled:
            return WithdrawnError(f"{self.recalled[key].name} is withdrawn")
        if key == tenant:
            return UnknownTenantError(f"tenant {tenant} has no live adapter")
        if tenant in self.candidates:
            return NoCandidateError(f"tenant {tenant}'s candidate is refused, or not loaded yet")
        return NoCandidateError(f"tenant {tenant} has no candidate")
