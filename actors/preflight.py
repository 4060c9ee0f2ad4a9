"""A run looked at before it starts: what would stop it, what it will take, and what it will tell.

Nothing is written and nothing is published. The registry is asked for lists only: it learns that
the owner looked, not which adapters the run would choose.
"""

import os
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import torch

from actors.estimate import Estimate, Listed, estimate
from actors.publishing import consent_of, privacy_of
from actors.training_stages import require_possible_form
from adapterdistill.backbone import Encoder, load_encoder
from adapterdistill.config import OnboardConfig
from adapterdistill.data import TenantDataset
from adapterdistill.data.schema import FAQS_FILE
from adapterdistill.errors import (
    AdapterDistillError,
    ConfigError,
    NotFoundError,
    NotPermittedError,
    RegistryUnavailableError,
)
from adapterdistill.evaluation.rows import TenantRows, tokenise
from adapterdistill.manifest import Record
from adapterdistill.registry.access import EVERYONE, Consent
from adapterdistill.registry.client import RegistryClient
from adapterdistill.registry.credentials import read_credentials
from adapterdistill.registry.server import is_loopback

T = TypeVar("T")
_RENEW_WITHIN = timedelta(days=30)
"""Certificates that expire sooner are worth a warning: renewing takes an operator."""
_ASK_S = 10.0
"""That a call to the registry may take here: who asks waits for the answer."""
_NAMED_TEACHERS = 10
LIVE = "live"


class Check(Record):
    """One thing looked at, and what was found."""

    name: str
    status: Literal["ok", "warning", "error"]
    said: str
    reason: str | None = None
    """Of the error with which the run would end."""


class Preflight(Record):
    """What is known of a run before it starts."""

    tenant: str
    adapter: str
    checks: tuple[Check, ...]
    counts: dict[str, int]
    """Rows, as `data describe` counts them."""
    estimate: Estimate | None
    """None where the data or the encoder are not there."""
    teachers_visible: int | None
    """Tenants whose newest adapter on this encoder may teach; None: the registry did not say."""
    teachers: tuple[str, ...]
    """The newest of them."""
    share_with: tuple[str, ...]
    """Tenants that may learn from the adapter; "*" is everyone."""
    labels: tuple[str, ...]
    privacy: str
    """What the manifest will say."""

    @property
    def first_error(self) -> Check | None:
        return next((check for check in self.checks if check.status == "error"), None)


class Found(NamedTuple):
    """What a check gives on, and what it says."""

    value: Any
    said: str
    is_warning: bool = False


class _Checks:
    def __init__(self) -> None:
        self.made: list[Check] = []

    def make(self, name: str, look: Callable[[], Found]) -> Any:
        """What `look` found, None if it raised."""
        try:
            value, said, is_warning = look()
        except AdapterDistillError as error:
            self.made.append(Check(name=name, status="error", said=str(error), reason=error.reason))
            return None
        self.made.append(Check(name=name, status="warning" if is_warning else "ok", said=said))
        return value


def preflight(config: OnboardConfig) -> Preflight:
    """Look at everything that a run needs, on the owner's node. Raises nothing that a user can
    cause: it is told as a check."""
    checks = _Checks()
    threads = torch.get_num_threads()
    torch.set_num_threads(config.training.threads)
    try:
        with ExitStack() as opened:
            return _look(config, checks, opened)
    finally:
        torch.set_num_threads(threads)


def _look(config: OnboardConfig, checks: _Checks, opened: ExitStack) -> Preflight:
    started = time.perf_counter()
    dataset: TenantDataset | None = checks.make("data", lambda: _data(config))
    encoder: Encoder | None = checks.make("encoder", lambda: _encoder(config, dataset))
    validate_s = time.perf_counter() - started
    if config.registry.credentials is not None:
        checks.make("credentials", lambda: _credentials(config))
    registry: RegistryClient | None = checks.make("registry", lambda: _registry(config, opened))
    listed: Listed | None = None
    teachers: list[str] = []
    consent = consent_of(config)
    if registry is not None:
        holds = checks.make("name", lambda: _name(config, registry, encoder))
        consent = consent if holds is None else holds
        if encoder is not None:
            found = checks.make("teachers", lambda: _teachers(config, registry, encoder))
            listed, teachers = found or (None, [])
    taken = None
    if dataset is not None and encoder is not None:
        rows: TenantRows = tokenise(
            dataset,
            encoder,
            seed=config.training.seed,
            held_out_fraction=config.training.held_out_fraction,
        )
        taken = estimate(
            config,
            encoder,
            rows,
            validate_s=validate_s,
            texts_bytes=(dataset.path / FAQS_FILE).stat().st_size,
            listed=listed or Listed(0, 0, 0.0),
        )
    checks.make("disk", lambda: _disk(config, taken))
    return Preflight(
        tenant=config.tenant,
        adapter=config.adapter,
        checks=tuple(checks.made),
        counts={} if dataset is None else dataset.counts(),
        estimate=taken,
        teachers_visible=None if listed is None else listed.tenants,
        teachers=tuple(teachers[:_NAMED_TEACHERS]),
        share_with=tuple(sorted(consent)),
        labels=config.registry.labels,
        privacy=privacy_of(config),
    )


def _data(config: OnboardConfig) -> Found:
    dataset = TenantDataset.open(Path(config.data))
    digest, c = dataset.digest(), dataset.counts()
    rows = f"{c['faqs']} FAQs, {c['train']} train, {c['valid']} valid, {c['test']} test"
    return Found(dataset, f"{rows}; sha256 {digest[:12]}")


def _encoder(config: OnboardConfig, dataset: TenantDataset | None) -> Found:
    encoder = load_encoder(**config.encoder.model_dump())
    if dataset is not None:  # what the method makes may need the tenant's tasks
        require_possible_form(config, lambda: encoder, dataset.tasks)
    said = f"{encoder.ref.name}, weights {encoder.ref.weights_sha256[:12]}"
    return Found(encoder, f"{said}; method {config.training.method}")


def _credentials(config: OnboardConfig) -> Found:
    folder = Path(str(config.registry.credentials))
    own = read_credentials(folder)
    if own.caller.role != "owner" or own.caller.name != config.tenant:
        raise NotPermittedError(
            f"{folder}: expected credentials of owner/{config.tenant}, these are {own.caller}'s"
        )
    own.check()
    certificates = (own.certificate, own.signing_certificate)
    expires = min(one.not_valid_after_utc for one in certificates)
    left = expires - datetime.now(UTC)
    said = f"{own.caller}, until {expires:%Y-%m-%d} ({left.days} days)"
    if left < _RENEW_WITHIN:
        return Found(own, f"{said}: have them renewed", is_warning=True)
    return Found(own, said)


def _registry(config: OnboardConfig, opened: ExitStack) -> Found:
    settings = config.registry
    address = settings.resolve()
    folder = None if settings.credentials is None else Path(settings.credentials)
    client = opened.enter_context(
        RegistryClient(address, timeout_s=min(settings.timeout_s, _ASK_S), credentials=folder)
    )
    started = time.perf_counter()
    if not client.health():
        next(client.list(tenant=config.tenant), None)  # raises what is wrong
        raise RegistryUnavailableError(f"registry {address} answers, but says it is not ready")
    said = f"{address} is ready, answered in {1000 * (time.perf_counter() - started):.0f} ms"
    plain = folder is None and not is_loopback(address.rpartition(":")[0].strip("[]"))
    if plain:
        return Found(client, f"{said}; in plain text, beyond this machine", is_warning=True)
    return Found(client, f"{said}; {'plain text' if folder is None else 'mutual TLS'}")


def _name(config: OnboardConfig, registry: RegistryClient, encoder: Encoder | None) -> Found:
    """Gives the consent that will hold: that of a published adapter stays."""
    name = f"{config.tenant}/{config.adapter}"
    published = [
        manifest
        for manifest in registry.list(tenant=config.tenant)
        if manifest.adapter == config.adapter
    ]
    if not published:
        return Found(consent_of(config), f"{name} is free: this will be its first version")
    newest = published[0]
    holds = registry.describe(newest.ref).consent
    consent = consent_of(config) if holds is None else holds
    said = f"{name} is published as {newest.version[:12]}; {_alias(config, registry)}"
    if encoder is not None and newest.encoder.weights_sha256 != encoder.ref.weights_sha256:
        other = f"{newest.encoder.name} ({newest.encoder.weights_sha256[:12]})"
        said = f"{said}; that version is on another encoder, {other}: give another adapter's name"
        return Found(consent, said, is_warning=True)
    if consent != consent_of(config):
        said = (
            f"{said}; share_with does not change a published adapter's consent, "
            f"{_names(consent)}: adapterdistill registry consent does"
        )
        return Found(consent, said, is_warning=True)
    return Found(consent, said)


def _alias(config: OnboardConfig, registry: RegistryClient) -> str:
    try:
        ref, _ = registry.resolve_alias(config.tenant, config.adapter, LIVE)
    except NotFoundError:
        return f"no alias {LIVE}"
    return f"alias {LIVE} is {ref.version[:12]}"


def _names(consent: Consent) -> str:
    return "everyone" if consent == EVERYONE else ", ".join(sorted(consent)) or "nobody"


def _teachers(config: OnboardConfig, registry: RegistryClient, encoder: Encoder) -> Found:
    started = time.perf_counter()
    found = registry.summaries(encoder=encoder.ref, exclude_tenant=config.tenant)
    tenants = [summary.ref.tenant for summary in found]
    newest = dict.fromkeys(tenants)
    listed = Listed(len(tenants), len(newest), time.perf_counter() - started)
    chosen = min(config.teachers.max_teachers, len(newest))
    said = f"{len(newest)} visible, {chosen} will be chosen"
    return Found((listed, list(newest)), said)


def _disk(config: OnboardConfig, taken: Estimate | None) -> Found:
    needs = {
        config.workspace: 0 if taken is None else taken.workspace_bytes,
        config.serving_store: 0 if taken is None else taken.serving_bytes,
    }
    of_device: dict[int, int] = {}
    said = []
    for folder, need in needs.items():
        place = _existing(Path(folder))
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            raise ConfigError(f"{folder}: cannot be written ({place} is there)")
        device = place.stat().st_dev
        of_device[device] = of_device.get(device, 0) + need
        free = shutil.disk_usage(place).free
        if free < of_device[device]:
            raise ConfigError(
                f"{folder}: the run needs {mebibytes(of_device[device])} there, "
                f"{mebibytes(free)} are free"
            )
        said.append(f"{folder}: {mebibytes(need)} of {mebibytes(free)} free")
    return Found(None, "; ".join(said))


def _existing(path: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(place for place in (path, *path.parents) if place.exists())


def mebibytes(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"


def on_cluster(config: OnboardConfig) -> Preflight:
    """The same on the owner's node of the Ray cluster at hand.

    Raises:
        PlacementError: there is no cluster, or it has no such node.
    """
    from actors.onboarding import connect
    from actors.placement import on_owner_node

    connect()
    report = on_owner_node(preflight, config)
    assert isinstance(report, Preflight)
    return report
