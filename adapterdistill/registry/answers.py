"""The registry's answers as plain values, without protobuf."""

from dataclasses import dataclass

from adapterdistill.manifest import Fingerprint, Manifest, VersionRef
from adapterdistill.registry.access import Consent
from adapterdistill.registry.commitments import Opening
from adapterdistill.registry.index.schema import State
from adapterdistill.registry.trust.statement import Signed


@dataclass(frozen=True)
class Published:
    """A version and its state in the registry."""

    manifest: Manifest
    state: State
    state_reason: str
    """Why it is withdrawn or in quarantine."""
    withdrawn_teacher: str
    """Name of a withdrawn version among its ancestors; empty if there is none."""
    consent: Consent | None
    """The tenants that may learn from the adapter; None if this caller may not know them."""


@dataclass(frozen=True)
class Evidence:
    """All that a version's receipt is made from, as the registry stores it: nothing is verified."""

    manifest_json: bytes
    signed: Signed | None
    """The owner's statement; None for a version that was published over plain text."""
    openings: tuple[Opening, ...]
    """The teachers that the caller may see."""


@dataclass(frozen=True)
class Summary:
    """The part of a version that choosing among many needs."""

    ref: VersionRef
    fingerprint: Fingerprint | None


@dataclass(frozen=True)
class Relative:
    """An ancestor or descendant; depth 1 is a direct teacher or student."""

    ref: VersionRef
    depth: int


@dataclass(frozen=True)
class Lineage:
    """Relatives, nearest first; `truncated` if there are more than fit in one answer."""

    ancestors: tuple[Relative, ...]
    descendants: tuple[Relative, ...]
    truncated: bool
