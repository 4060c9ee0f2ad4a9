"""A history: what callers asked and were answered, what the audit log says, what watches told."""

from dataclasses import dataclass, field
from typing import Literal

from adapterdistill.manifest import VersionRef
from adapterdistill.registry.access import Consent
from adapterdistill.registry.wire import adapter_name

CallKind = Literal["publish", "withdraw", "consent", "fetch", "list", "describe"]
OK, UNKNOWN = "ok", "unknown"
OPERATOR = "operator"


@dataclass(frozen=True)
class Effect:
    """One change, as the audit log names it."""

    kind: str
    name: str
    """Name of the version, or of the adapter whose consent changed."""
    detail: str = ""
    """The reason of a withdrawal, the names in a consent: no two requests have the same."""


@dataclass(frozen=True)
class Line:
    """A line of the audit log that tells of a change that was made."""

    revision: int
    caller: str
    effect: Effect


@dataclass(frozen=True)
class Call:
    """One call, with the time in seconds at which it began and was answered."""

    caller: str
    """A tenant, or OPERATOR."""
    kind: CallKind
    name: str
    """Name of a version; of an adapter for `consent`; of a tenant for `list`."""
    began_s: float
    ended_s: float
    """Infinite where no answer came."""
    answer: str
    """OK, UNKNOWN, or the reason of the refusal."""
    effect: Effect | None = None
    """What it asks for. Calls that repeat a request ask for the same effect."""
    seen: frozenset[str] = frozenset()
    """The versions that a list has; the state and the consent that `describe` answers."""
    certificate: int = 0
    """Which of the caller's certificates it used."""


@dataclass(frozen=True)
class Told:
    """One event that a watch told."""

    at_s: float
    revision: int
    kind: str
    name: str
    certificate: int = 0


@dataclass(frozen=True)
class Revocation:
    """The revocation of a caller's certificate."""

    caller: str
    certificate: int
    began_s: float
    ended_s: float


@dataclass(frozen=True)
class Adapter:
    """What an upload declares."""

    teachers: tuple[str, ...] = ()
    consent: Consent = frozenset()
    """Counts for the first version of an adapter only."""


@dataclass
class Incarnation:
    """What happened between two restorations."""

    calls: list[Call] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    told: dict[str, list[Told]] = field(default_factory=dict)
    """What the watch of each caller told, in order."""
    kills: list[float] = field(default_factory=list)
    """Times at which the registry was killed: watches begin anew."""
    kept: int = 0
    """Lines that it took from the backup."""
    restored: int = 0
    """Lines that it began with: those of the backup, and those that were made again."""
    backup: tuple[float, float] = (0.0, 0.0)
    """When the backup that it was restored from began and ended."""


@dataclass
class History:
    incarnations: list[Incarnation] = field(default_factory=lambda: [Incarnation()])
    uploads: dict[str, Adapter] = field(default_factory=dict)
    """Every version that was published or may have been, by name."""
    revocations: list[Revocation] = field(default_factory=list)


def adapter_of(name: str) -> str:
    """Name the adapter of a version."""
    ref = VersionRef.parse(name)
    return adapter_name(ref.tenant, ref.adapter)


def tenant_of(name: str) -> str:
    """Name the tenant of a version or an adapter."""
    return name.split("/")[1]
