"""A listing of summaries that is kept in a file: the next one fetches only what changed since.

What this caller may no longer see stays in the file until it is a week old: fetching such a version
says that it is gone.
"""

import gc
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adapterdistill.files import write_atomically
from adapterdistill.manifest import Fingerprint, VersionRef, sha256_hex
from adapterdistill.registry import wire
from adapterdistill.registry.answers import Summary
from adapterdistill.registry.v1 import registry_pb2 as pb

KEPT_S = 7 * 24 * 3600
Kept = dict[tuple[str, str], tuple[int, Summary]]
"""Revision and summary of the newest version of each adapter."""


def read_summary(version: pb.Version) -> Summary:
    """Read a version of either view; InvalidManifestError if it is malformed."""
    return Summary(VersionRef.parse(version.name), wire.read_fingerprint(version))


def kept_listing(
    folder: Path,
    request: pb.ListVersionsRequest,
    call: Callable[[pb.ListVersionsRequest], Any],
) -> list[Summary]:
    """List what `request` asks for, newest first; `call` fetches one page.

    Args:
        folder: holds a file for each request, of the registry that was asked last; it is made if it
            is absent.

    Raises:
        InvalidManifestError: the registry sent a malformed name or fingerprint.
    """
    with _uncollected():
        return _kept_listing(folder / _name(request), request, call)


def _name(request: pb.ListVersionsRequest) -> str:
    return f"{sha256_hex(request.SerializeToString())[:16]}.json"


def _kept_listing(
    file: Path, request: pb.ListVersionsRequest, call: Callable[[pb.ListVersionsRequest], Any]
) -> list[Summary]:
    incarnation, began, kept = _read(file)
    request.filter.changed_after = max((revision for revision, _ in kept.values()), default=0)
    page = call(request)
    if page.incarnation != incarnation:
        kept, began = {}, time.time()
        if request.filter.changed_after:
            request.filter.changed_after = 0
            page = call(request)
    incarnation, changed = page.incarnation, False
    while True:
        for version in page.versions:
            if wire.read_state(version) != "active":
                continue
            one = read_summary(version)
            adapter = (one.ref.tenant, one.ref.adapter)
            changed |= kept.get(adapter) != (entry := (version.revision, one))
            kept[adapter] = entry
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
        page = call(request)
    if changed and incarnation:
        file.parent.mkdir(parents=True, exist_ok=True)
        _write(file, incarnation, began, kept)
    return [one for _, one in sorted(kept.values(), key=lambda entry: -entry[0])]


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the garbage collector from walking the new objects again and again: none is garbage."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _read(file: Path) -> tuple[str, float, Kept]:
    """Read a file that `_write` wrote; nothing if there is none, or it is old or damaged."""
    nothing: tuple[str, float, Kept] = "", time.time(), {}
    try:
        incarnation, began, rows = json.loads(file.read_bytes())
        if not 0 <= time.time() - began < KEPT_S:
            return nothing
        kept = {
            (tenant, adapter): (
                revision,
                Summary(
                    VersionRef.model_construct(tenant=tenant, adapter=adapter, version=version),
                    fingerprint
                    and Fingerprint.model_construct(
                        probe_sha256=fingerprint[0], values=fingerprint[1]
                    ),
                ),
            )
            for tenant, adapter, version, revision, fingerprint in rows
        }
    except (OSError, ValueError, TypeError):
        return nothing
    return incarnation, began, kept


def _write(file: Path, incarnation: str, began: float, kept: Kept) -> None:
    rows = [
        (
            *(one.ref.tenant, one.ref.adapter, one.ref.version, revision),
            one.fingerprint and (one.fingerprint.probe_sha256, one.fingerprint.values),
        )
        for revision, one in kept.values()
    ]
    write_atomically(file, json.dumps([incarnation, began, rows]).encode())
