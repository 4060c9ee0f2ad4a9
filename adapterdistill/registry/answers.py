"""What the registry answers its clients: plain values, no protobuf."""

from dataclasses import dataclass

from adapterdistill.manifest import Fingerprint, Manifest, VersionRef
from adapterdistill.registry.access import Consent
from adapterdistill.registry.index.schema import State


@dataclass(frozen=True)
class Published:
    """A version as the registry has it."""

    manifest: Manifest
    state: State
    state_reason: str
    """Why it is withdrawn or in quarantine."""
    withdrawn_teacher: str
    """Name of a withdrawn version that it learnt from, at any depth; empty if there is none."""
    consent: Consent | None
    """Who may learn from the adapter; None: that is not for this caller to know."""


@dataclass(frozen=True)
class Summary:
    """What choosing among many versions needs of each."""

    ref: VersionRef
    fingerprint: Fingerprint | None


@dataclass(frozen=True)
class Relative:
    """An ancestor or descendant; depth 1 is a direct teacher or student."""

    ref: VersionRef
    depth: int


@dataclass(frozen=True)
class Lineage:
    """Nearest first. `truncated`: there are more than the registry tells in one answer."""

    ancestors: tuple[Relative, ...]
    descendants: tuple[Relative, ...]
    truncated: bool
