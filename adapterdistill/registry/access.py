"""Callers, their roles, and the checks of what each role may do.

The index decides in SQL what a caller may see.

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
    """The role and name in a client certificate; an owner has the name of its tenant."""

    role: Role
    name: str

    def __str__(self) -> str:
        return f"{self.role}/{self.name}"

    @property
    def sees_all(self) -> bool:
        return self.role != "owner"


ANYONE = Caller("anyone", "anonymous")
"""The caller over plain text on loopback: one trust domain, where everybody may do everything."""


def check_owns(caller: Caller, tenant: str) -> None:
    """Check that the caller may write under the tenant's name.

    Call this before anything is looked up, so that a refusal does not tell what is stored.

    Raises:
        NotPermittedError: the caller may not.
    """
    if caller.role == "anyone" or (caller.role == "owner" and caller.name == tenant):
        return
    raise NotPermittedError(f"{caller} may not write under tenants/{tenant}")


def check_withdraws(caller: Caller, tenant: str) -> None:
    """Raise NotPermittedError unless the caller owns the tenant's adapters or is an operator."""
    if caller.role != "operator":
        check_owns(caller, tenant)


def check_operates(caller: Caller) -> None:
    """Raise NotPermittedError for owners and auditors."""
    if caller.role not in ("operator", "anyone"):
        raise NotPermittedError(f"{caller} is not an operator")


def check_fetches(caller: Caller) -> None:
    """Raise NotPermittedError for auditors, who need no payloads."""
    if caller.role == "auditor":
        raise NotPermittedError(f"{caller} may read manifests, not payloads")
