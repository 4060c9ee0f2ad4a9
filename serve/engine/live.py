"""One moment's serving state: tenants in memory, tenants that can be loaded, and withdrawals.

Every live tenant is known by its bundle's id, which costs little; its adapter and FAQs are in
memory while there is room. Everything here is immutable.

Everything served has a key: the live bundle's key is its tenant's name, the candidate's is
`TENANT@canary`, which is no valid tenant name. A candidate is loaded and evicted like any tenant.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from adapterdistill.confidence import Calibration
from adapterdistill.data.schema import Faq
from adapterdistill.distill.method import Variant
from adapterdistill.errors import (
    NoCandidateError,
    OverloadedError,
    UnknownTenantError,
    WithdrawnError,
)
from adapterdistill.manifest import Manifest, VariantKind
from adapterdistill.serve.engine.adapter_bank import AdapterBank, Slot
from adapterdistill.serve.engine.drift import Drift
from adapterdistill.serve.engine.faq_index import Index
from adapterdistill.store.release import Candidate

NotLive = UnknownTenantError | WithdrawnError | OverloadedError
"""Why a tenant is not answered; OverloadedError: it is live but not in memory."""
VariantName = VariantKind | Literal["adapter"]
"""What a tenant is served by: its adapter, or a variant (a cheaper model made from it)."""
Alias = Literal["live", "canary"]
"""Which of a tenant's bundles answers: the live one, or the candidate in either mode."""


def key_of(tenant: str, alias: Alias) -> str:
    return tenant if alias == "live" else f"{tenant}@{alias}"


def tenant_of(key: str) -> str:
    return key.partition("@")[0]


@dataclass(frozen=True, eq=False)
class LiveTenant:
    """One bundle in memory. While somebody holds it, its slot is not reused."""

    bundle_id: str
    manifest: Manifest
    bank: AdapterBank
    """The bundle's encoder, with the adapters on it. Nothing else reads this tenant's texts."""
    served: Slot | Variant
    """The adapter's place in the bank, or the variant that is served instead of it."""
    index: Index
    faqs: tuple[Faq, ...]
    threshold: float
    calibration: Calibration | None
    drift: Drift
    """Counts of its answers; the only part that changes."""

    @property
    def variant(self) -> VariantName:
        return "adapter" if isinstance(self.served, Slot) else self.served.settings.kind

    def confidence(self, top_score: float) -> float | None:
        """P(the best FAQ is right); None: the bundle has no calibration."""
        return None if self.calibration is None else self.calibration.confidence(top_score)


@dataclass(frozen=True)
class Withdrawal:
    """A bundle that is not served because its version was withdrawn."""

    bundle_id: str
    name: str
    """Name of the version."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Everything that a batch needs, at one moment. Holding it keeps its slots from reuse."""

    tenants: Mapping[str, LiveTenant]
    """Tenants in memory, each with its encoder's bank. This and the next two are by key."""
    bundles: Mapping[str, str]
    """Ids of all served bundles, in memory or not; withdrawn ones are not among them."""
    withdrawals: Mapping[str, Withdrawal]
    withdrawn: frozenset[str]
    """Names of the versions that must not be served."""
    candidates: Mapping[str, Candidate]
    """Candidates in the store by tenant, refused and withdrawn ones among them."""

    def find(self, key: str) -> LiveTenant | str | UnknownTenantError | WithdrawnError:
        """The tenant in memory, the id of its bundle, or the error that says why it is not
        served."""
        tenant = tenant_of(key)
        if key != tenant and tenant not in self.bundles:
            return self._why_not(tenant)  # without a live bundle its candidate is not served either
        if key != tenant and self.candidate(tenant) is None:
            return self._why_not(key)
        return self.tenants.get(key) or self.bundles.get(key) or self._why_not(key)

    def live(self, key: str) -> LiveTenant | NotLive:
        """The tenant in memory, or the error that says why it does not answer."""
        found = self.find(key)
        if isinstance(found, str):
            tenant = tenant_of(key)
            return OverloadedError(f"tenant {tenant}'s adapter is not in memory", retry_after_s=1)
        return found

    def candidate(self, tenant: str) -> Candidate | None:
        """The candidate that may answer; None: there is none, or it is refused, withdrawn or
        unproven."""
        candidate = self.candidates.get(tenant)
        if candidate is None or self.bundles.get(key_of(tenant, "canary")) != candidate.bundle:
            return None
        return candidate

    def bundle_id(self, key: str) -> str | None:
        """Id of the bundle that is served, or withdrawn, under the key."""
        withdrawal = self.withdrawals.get(key)
        return withdrawal.bundle_id if withdrawal else self.bundles.get(key)

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
        return len(self.withdrawals) - self._num_candidates(self.withdrawals)

    def _num_candidates(self, keys: Mapping[str, object]) -> int:
        return sum(key_of(tenant, "canary") in keys for tenant in self.candidates)

    def _why_not(self, key: str) -> UnknownTenantError | WithdrawnError:
        tenant = tenant_of(key)
        if key in self.withdrawals:
            return WithdrawnError(f"{self.withdrawals[key].name} is withdrawn")
        if key == tenant:
            return UnknownTenantError(f"tenant {tenant} has no live adapter")
        if tenant in self.candidates:
            return NoCandidateError(f"tenant {tenant}'s candidate is refused, or not loaded yet")
        return NoCandidateError(f"tenant {tenant} has no candidate")
