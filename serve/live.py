"""What is served at one moment: tenants in memory, tenants that could be, and the withdrawn.

Every live tenant is known by its bundle's id, which costs little; its adapter and FAQs are in
memory for as long as there is room. Everything here is immutable.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from adapterdistill.adapters import AdapterStack
from adapterdistill.confidence import Calibration
from adapterdistill.data.schema import Faq
from adapterdistill.distill.forms import ServedForm
from adapterdistill.errors import OverloadedError, UnknownTenantError, WithdrawnError
from adapterdistill.manifest import FormKind, Manifest
from serve.adapter_bank import Slot
from serve.drift import Drift
from serve.faq_index import FaqIndex

NotLive = UnknownTenantError | WithdrawnError | OverloadedError
"""Why a tenant is not answered; the last where it is live and not in memory."""
ServedAs = FormKind | Literal["adapter"]
"""What a tenant is served by: its adapter, or a cheaper form of it."""


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
    """Those in memory."""
    bundles: Mapping[str, str]
    """Every live tenant's bundle id, in memory or not; not those of the withdrawn."""
    recalled: Mapping[str, Recalled]
    withdrawn: frozenset[str]
    """Names of versions that are not to be served."""

    def find(self, tenant: str) -> LiveTenant | str | UnknownTenantError | WithdrawnError:
        """The tenant in memory, or the id of its bundle, or the error that says why neither."""
        if tenant in self.recalled:
            return WithdrawnError(f"{self.recalled[tenant].name} is withdrawn")
        return (
            self.tenants.get(tenant)
            or self.bundles.get(tenant)
            or UnknownTenantError(f"tenant {tenant} has no live adapter")
        )

    def live(self, tenant: str) -> LiveTenant | NotLive:
        """The tenant in memory, or the error that says why it is not answered."""
        found = self.find(tenant)
        if isinstance(found, str):
            return OverloadedError(f"tenant {tenant}'s adapter is not in memory", retry_after_s=1)
        return found

    def bundle_id(self, tenant: str) -> str | None:
        """The bundle that is live or withdrawn for the tenant."""
        recalled = self.recalled.get(tenant)
        return recalled.bundle_id if recalled else self.bundles.get(tenant)
