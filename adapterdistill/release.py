"""A tenant's release: which of its bundles is live, and which is tried as a candidate.

    STORE/TENANT/live.json    {"tenant": TENANT, "bundle": LIVE, "before": BUNDLE_ID,
                               "candidate": {"bundle": BUNDLE_ID, "mode": ..., "share": ...},
                               "rolled_back": [{"bundle": BUNDLE_ID, "at": TIME}]}

All but the first two may be absent. The file is replaced as a whole, so that readers see the old
or the new release. Writers take turns by a lock on the tenant's folder, so that no change is lost.
Serving deployments follow each change within their `refresh_s`; bundles never change.
"""

import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, ValidationError, model_validator

from adapterdistill.bundle import read_bundle, tenant_folder, turn
from adapterdistill.errors import ConfigError, ServingError
from adapterdistill.files import replace_file
from adapterdistill.manifest import BUNDLE_ID_PATTERN, BundleId, Name, Record, is_name

Mode = Literal["canary", "shadow"]
UtcTime = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
_FILE = "live.json"
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
    """live.json"""

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


def tenants_in(store: Path) -> list[str]:
    """List the tenants that have a release, sorted. Raises ServingError if `store` is no folder."""
    try:
        names = sorted(entry.name for entry in os.scandir(store) if entry.is_dir())
    except OSError as error:
        raise ServingError(f"bundle store cannot be read: {error.strerror}") from None
    return [name for name in names if is_name(name) and (store / name / _FILE).is_file()]


def locate(path: Path) -> tuple[Path, str, str]:
    """The store, tenant and bundle id that a path names.

    Args:
        path: STORE/TENANT, for the live bundle, or STORE/TENANT/versions/ID.

    Raises:
        ServingError: the tenant has no live bundle.
    """
    path = path.absolute()
    if path.parent.name == "versions":
        return path.parents[2], path.parents[1].name, path.name
    return path.parent, path.name, live_bundle(path.parent, path.name)


def bundles_of(store: Path, tenant: str) -> list[tuple[str, datetime]]:
    """List the tenant's bundles and when they were written, newest first; they are not verified.

    Raises:
        ServingError: it has none, or they cannot be read.
    """
    try:
        found = [
            (entry.name, datetime.fromtimestamp(entry.stat().st_mtime, UTC))
            for entry in os.scandir(tenant_folder(store, tenant) / "versions")
            if re.fullmatch(BUNDLE_ID_PATTERN[1:-1], entry.name)
        ]
    except OSError as error:
        raise ServingError(f"tenant {tenant}: no bundles ({error.strerror})") from None
    return sorted(found, key=lambda one: (one[1], one[0]), reverse=True)


def read_release(store: Path, tenant: str) -> Release:
    """Read the tenant's release. Raises ServingError: there is none, or it is damaged."""
    try:
        release = Release.model_validate_json((tenant_folder(store, tenant) / _FILE).read_bytes())
    except OSError as error:
        why = "" if isinstance(error, FileNotFoundError) else f" ({error.strerror})"
        raise ServingError(
            f"tenant {tenant}: no live bundle in {store.absolute().name}{why}"
        ) from None
    except ValidationError:
        raise ServingError(f"tenant {tenant}: {_FILE} is damaged") from None
    if release.tenant != tenant:
        raise ServingError(f"tenant {tenant}: {_FILE} is of another tenant")
    return release


def live_bundle(store: Path, tenant: str) -> str:
    """Read the id of the tenant's live bundle. Raises ServingError like `read_release`."""
    return read_release(store, tenant).bundle


def set_live(store: Path, tenant: str, bundle_id: str) -> Release:
    """Make a bundle live and remember the previous one; begin a release if there is none.

    Raises:
        ServingError: the bundle is absent or damaged; the release then stays as it was. The
            functions below raise it likewise.
    """
    read_bundle(store, tenant, bundle_id)
    with turn(store, tenant):
        try:
            now = read_release(store, tenant)
        except ServingError:  # absent, or damaged and replaced
            return _write(store, Release(tenant=tenant, bundle=bundle_id))
        return now if bundle_id == now.bundle else _write(store, _moved(now, bundle_id))


def put_up(store: Path, tenant: str, bundle_id: str, *, mode: Mode, share: float) -> Release:
    """Try a bundle beside the live one, instead of any earlier candidate.

    Raises:
        ConfigError: `share` is outside [0, 1].
        ServingError: nothing is live, or this bundle is.
    """
    if not 0 <= share <= 1:  # also NaN
        raise ConfigError(f"share: expected a number from 0 to 1, got {share:g}")
    read_bundle(store, tenant, bundle_id)

    def change(now: Release) -> Release:
        if bundle_id == now.bundle:
            raise ServingError(f"tenant {tenant}: this bundle is live already")
        candidate = Candidate(bundle=bundle_id, share=share, mode=mode)
        return now.model_copy(
            update={"candidate": candidate, "rolled_back": _others(now, bundle_id)}
        )

    return _change(store, tenant, change)


def promote(store: Path, tenant: str) -> Release:
    """Make the candidate live. Raises ServingError: there is none."""

    def change(now: Release) -> Release:
        bundle_id = _candidate_of(now).bundle
        read_bundle(store, tenant, bundle_id)
        return _moved(now, bundle_id)

    return _change(store, tenant, change)


def drop(store: Path, tenant: str) -> Release:
    """Stop trying the candidate. Raises ServingError: there is none."""

    def change(now: Release) -> Release:
        _candidate_of(now)
        return now.model_copy(update={"candidate": None})

    return _change(store, tenant, change)


def roll_back(store: Path, tenant: str) -> Release:
    """Make the previous bundle live again, and remember when the live one was rolled back.

    A second rollback is refused; otherwise it would bring back the bundle that was rolled back.

    Raises:
        ServingError: nothing was live before.
    """

    def change(now: Release) -> Release:
        if now.before is None:
            raise ServingError(f"tenant {tenant}: nothing to roll back to")
        read_bundle(store, tenant, now.before)
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


def _change(store: Path, tenant: str, change: Callable[[Release], Release]) -> Release:
    with turn(store, tenant):
        return _write(store, change(read_release(store, tenant)))


def _write(store: Path, release: Release) -> Release:
    """Replace the tenant's release. The caller has the tenant's turn."""
    try:
        replace_file(tenant_folder(store, release.tenant) / _FILE, release.canonical_json())
    except OSError as error:
        raise ServingError(
            f"tenant {release.tenant}: {_FILE} cannot be written: {error.strerror}"
        ) from None
    return release
