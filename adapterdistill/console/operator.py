"""An operator's pages: tenants, versions, quarantine, audit log and metrics. No text of a tenant.

Nothing here reads a bundle, a workspace or a tenant's data: what is shown comes from the registry,
its audit log, and what the endpoint says of itself.
"""

from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from fastapi import APIRouter, Request
from fastapi.responses import Response

from adapterdistill.console.lineage import picture, read_lineage
from adapterdistill.console.pages import Link, Pages, see
from adapterdistill.console.watching import Figure, Health, figures_of, health_of
from adapterdistill.errors import (
    AdapterDistillError,
    ConfigError,
    NotFoundError,
    RegistryUnavailableError,
    UnauthenticatedError,
)
from adapterdistill.manifest import VersionRef, is_name
from adapterdistill.registry.answers import Published
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.upkeep.audit_verify import LOG, examine, read_public_key

LINKS = (
    Link("/", "Tenants"),
    Link("/versions", "Versions"),
    Link("/quarantine", "Quarantine"),
    Link("/audit", "Audit log"),
    Link("/metrics", "Metrics"),
)
MOST = 200
"""Rows of one page."""
_TIMEOUT_S = 5.0
_START_TIMEOUT_S = 0.5
_DONE = {
    "withdrawn": "The version is withdrawn for ever. What learnt from it is marked.",
    "released": "The version is released from quarantine: it may teach now.",
}


@dataclass(frozen=True)
class Operator:
    """Places of an operator's services and files; None: the console was not told."""

    registry: str | None = None
    """HOST:PORT"""
    credentials: Path | None = None
    root: Path | None = None
    """The registry's folder, or a backup: its audit log is read."""
    public_keys: tuple[Path, ...] = ()
    """Copies of the registry's audit/public.pem that were kept elsewhere."""
    metrics: str | None = None
    """Address of the registry's metrics."""
    serving: str | None = None
    token: str | None = None
    """The operator's token for the endpoint."""

    @contextmanager
    def client(self) -> Iterator[RegistryClient]:
        """Connect to the registry. Raises ConfigError: the console was not told which."""
        if self.registry is None:
            raise ConfigError("the console does not know the registry: start it with --registry")
        with RegistryClient(
            self.registry,
            timeout_s=_TIMEOUT_S,
            credentials=self.credentials,
            start_timeout_s=_START_TIMEOUT_S,
        ) as client:
            yield client

    def doubt(self) -> str:
        """Why the registry cannot be reached now; empty if it can be, or none was named."""
        if self.registry is None:
            return ""
        try:
            with self.client() as client:
                client.require_reachable(_START_TIMEOUT_S)
        except (RegistryUnavailableError, UnauthenticatedError) as error:
            return str(error)
        return ""


class _Tenant(NamedTuple):
    name: str
    adapters: int
    newest: Published
    health: Health


def add_operator(router: APIRouter, operator: Operator, pages: Pages) -> None:
    """Add all pages of an operator, and the changes that `adapterdistill registry` makes."""

    @router.get("/")
    def tenants(request: Request, first: int = 0) -> Response:
        newest: dict[str, Published] = {}
        adapters: Counter[str] = Counter()
        with operator.client() as client:
            for one in client.describe_all():
                newest.setdefault(one.manifest.tenant, one)
                adapters[one.manifest.tenant] += 1
        named = sorted(newest)
        shown = named[max(first, 0) : max(first, 0) + MOST]
        health = dict.fromkeys(shown, Health("unknown", ""))
        if operator.serving is not None:
            health = health_of(operator.serving, shown, operator.token)
        rows = [_Tenant(name, adapters[name], newest[name], health[name]) for name in shown]
        return pages.page(
            request,
            "tenants",
            rows=rows,
            total=len(named),
            next=first + MOST,
            of=_of_tenants(operator),
            serving=operator.serving,
        )

    @router.get("/versions")
    def versions(request: Request, tenant: str = "") -> Response:
        if tenant and not is_name(tenant):
            raise ConfigError("not a tenant name: expected lower-case letters, digits, . _ and -")
        with operator.client() as client:
            listed = client.describe_all(tenant=tenant or None, latest_only=False)
            found = [*islice(listed, MOST + 1)]
        return pages.page(
            request,
            "versions",
            found=found[:MOST],
            more=len(found) > MOST,
            tenant=tenant,
            most=MOST,
        )

    @router.get("/versions/{tenant}/{adapter}/{version}")
    def version(
        request: Request, tenant: str, adapter: str, version: str, done: str = ""
    ) -> Response:
        ref = _ref(tenant, adapter, version)
        with operator.client() as client:
            found = client.describe(ref)
            lineage = read_lineage(client, ref)
        return pages.page(
            request,
            "version",
            ref=ref,
            found=found,
            lineage=lineage,
            picture=picture(lineage),
            done=_DONE.get(done, ""),
        )

    @router.post("/versions/{tenant}/{adapter}/{version}/withdraw")
    def withdraw(request: Request, tenant: str, adapter: str, version: str) -> Response:
        """What `adapterdistill registry withdraw` does."""
        ref = _ref(tenant, adapter, version)
        reason = request.scope["form"].get("reason", "").strip()
        if not reason:
            raise ConfigError("give the reason: the registry shows it to everyone who asks")
        with operator.client() as client:
            client.withdraw(ref, reason)
        return see(f"{_path(ref)}?done=withdrawn")

    @router.post("/versions/{tenant}/{adapter}/{version}/release")
    def release(tenant: str, adapter: str, version: str) -> Response:
        """What `adapterdistill registry release-from-quarantine` does."""
        ref = _ref(tenant, adapter, version)
        with operator.client() as client:
            client.release_from_quarantine(ref)
        return see(f"{_path(ref)}?done=released")

    @router.get("/quarantine")
    def quarantine(request: Request) -> Response:
        with operator.client() as client:
            listed = client.describe_all(latest_only=False)
            found = [one for one in listed if one.state == "quarantined"]
        return pages.page(request, "quarantine", found=found)

    @router.get("/audit")
    def audit(request: Request) -> Response:
        """What `adapterdistill registry audit verify` and `show` print."""
        if operator.root is None:
            raise ConfigError(
                "the console does not know the registry's folder: start it with --root"
            )
        newest: deque[dict[str, Any]] = deque(maxlen=MOST)
        keys = [read_public_key(one) for one in operator.public_keys]
        folders = (operator.root / "audit" / LOG, operator.root / LOG)
        log = next((one for one in folders if one.is_file()), folders[0])
        found = examine(log, trusted=keys or None, visit=newest.append)
        return pages.page(
            request, "audit", found=found, newest=[*reversed(newest)], trusted=bool(keys)
        )

    @router.get("/metrics")
    def metrics(request: Request) -> Response:
        shown = [
            ("Registry", "--metrics", *_figures(operator.metrics, None)),
            ("Endpoint", "--serving", *_figures(operator.serving, operator.token)),
        ]
        return pages.page(request, "metrics", shown=shown)


def _figures(address: str | None, token: str | None) -> tuple[list[Figure] | None, str]:
    """The metrics at an address, None without one; and why there are none."""
    if address is None:
        return None, ""
    try:
        return figures_of(address, token), ""
    except AdapterDistillError as error:
        return [], str(error)


def _of_tenants(operator: Operator) -> dict[str, dict[str, float]]:
    """The metrics of single tenants, which an operator's token opens: by tenant and name."""
    found: dict[str, dict[str, float]] = {}
    for figure in _figures(operator.serving, operator.token)[0] or []:
        labels = dict(part.partition(" ")[::2] for part in figure.labels.split(", "))
        if figure.name.startswith("tenant_") and "tenant" in labels:
            found.setdefault(labels["tenant"], {})[figure.name] = figure.value
    return found


def _ref(tenant: str, adapter: str, version: str) -> VersionRef:
    try:
        return VersionRef.parse(f"tenants/{tenant}/adapters/{adapter}/versions/{version}")
    except AdapterDistillError:
        raise NotFoundError("there is no such version") from None


def _path(ref: VersionRef) -> str:
    return f"/versions/{ref.tenant}/{ref.adapter}/{ref.version}"
