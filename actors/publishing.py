"""Publishes the chosen adapter: its manifest, consent and privacy statement."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from adapterdistill.actors.privacy.statement import membership_metrics, membership_stated
from adapterdistill.actors.training.stages import initialisation
from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import golden_vectors, tensor_specs, unpack_adapter
from adapterdistill.config import OnboardConfig
from adapterdistill.errors import NotFoundError
from adapterdistill.evaluation.membership import Membership
from adapterdistill.evaluation.report import Choice
from adapterdistill.files import write_file
from adapterdistill.manifest import (
    Initialisation,
    Manifest,
    Metric,
    SharedPrototypes,
    VersionRef,
    sha256_hex,
)
from adapterdistill.registry.access import EVERYONE, NOBODY, Consent
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.client.renewal import keep_renewed
from adapterdistill.registry.server.embedded import embedded_registry
from adapterdistill.selection import Probes
from adapterdistill.software import installed, software

EMBEDDED_REGISTRY = ".registry"
"""Folder of the workspace with its own registry; no tenant's name begins with a dot."""
PRIVACY = (
    "Trained on the owner's rows on the owner's node; rows were not shared. No differential "
    "privacy: the weights may reveal something of the rows."
)
UNTRAINED = "untrained"
"""Method of an adapter that no row and no teacher trained: it teaches nobody."""
UNTRAINED_PRIVACY = (
    "No row trained it: the weights are random numbers near identity and reveal nothing of the "
    "owner's rows. Its metrics on held-out rows are shared."
)
PROTOTYPES_SHARED = (
    " Prototypes are shared: the mean embedding of each class in each domain of one task's "
    "training rows, with their numbers and the classes' names; the mean of few rows reveals these. "
)


def build_manifest(
    config: OnboardConfig,
    encoder: Encoder,
    payload: bytes,
    *,
    choice: Choice,
    metrics: Mapping[str, Metric],
    teachers: tuple[str, ...],
    prototypes: SharedPrototypes | None = None,
    taught_from: Initialisation | None = None,
    membership: Membership | None = None,
) -> Manifest:
    """The manifest of the chosen adapter, with its metrics on held-out rows.

    Args:
        payload: the adapter as it is published.
        metrics: of the chosen candidate on held-out rows.
        teachers: version names of those that taught the student; an own adapter has none.
        prototypes: of the tenant's task, where it shares them.
        taught_from: the initialisation that all teachers go back to, if it is known.
        membership: what an audit of its training found.
    """
    taught = choice in ("distilled", "averaged")
    return describe(
        config,
        encoder,
        payload,
        # The variant that a run may also make is not published.
        method=_method(choice, config),
        metrics={f"held_out_{name}": metric for name, metric in metrics.items()}
        | membership_metrics(membership),
        teachers=teachers if taught else (),
        privacy=_privacy(
            None if prototypes is None else prototypes.noise,
            weights=UNTRAINED_PRIVACY
            if choice == "bare"
            else PRIVACY + membership_stated(membership),
        ),
        prototypes=prototypes,
        init=initialisation(config, encoder, choice, taught_from),
    )


def describe(
    config: OnboardConfig,
    encoder: Encoder,
    payload: bytes,
    *,
    method: str,
    privacy: str,
    metrics: Mapping[str, Metric] | None = None,
    teachers: tuple[str, ...] = (),
    prototypes: SharedPrototypes | None = None,
    init: Initialisation | None = None,
) -> Manifest:
    """A manifest of the payload: what the config, the payload and these arguments say."""
    adapter = unpack_adapter(payload)
    return Manifest(
        tenant=config.tenant,
        adapter=config.adapter,
        version=sha256_hex(payload),
        payload_bytes=len(payload),
        kind="bottleneck",
        language=config.language,
        encoder=encoder.ref,
        tensors=tensor_specs(adapter),
        method=method,
        config_sha256=config.digest(),
        seed=config.training.seed,
        metrics=dict(metrics or {}),
        teachers=teachers,
        privacy=privacy,
        labels=config.registry.labels,
        golden=golden_vectors(encoder, adapter),
        fingerprint=Probes(encoder).fingerprint(adapter),
        prototypes=prototypes,
        init=init,
        software=software(),
    )


def _method(choice: Choice, config: OnboardConfig) -> str:
    match choice:
        case "own":
            return "own_adapter"
        case "bare":
            return UNTRAINED
        case "averaged":
            return "averaged_teachers"
        case "distilled":
            return config.student_method
        case "live":
            raise ValueError("a live version has its manifest already")


def privacy_of(config: OnboardConfig) -> str:
    """The privacy statement of the run's manifest, if rows or teachers make its adapter."""
    return _privacy(config.noise)


def _privacy(noise: float | None, weights: str = PRIVACY) -> str:
    """Say what may be learned from the weights, and from prototypes.

    Args:
        noise: of the prototypes; None: none are shared.
    """
    if noise is None:
        return weights
    if not noise:
        return f"{weights}{PROTOTYPES_SHARED}No noise was added."
    return (
        f"{weights}{PROTOTYPES_SHARED}Gaussian noise was added, its standard deviation {noise:g} "
        "times what one row can move a mean by."
    )


def consent_of(config: OnboardConfig) -> Consent:
    """Tenants that may learn from the adapter."""
    match config.registry.share_with:
        case "everyone":
            return EVERYONE
        case "nobody":
            return NOBODY
        case tenants:
            return frozenset(tenants)


@contextmanager
def open_registry(config: OnboardConfig) -> Iterator[RegistryClient]:
    """A client of the run's registry, until the block is left."""
    settings = config.registry
    folder = None if settings.credentials is None else Path(settings.credentials)
    with ExitStack() as opened:
        if settings.is_embedded:
            root = Path(config.workspace) / EMBEDDED_REGISTRY
            address = opened.enter_context(embedded_registry(root))
        else:
            address = settings.resolve()
        if folder is not None:
            keep_renewed(address, folder)
        client = RegistryClient(address, timeout_s=settings.timeout_s, credentials=folder)
        yield opened.enter_context(client)


def require_registry(config: OnboardConfig) -> None:
    """Check that the run's registry can be reached, before anything is trained.

    Raises:
        RegistryUnavailableError, UnauthenticatedError: it cannot.
    """
    if not config.registry.is_embedded:
        with open_registry(config) as registry:
            registry.require_reachable(config.registry.start_timeout_s)


def publish_once(config: OnboardConfig, manifest: Manifest, payload: bytes) -> tuple[Manifest, str]:
    """Publish the version unless it is there; returns its manifest and its state.

    The same weights may have been published by a run with other settings or rows: a version keeps
    its first manifest.
    """
    with open_registry(config) as registry:
        try:
            manifest = registry.get(manifest.ref)
        except NotFoundError:
            _keep_software_list(Path(config.workspace) / config.tenant)
            registry.publish(manifest, payload, consent=consent_of(config))
        return manifest, registry.describe(manifest.ref).state


def _keep_software_list(folder: Path) -> None:
    """Write the list whose digest the manifest has, in the tenant's folder of the workspace."""
    listed = installed()
    write_file(folder / "software" / f"{sha256_hex(listed)}.txt", listed)


def is_published(config: OnboardConfig, name: str) -> bool:
    """Whether the registry has the version: false for another or an empty registry."""
    with open_registry(config) as registry:
        try:
            registry.get(VersionRef.parse(name))
        except NotFoundError:
            return False
        return True
