"""A tenant's release: which of its bundles is live, and which is tried as a candidate.

    STORE/live/TENANT.json    {"tenant": TENANT, "bundle": LIVE, "before": BUNDLE_ID,
                               "candidate": {"bundle": BUNDLE_ID, "mode": ..., "share": ...},
                               "rolled_back": [{"bundle": BUNDLE_ID, "at": TIME}]}

All but the first two may be absent. The file is replaced as a whole, so that readers see the old
or the new release, and then STORE/changed is, so that a reader of one small file knows whether any
release changed. Writers on one machine take turns, so that no change is lost; of writers on several
machines that change one tenant's release at the same moment, the last one holds.
Serving deployments follow each change within their `refresh_s`; bundles never change.
"""

import re
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, ValidationError, model_validator

from adapterdistill.errors import ConfigError, ServingError
from adapterdistill.manifest import BUNDLE_ID_PATTERN, BundleId, Name, Record, is_name
from adapterdistill.store.bundle import Place, verify_bundle
from adapterdistill.store.objects import Objects, open_objects

Mode = Literal["canary", "shadow"]
UtcTime = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
RELEASES = "live"
"""Folder of the releases in a store."""
CHANGED = "changed"
"""Key of the text that is replaced after each change of a release."""
_REMEMBERED = 20
"""Bundles that are remembered as rolled back."""


class Candidate(Record):
    """A bundle that is tried on a share of the tenant's requests.

    A `canary` answers them. A `shadow` is asked after the live bundle has answered, and the two
    answers are compared.
    """

    bundle: BundleId
    share: float = Field(ge=0, le=1)
    mode: Mode


class RolledBack(Record):
    """A bundle that was live until it was rolled back. Only a person makes it live again."""

    bundle: BundleId
    at: UtcTime


class Release(Record):
    """live/TENANT.json"""

    tenant: Name
    bundle: BundleId
    """The live bundle."""
    before: BundleId | None = Field(default=None, exclude_if=lambda value: value is None)
    """The bundle that was live before, to roll back to."""
    candidate: Candidate | None = Field(default=None, exclude_if=lambda value: value is None)
    rolled_back: tuple[RolledBack, ...] = Field(default=(), exclude_if=lambda value: not value)
    """The last first."""

    def rolled_back_at(self, bundle_id: str) -> str | None:
        """The time at which the bundle was rolled back; None: it was not."""
        return next((one.at for one in self.rolled_back if one.bundle == bundle_id), None)

    @model_validator(mode="after")
    def _another_candidate(self) -> "Release":
        if self.candidate is not None and self.candidate.bundle == self.bundle:
            raise ValueError("the candidate is the live bundle")
        return self


def release_key(tenant: str) -> str:
    """The key of a tenant's release in a store. Raises ServingError: not a tenant's name."""
    if not is_name(tenant):
        raise ServingError("not a tenant name")
    return f"{RELEASES}/{tenant}.json"


def tenants_in(store: Place) -> list[str]:
    """List the tenants that have a release, sorted. Raises StoreError: it cannot be read."""
    found = (one.key for one in open_objects(store).list(RELEASES))
    names = (key.rpartition("/")[2].removesuffix(".json") for key in found if key.endswith(".json"))
    return sorted(filter(is_name, names))


def is_there(store: Place) -> bool:
    """Whether this is a store: something was live in it once."""
    return open_objects(store).exists(CHANGED)


def locate(place: str | Path) -> tuple[Objects, str, str]:
    """The store, tenant and bundle id that a path or URI names.

    Args:
        place: STORE/TENANT, for the live bundle, or STORE/TENANT/BUNDLE_ID. Options of an object
            store stand behind it: s3://BUCKET/PREFIX/TENANT?region=REGION.

    Raises:
        ServingError: the tenant has no live bundle.
    """
    text = str(place)
    path, mark, options = text.partition("?") if "://" in text else (text, "", "")
    path = path.rstrip("/") if "://" in text else str(Path(path).absolute())
    rest, _, last = path.rpartition("/")
    bundle_id = last if re.fullmatch(BUNDLE_ID_PATTERN[1:-1], last) else None
    if bundle_id is not None:
        rest, _, last = rest.rpartition("/")
    store = open_objects(f"{rest or '/'}{mark}{options}")
    return store, last, bundle_id or live_bundle(store, last)


def bundles_of(store: Place, tenant: str) -> list[tuple[str, datetime]]:
    """List the tenant's bundles and when they were written, newest first; they are not verified.

    Raises:
        ServingError: it has none.
    """
    release_key(tenant)  # checks the name
    found = [
        (name, datetime.fromtimestamp(one.modified_ns / 1e9, UTC))
        for one in open_objects(store).list(f"bundles/{tenant}")
        if re.fullmatch(BUNDLE_ID_PATTERN[1:-1], name := one.key[-82:].removesuffix(".json"))
    ]
    if not found:
        raise ServingError(f"tenant {tenant}: no bundles")
    return sorted(found, key=lambda one: (one[1], one[0]), reverse=True)


def has_release(store: Place, tenant: str) -> bool:
    """Whether the store has a release of the tenant, good or damaged."""
    return open_objects(store).exists(release_key(tenant))


def read_release(store: Place, tenant: str) -> Release:
    """Read the tenant's release. Raises ServingError: there is none, or it is damaged."""
    objects, key = open_objects(store), release_key(tenant)
    found = objects.read(key)
    if found is None:
        raise ServingError(f"tenant {tenant}: no live bundle in {objects.where.rpartition('/')[2]}")
    try:
        release = Release.model_validate_json(found)
    except ValidationError:
        raise ServingError(f"tenant {tenant}: {key} is damaged") from None
    if release.tenant != tenant:
        raise ServingError(f"tenant {tenant}: {key} is of another tenant")
    return release


def live_bundle(store: Place, tenant: str) -> str:
    """Read the id of the tenant's live bundle. Raises ServingError like `read_release`."""
    return read_release(store, tenant).bundle


def set_live(store: Place, tenant: str, bundle_id: str) -> Release:
    """Make a bundle live and remember the previous one; begin a release if there is none.

    Raises:
        ServingError: the bundle is absent or damaged; the release then stays as it was. The
            functions below raise it likewise.
    """
    verify_bundle(store, tenant, bundle_id)
    objects = open_objects(store)
    with objects.turn(f"bundles/{tenant}"):
        try:
            now = read_release(objects, tenant)
        except ServingError:  # absent, or damaged and replaced
            return write_release(objects, Release(tenant=tenant, bundle=bundle_id))
        return now if bundle_id == now.bundle else write_release(objects, _moved(now, bundle_id))


def take_down(store: Place, tenant: str) -> None:
    """Serve the tenant no more. Its bundles stay: `set_live` brings it back."""
    objects = open_objects(store)
    objects.delete(release_key(tenant))
    objects.write(CHANGED, secrets.token_hex(16).encode())


def put_up(store: Place, tenant: str, bundle_id: str, *, mode: Mode, share: float) -> Release:
    """Try a bundle beside the live one, instead of any earlier candidate.

    Raises:
        ConfigError: `share` is outside [0, 1].
        ServingError: nothing is live, or this bundle is.
    """
    if not 0 <= share <= 1:  # also NaN
        raise ConfigError(f"share: expected a number from 0 to 1, got {share:g}")
    verify_bundle(store, tenant, bundle_id)

    def change(now: Release) -> Release:
        if bundle_id == now.bundle:
            raise ServingError(f"tenant {tenant}: this bundle is live already")
        candidate = Candidate(bundle=bundle_id, share=share, mode=mode)
        return now.model_copy(
            update={"candidate": candidate, "rolled_back": _others(now, bundle_id)}
        )

    return _change(store, tenant, change)


def promote(store: Place, tenant: str) -> Release:
    """Make the candidate live. Raises ServingError: there is none."""

    def change(now: Release) -> Release:
        bundle_id = _candidate_of(now).bundle
        verify_bundle(store, tenant, bundle_id)
        return _moved(now, bundle_id)

    return _change(store, tenant, change)


def drop(store: Place, tenant: str) -> Release:
    """Stop trying the candidate. Raises ServingError: there is none."""

    def change(now: Release) -> Release:
        _candidate_of(now)
        return now.model_copy(update={"candidate": None})

    return _change(store, tenant, change)


def roll_back(store: Place, tenant: str) -> Release:
    """Make the previous bundle live again, and remember when the live one was rolled back.

    A second rollback is refused; otherwise it would bring back the bundle that was rolled back.

    Raises:
        ServingError: nothing was live before.
    """

    def change(now: Release) -> Release:
        if now.before is None:
            raise ServingError(f"tenant {tenant}: nothing to roll back to")
        verify_bundle(store, tenant, now.before)
        moved, at = _moved(now, now.before), datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        rolled_back = (RolledBack(bundle=now.bundle, at=at), *moved.rolled_back)
        return moved.model_copy(update={"before": None, "rolled_back": rolled_back[:_REMEMBERED]})

    return _change(store, tenant, change)


def _moved(now: Release, bundle_id: str) -> Release:
    kept = now.candidate if now.candidate and now.candidate.bundle != bundle_id else None
    return Release(
        tenant=now.tenant,
        bundle=bundle_id,
        before=now.bundle,
        candidate=kept,
        rolled_back=_others(now, bundle_id),
    )


def _others(now: Release, bundle_id: str) -> tuple[RolledBack, ...]:
    """The bundles other than this one that were rolled back."""
    return tuple(one for one in now.rolled_back if one.bundle != bundle_id)


def _candidate_of(now: Release) -> Candidate:
    if now.candidate is None:
        raise ServingError(f"tenant {now.tenant}: there is no candidate")
    return now.candidate


def _change(store: Place, tenant: str, change: Callable[[Release], Release]) -> Release:
    release_key(tenant)  # checks the name
    objects = open_objects(store)
    with objects.turn(f"bundles/{tenant}"):
        return write_release(objects, change(read_release(objects, tenant)))


def write_release(store: Place, release: Release) -> Release:
    """Replace the tenant's release by one whose bundles are in the store."""
    objects = open_objects(store)
    objects.write(release_key(release.tenant), release.canonical_json())
    objects.write(CHANGED, secrets.token_hex(16).encode())
    return release
