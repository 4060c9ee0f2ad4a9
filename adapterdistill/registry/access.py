"""Who calls, and what each role may do. What a caller may see is decided in `index`, in SQL.

Owners publish and withdraw their own adapters, and see and fetch what consent allows. Operators see
everything, withdraw anything and release what is in quarantine. Auditors see everything but the
payloads, and change nothing.
"""

from dataclasses import dataclass
from typing import Literal

from adapterdistill.errors import NotPermittedError

Role = Literal["owner", "operator", "auditor", "anyone"]

Consent = frozenset[str]
"""The tenants that may see an adapter of another and learn from it."""
EVERYONE: Consent = frozenset({"*"})
NOBODY: Consent = frozenset()


@dataclass(frozen=True)
class Caller:
    """As the client certificate has it; the name of an owner is its tenant's."""

    role: Role
    name: str

    def __str__(self) -> str:
        return f"{self.role}/{self.name}"

    @property
    def sees_all(self) -> bool:
        return self.role != "owner"


ANYONE = Caller("anyone", "anonymous")
"""Over plain text on loopback: one trust domain, where everybody may do everything."""


def check_owns(caller: Caller, tenant: str) -> None:
    """Whether the caller may write under the tenant's name. To be asked before anything is looked
    up, so that the answer tells nothing of what is there.

    Raises:
        NotPermittedError: it may not.
    """
    if caller.role == "anyone" or (caller.role == "owner" and caller.name == tenant):
        return
    raise NotPermittedError(f"{caller} may not write under tenants/{tenant}")


def check_withdraws(caller: Caller, tenant: str) -> None:
    """Raises NotPermittedError unless the caller owns the tenant's adapters, or operates."""
    if caller.role != "operator":
        check_owns(caller, tenant)


def check_operates(caller: Caller) -> None:
    """Raises NotPermittedError for owners and auditors."""
    if caller.role not in ("operator", "anyone"):
        raise NotPermittedError(f"{caller} is no operator")


def check_fetches(caller: Caller) -> None:
    """Raises NotPermittedError for auditors, who need no payloads."""
    if caller.role == "auditor":
        raise NotPermittedError(f"{caller} may read manifests, not payloads")
