"""Checks of a dry run: each returns its finding, or raises the error that would end the run."""

import os
import shutil
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from adapterdistill.actors.estimate import Estimate, Listed
from adapterdistill.actors.publishing import consent_of
from adapterdistill.actors.training.stages import require_possible
from adapterdistill.backbone import Encoder, load_configured
from adapterdistill.config import OnboardConfig
from adapterdistill.data import TenantDataset
from adapterdistill.distill.rows import TenantRows, count_cut
from adapterdistill.errors import (
    ConfigError,
    NotFoundError,
    NotPermittedError,
    RegistryUnavailableError,
)
from adapterdistill.evaluation.readability import check_readable
from adapterdistill.registry.access import EVERYONE, Consent
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.server.server import is_loopback
from adapterdistill.registry.trust.certificates import left_of
from adapterdistill.registry.trust.credentials import read_credentials
from adapterdistill.store.objects import Folder, open_objects
from adapterdistill.store.release import CHANGED
from adapterdistill.store.sealing import read_key

LIVE = "live"
"""Certificates that expire sooner are worth a warning: renewing takes an operator."""
_ASK_S = 10.0
"""Longest time of a call to the registry here: someone waits for the answer."""


class Found(NamedTuple):
    """A check's value for later checks, and its message."""

    value: Any
    said: str
    is_warning: bool = False


def at_data(config: OnboardConfig) -> Found:
    dataset = TenantDataset.open(Path(config.data))
    digest, c = dataset.digest(), dataset.counts()
    rows = f"{c['faqs']} FAQs, {c['train']} train, {c['valid']} valid, {c['test']} test"
    return Found(dataset, f"{rows}; sha256 {digest[:12]}")


def at_encoder(config: OnboardConfig, dataset: TenantDataset | None) -> Found:
    encoder = load_configured(config.encoder)
    if dataset is not None:  # the method may need the tenant's tasks
        require_possible(config, lambda: encoder, dataset.tasks)
    said = f"{encoder.ref.name}, weights {encoder.ref.weights_sha256[:12]}"
    said += f"; method {config.training.method}"
    cut = {} if dataset is None else count_cut(dataset, encoder.reader)
    if any(cut.values()):
        parts = ", ".join(f"{count} {name}" for name, count in cut.items() if count)
        said += (
            f"; of {parts} only the first {encoder.max_tokens} tokens are read: "
            "encoder.max_tokens sets how many"
        )
    return Found(encoder, said, is_warning=any(cut.values()))


def at_texts(
    config: OnboardConfig, dataset: TenantDataset, rows: TenantRows, encoder: Encoder
) -> Found:
    """Find whether the encoder reads the FAQs and tells them apart."""
    found = check_readable(dataset.faqs(), rows.index(), encoder)
    found.require()
    warnings = found.warnings(config.language)
    share = f"{100 * found.unknown_share:.1f}% of the questions' tokens are unknown"
    return Found(found, "; ".join([share, *warnings]), is_warning=bool(warnings))


def at_credentials(config: OnboardConfig) -> Found:
    folder = Path(str(config.registry.credentials))
    own = read_credentials(folder)
    if own.caller.role != "owner" or own.caller.name != config.tenant:
        raise NotPermittedError(
            f"{folder}: expected credentials of owner/{config.tenant}, these are {own.caller}'s"
        )
    own.check()
    now = datetime.now(UTC)
    said = f"{own.caller}, {left_of(own.first_to_end, now)}"
    if own.is_due(now):
        told = f"{said}: the run renews them; if it cannot, `adapterdistill owner renew {folder}`"
        return Found(own, told, is_warning=True)
    return Found(own, said)


def at_registry(config: OnboardConfig, opened: ExitStack) -> Found:
    settings = config.registry
    if settings.is_embedded:
        return Found(None, "in the workspace: only its own tenants share it")
    address = settings.resolve()
    folder = None if settings.credentials is None else Path(settings.credentials)
    client = opened.enter_context(
        RegistryClient(address, timeout_s=min(settings.timeout_s, _ASK_S), credentials=folder)
    )
    client.require_reachable(settings.start_timeout_s)
    started = time.perf_counter()
    if not client.health():
        next(client.list(tenant=config.tenant), None)  # raises what is wrong
        raise RegistryUnavailableError(f"registry {address} answers, but says it is not ready")
    said = f"{address} is ready, answered in {1000 * (time.perf_counter() - started):.0f} ms"
    plain = folder is None and not is_loopback(address.rpartition(":")[0].strip("[]"))
    if plain:
        return Found(client, f"{said}; in plain text, beyond this machine", is_warning=True)
    return Found(client, f"{said}; {'plain text' if folder is None else 'mutual TLS'}")


def at_name(config: OnboardConfig, registry: RegistryClient, encoder: Encoder | None) -> Found:
    """Find the consent that will hold: a published adapter keeps its own."""
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


def at_teachers(config: OnboardConfig, registry: RegistryClient, encoder: Encoder) -> Found:
    started = time.perf_counter()
    found = registry.summaries(
        encoder=encoder.ref, exclude_tenant=config.tenant, language=config.teachers.language
    )
    tenants = [summary.ref.tenant for summary in found]
    newest = dict.fromkeys(tenants)
    listed = Listed(len(tenants), len(newest), time.perf_counter() - started)
    chosen = min(config.teachers.max_teachers, len(newest))
    said = f"{len(newest)} visible, {chosen} will be chosen"
    return Found((listed, list(newest)), said)


def at_disk(config: OnboardConfig, taken: Estimate | None) -> Found:
    needs = {
        config.workspace: 0 if taken is None else taken.workspace_bytes,
    }
    store = open_objects(config.serving_store)
    if isinstance(store, Folder):
        needs[str(store.path)] = 0 if taken is None else taken.serving_bytes
    else:
        store.read(CHANGED)  # raises, if it is out of reach
    if config.serving_key is not None:
        read_key(Path(config.serving_key))
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
