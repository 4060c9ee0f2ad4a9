"""The live version competes with a later run's candidates, on rows that it was not trained on."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from adapterdistill.actors.publishing import open_registry
from adapterdistill.actors.records import Decided
from adapterdistill.actors.run_state import runs_of
from adapterdistill.backbone import Encoder
from adapterdistill.config import OnboardConfig
from adapterdistill.distill.rows import ROWS_FILE, read_rows
from adapterdistill.errors import NotFoundError, ServingError
from adapterdistill.manifest import Manifest
from adapterdistill.store.bundle import key_of, read_bundle
from adapterdistill.store.release import live_bundle


class Live(NamedTuple):
    """The version that the tenant is served by now."""

    manifest: Manifest
    payload: bytes
    trained_on: frozenset[tuple[int, ...]]
    """Token ids of the rows of the runs that trained it."""

    def has_seen(self, rows: Iterable[list[int]]) -> list[bool]:
        """Whether each row is among those that it was trained on."""
        return [tuple(ids) in self.trained_on for ids in rows]


def live_version(config: OnboardConfig, encoder: Encoder) -> Live | None:
    """The tenant's live version.

    None where nothing is live, it is of another encoder, the registry has not got it or has
    withdrawn or quarantined it, or the run that trained it is not in the workspace: then nobody
    knows which rows it was trained on.
    """
    store = config.serving_store
    try:
        bundle_id = live_bundle(store, config.tenant)
        bundle = read_bundle(store, config.tenant, bundle_id, key=key_of(config.serving_key))
    except ServingError:
        return None
    manifest = bundle.manifest
    rows = [*_rows_that_trained(config, manifest.version)]
    if not rows or manifest.encoder != encoder.ref or not _teaches(config, manifest):
        return None
    trained_on = frozenset(tuple(ids) for file in rows for ids in read_rows(file).train.ids)
    return Live(manifest, bundle.adapter_payload, trained_on)


def _rows_that_trained(config: OnboardConfig, version: str) -> Iterator[Path]:
    """The rows of each run whose training gave the version.

    A run in which the live version stayed has rows of its own, which did not train it.
    """
    for state in runs_of(config):
        decided, served = state.result(Decided), state.folder / "manifest.json"
        if decided is None or decided.choice == "live" or not served.is_file():
            continue
        if Manifest.from_json(served.read_bytes()).version == version:
            yield state.folder / ROWS_FILE


def _teaches(config: OnboardConfig, manifest: Manifest) -> bool:
    with open_registry(config) as registry:
        try:
            return registry.describe(manifest.ref).state not in ("withdrawn", "quarantined")
        except NotFoundError:
            return False
