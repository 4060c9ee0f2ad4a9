"""An owner's pages of releases: what is live, what is tried beside it, and how that goes."""

import re
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from adapterdistill.console.owner import Owner
from adapterdistill.console.pages import Pages, see
from adapterdistill.console.watching import bearer
from adapterdistill.errors import ConfigError, ServingError
from adapterdistill.manifest import BUNDLE_ID_PATTERN
from adapterdistill.serving.http import get
from adapterdistill.store import release as releases

_DONE = {
    "tried": "The bundle is tried now. Running endpoints follow within about a second.",
    "promote": "The candidate is live now. Running endpoints follow within about a second.",
    "drop": "The candidate is no longer tried.",
    "rollback": "The bundle that was live before is live again.",
}
_MODES: dict[str, releases.Mode] = {"canary": "canary", "shadow": "shadow"}


def add_releases(router: APIRouter, owner: Owner, pages: Pages) -> None:
    """Add the pages of releases, and the changes that `adapterdistill release` makes."""

    @router.get("/releases")
    def tenants(request: Request) -> Response:
        shown = []
        for tenant in owner.tenants():
            try:
                shown.append((tenant, owner.release(tenant), ""))
            except ServingError as error:
                shown.append((tenant, None, str(error)))
        return pages.page(request, "releases", tenants=shown)

    @router.get("/releases/{tenant}")
    def tenant(request: Request, tenant: str, done: str = "") -> Response:
        owner.require(tenant)
        release = owner.release(tenant)
        bundles = [] if release is None else releases.bundles_of(owner.store, tenant)
        figures, fault = _figures(owner, tenant) if release else (None, "")
        return pages.page(
            request,
            "release",
            tenant=tenant,
            release=release,
            bundles=bundles,
            figures=figures,
            fault=fault,
            serving=owner.serving,
            done=_DONE.get(done, ""),
        )

    @router.post("/releases/{tenant}/try")
    def put_up(request: Request, tenant: str) -> Response:
        owner.require(tenant)
        form = request.scope["form"]
        mode = _MODES.get(form.get("mode", ""))
        if mode is None:
            raise ConfigError("choose canary or shadow")
        bundle_id = form.get("bundle", "")
        if re.fullmatch(BUNDLE_ID_PATTERN[1:-1], bundle_id) is None:
            raise ConfigError("choose one of the tenant's bundles")
        share = _share(form.get("percent", ""))
        releases.put_up(owner.store, tenant, bundle_id, mode=mode, share=share)
        return see(f"/releases/{tenant}?done=tried")

    @router.post("/releases/{tenant}/promote")
    def promote(tenant: str) -> Response:
        owner.require(tenant)
        releases.promote(owner.store, tenant)
        return see(f"/releases/{tenant}?done=promote")

    @router.post("/releases/{tenant}/drop")
    def drop(tenant: str) -> Response:
        owner.require(tenant)
        releases.drop(owner.store, tenant)
        return see(f"/releases/{tenant}?done=drop")

    @router.post("/releases/{tenant}/rollback")
    def roll_back(tenant: str) -> Response:
        owner.require(tenant)
        releases.roll_back(owner.store, tenant)
        return see(f"/releases/{tenant}?done=rollback")


def _share(percent: str) -> float:
    """A share of the requests, from the percentage in a form."""
    try:
        return float(percent) / 100
    except ValueError:
        raise ConfigError("the share of requests must be a number from 0 to 100") from None


def _figures(owner: Owner, tenant: str) -> tuple[dict[str, Any] | None, str]:
    """What the endpoint says of the tenant, or why it says nothing."""
    if owner.serving is None:
        return None, ""
    try:
        answer = get(owner.serving, f"/v1/tenants/{tenant}", bearer(owner.token))
        body = answer.json()
        if answer.is_success:
            return dict(body), ""
        return None, f"the endpoint answered: {body['message']}"
    except ServingError as error:
        return None, str(error)
    except (ValueError, KeyError, TypeError):
        return None, f"{owner.serving} is not an AdapterDistill server"
