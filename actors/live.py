"""The live version competes with a later run's candidates, on rows that it was not trained on."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from adapterdistill.actors.publishing import open_registry
from adapterdistill.actors.records import Bundled
from adapterdistill.actors.run_state import runs_of
from adapterdistill.backbone import Encoder
from adapterdistill.bundle import key_of, read_bundle
from adapterdistill.config import OnboardConfig
from adapterdistill.distill.rows import ROWS_FILE, read_rows
from adapterdistill.errors import NotFoundError, ServingError
from adapterdistill.manifest import Manifest
from adapterdistill.release import live_bundle


class Live(NamedTuple):
    """The version that the tenant is served by now."""

    manifest: Manifest
    payload: bytes
    trained_on: frozenset[tuple[int, ...]]
    """Token ids of the rows of the run that made it live."""

    def has_seen(self, rows: Iterable[list[int]]) -> list[bool]:
        """Whether each row is among those that it was trained on."""
        return [tuple(ids) in self.trained_on for ids in rows]


def live_version(config: OnboardConfig, encoder: Encoder) -> Live | None:
    """The tenant's live version.

    None where nothing is live, it is of another encoder, the registry has not got it or has
    withdrawn or quarantined it, or the run that made it is not in the workspace: then nobody
    knows which rows it was trained on.
    """
    store = config.serving_store
    try:
        bundle_id = live_bundle(store, config.tenant)
        bundle = read_bundle(store, config.tenant, bundle_id, key=key_of(config.serving_key))
    except ServingError:
        return None
    manifest, made_by = bundle.manifest, _run_of(config, bundle_id)
    if made_by is None or manifest.encoder != encoder.ref or not _teaches(config, manifest):
        return None
    rows = read_rows(made_by / ROWS_FILE).train.ids
    return Live(manifest, bundle.adapter_payload, frozenset(map(tuple, rows)))


def _run_of(config: OnboardConfig, bundle_id: str) -> Path | None:
    """The folder of the run that wrote the bundle."""
    for state in runs_of(config):
        bundled = state.result(Bundled)
        if bundled is not None and bundled.bundle == bundle_id:
            return state.folder if (state.folder / ROWS_FILE).is_file() else None
    return None


def _teaches(config: OnboardConfig, manifest: Manifest) -> bool:
    with open_registry(config) as registry:
        try:
            return registry.describe(manifest.ref).state not in ("withdrawn", "quarantined")
        except NotFoundError:
            return False
