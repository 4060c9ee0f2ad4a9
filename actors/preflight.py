"""Checks a run before it starts: what would stop it, what it costs and what it would publish.

It writes and publishes nothing. It asks the registry for lists only: the registry learns that the
owner looked, not which adapters the run would choose.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Literal

import torch

from adapterdistill.actors import preflight_checks as look
from adapterdistill.actors.estimate import Estimate, Listed, estimate
from adapterdistill.actors.preflight_checks import Found
from adapterdistill.actors.publishing import consent_of, privacy_of
from adapterdistill.backbone import Encoder
from adapterdistill.config import OnboardConfig
from adapterdistill.data import TenantDataset
from adapterdistill.data.schema import FAQS_FILE
from adapterdistill.distill.rows import TenantRows, tokenise
from adapterdistill.errors import AdapterDistillError
from adapterdistill.manifest import Record
from adapterdistill.registry.client.client import RegistryClient

_NAMED_TEACHERS = 10


class Check(Record):
    """One check, and its finding."""

    name: str
    status: Literal["ok", "warning", "error"]
    said: str
    reason: str | None = None
    """Reason of the error that would end the run."""


class Preflight(Record):
    """Findings about a run before it starts."""

    tenant: str
    adapter: str
    checks: tuple[Check, ...]
    counts: dict[str, int]
    """Rows, as `data describe` counts them."""
    estimate: Estimate | None
    """None if the data or the encoder are missing."""
    teachers_visible: int | None
    """Tenants whose newest adapter on this encoder may teach; None: the registry did not say."""
    teachers: tuple[str, ...]
    """The newest of them."""
    share_with: tuple[str, ...]
    """Tenants that may learn from the adapter; "*" is everyone."""
    labels: tuple[str, ...]
    privacy: str
    """Privacy statement that the manifest will hold."""

    @property
    def first_error(self) -> Check | None:
        return next((check for check in self.checks if check.status == "error"), None)


class _Checks:
    def __init__(self) -> None:
        self.made: list[Check] = []

    def make(self, name: str, find: Callable[[], Found]) -> Any:
        """Keep the check; returns the value that `find` found, None if it raised."""
        try:
            value, said, is_warning = find()
        except AdapterDistillError as error:
            self.made.append(Check(name=name, status="error", said=str(error), reason=error.reason))
            return None
        self.made.append(Check(name=name, status="warning" if is_warning else "ok", said=said))
        return value


def preflight(config: OnboardConfig) -> Preflight:
    """Look at everything that a run needs, on the owner's node.

    Errors that a user can cause become checks; none is raised.
    """
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
    dataset: TenantDataset | None = checks.make("data", lambda: look.at_data(config))
    encoder: Encoder | None = checks.make("encoder", lambda: look.at_encoder(config, dataset))
    rows: TenantRows | None = None
    if dataset is not None and encoder is not None:
        rows = tokenise(
            dataset,
            encoder,
            seed=config.training.seed,
            held_out_fraction=config.training.held_out_fraction,
        )
        checks.make("texts", lambda: look.at_texts(config, dataset, rows, encoder))
    validate_s = time.perf_counter() - started
    if config.registry.credentials is not None:
        checks.make("credentials", lambda: look.at_credentials(config))
    registry: RegistryClient | None = checks.make(
        "registry", lambda: look.at_registry(config, opened)
    )
    listed: Listed | None = None
    teachers: list[str] = []
    consent = consent_of(config)
    if registry is not None:
        holds = checks.make("name", lambda: look.at_name(config, registry, encoder))
        consent = consent if holds is None else holds
        if encoder is not None:
            found = checks.make("teachers", lambda: look.at_teachers(config, registry, encoder))
            listed, teachers = found or (None, [])
    taken = None
    if dataset is not None and encoder is not None and rows is not None:
        taken = estimate(
            config,
            encoder,
            rows,
            validate_s=validate_s,
            texts_bytes=(dataset.path / FAQS_FILE).stat().st_size,
            listed=listed or Listed(0, 0, 0.0),
        )
    checks.make("disk", lambda: look.at_disk(config, taken))
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


def on_cluster(config: OnboardConfig, *, insecure: bool = False) -> Preflight:
    """Run `preflight` on the owner's node of the running Ray cluster.

    Raises:
        ConfigError: the cluster asks for no token, and `insecure` is not set.
        PlacementError: there is no cluster, or it has no such node.
    """
    from adapterdistill.actors.onboarding import connect
    from adapterdistill.actors.placement import on_owner_node

    connect(insecure=insecure)
    report = on_owner_node(preflight, config)
    assert isinstance(report, Preflight)
    return report
