"""Chooses and fetches teachers, and proves that they are what their manifests say."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from adapterdistill.actors.publishing import UNTRAINED
from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import load_proven
from adapterdistill.config import OnboardConfig
from adapterdistill.distill.rows import TenantRows, spread
from adapterdistill.errors import (
    EncoderMismatchError,
    InvalidPayloadError,
    NotFoundError,
    SignatureError,
    WithdrawnError,
)
from adapterdistill.manifest import Initialisation, SharedPrototypes
from adapterdistill.registry.answers import Summary
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.selection import Probes, by_relevance

_PROFILE_ROWS = 300
"""Number of the own texts that teachers are chosen for."""
logger = logging.getLogger(__name__)


@dataclass
class Teachers:
    """Payloads by version name, sorted by name; `refused` names those that failed the proof."""

    payloads: dict[str, bytes] = field(default_factory=dict)
    prototypes: dict[str, SharedPrototypes] = field(default_factory=dict)
    """Prototypes in the teachers' manifests, by version name."""
    inits: dict[str, Initialisation | None] = field(default_factory=dict)
    """Initialisations in the teachers' manifests, by version name."""
    refused: tuple[str, ...] = ()
    listed: int = 0
    """Adapters that these were chosen from, by their fingerprints."""

    @property
    def init(self) -> Initialisation | None:
        """The initialisation that all teachers state."""
        found = set(self.inits.values())
        return found.pop() if len(found) == 1 else None

    def refuse(self, name: str, error: Exception) -> None:
        """Leave a version out, and say why in the log."""
        self.refused += (name,)
        logger.warning("%s was refused as a teacher: %s: %s", name, type(error).__name__, error)


def rows_to_choose_by(config: OnboardConfig, rows: TenantRows) -> Sequence[Sequence[int]] | None:
    """Token ids that teachers are chosen by; None where the choice may reveal nothing of the rows.

    A private adapter names its teachers, so their choice is published with it.
    """
    if config.privacy.epsilon is not None:
        return None
    return spread(rows.held_index(), _PROFILE_ROWS).ids


def fetch_teachers(
    registry: RegistryClient,
    encoder: Encoder,
    *,
    tenant: str,
    rows: Sequence[Sequence[int]] | None,
    max_teachers: int,
    language: str | None = None,
) -> Teachers:
    """The `max_teachers` adapters of other tenants on this encoder that suit `rows` best.

    Each tenant's newest adapter counts, unless nothing trained it. Choosing happens here: the
    registry learns only which are fetched. An adapter that is not what its manifest says, or that
    fails in any other way while it is proven, is refused and named: otherwise one tenant's broken
    adapter would keep all others from joining.

    Args:
        rows: token ids of the tenant's own texts; None: these decide nothing, and adapters are
            taken in the registry's order.
        language: of the adapters that may teach; None: every language.
    """
    found = Teachers()
    if not max_teachers:
        return found
    newest: dict[str, Summary] = {}
    for summary in registry.summaries(
        encoder=encoder.ref, exclude_tenant=tenant, language=language
    ):
        newest.setdefault(summary.ref.tenant, summary)
    listed = list(newest.values())
    found.listed = len(listed)
    if not listed:
        return found
    probes = Probes(encoder)
    order = (
        range(len(listed))
        if rows is None
        else by_relevance(probes.profile(rows), [one.fingerprint for one in listed])
    )
    for place in order:
        ref = listed[place].ref
        try:
            manifest, payload = registry.fetch(ref, encoder=encoder.ref)
        except (NotFoundError, WithdrawnError):
            continue  # withdrawn, or hidden, since it was listed
        except (EncoderMismatchError, InvalidPayloadError, SignatureError) as error:
            found.refuse(ref.name, error)
            continue
        if manifest.method == UNTRAINED:
            continue
        try:
            adapter = load_proven(encoder, manifest, payload)
            if manifest.fingerprint is not None:
                probes.prove(adapter, manifest.fingerprint)
        except Exception as error:  # whatever it is, it is this adapter's fault
            found.refuse(ref.name, error)
            continue
        found.payloads[ref.name] = payload
        found.inits[ref.name] = manifest.init
        if manifest.prototypes is not None:
            found.prototypes[ref.name] = manifest.prototypes
        if len(found.payloads) == max_teachers:
            break
    found.payloads = dict(sorted(found.payloads.items()))
    return found
