"""Publishing and fetching beside copying the same files, in the same run, in turn."""

import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from adapterdistill.files import sync
from adapterdistill.manifest import sha256_hex
from adapterdistill.testbed.crowd import Crowd, tenant_name
from adapterdistill.testbed.random_adapters import Shape, adapter

LARGE = Shape(12, 1024, 160)
"""16 MB, as of a large encoder."""


def transfers(
    crowd: Crowd, folder: Path, shape: Shape, *, rounds: int, files: int, first_number: int
) -> dict[str, Any]:
    """MB/s of publishing, of fetching, and of copying the same payloads to disk, in turn.

    A copy is write and fsync of the file and of its folder, as the registry must do; the
    ratios are medians over rounds, of figures of the same round.
    """
    folder.mkdir(parents=True)
    client, number = crowd.of(0), first_number
    speeds: dict[str, list[float]] = {"copy": [], "read": [], "publish": [], "fetch": []}
    for _ in range(rounds):
        sources, made = [], []
        for _ in range(files):
            name = f"t{shape.hidden}-{number}"
            made.append(adapter(shape, number, tenant=tenant_name(0), name=name))
            sources.append(folder / name)
            sources[-1].write_bytes(made[-1][1])
            number += 1
        steps: dict[str, list[Callable[[], object]]] = {
            "copy": [partial(_copy, source) for source in sources],
            "publish": [partial(client.publish, *one) for one in made],
            "fetch": [partial(client.fetch, manifest.ref) for manifest, _ in made],
            "read": [partial(_read, source) for source in sources],
        }
        size = sum(len(payload) for _, payload in made) / 1e6
        for name, calls in steps.items():
            started = time.perf_counter()
            for call in calls:
                call()
            speeds[name].append(size / (time.perf_counter() - started))
        for source in sources:
            source.unlink()
            source.with_suffix(".copy").unlink()

    def ratio(name: str, to: str) -> float:
        pairs = zip(speeds[name], speeds[to], strict=True)
        return round(statistics.median(ours / theirs for ours, theirs in pairs), 3)

    return {
        "payload_bytes": len(made[0][1]),
        "rounds": rounds,
        "files_a_round": files,
        "mb_s": {name: round(statistics.median(values), 1) for name, values in speeds.items()},
        "publish_to_copy": ratio("publish", "copy"),
        "fetch_to_copy": ratio("fetch", "copy"),
        "fetch_to_read": ratio("fetch", "read"),
    }


def _copy(source: Path) -> None:
    target = source.with_suffix(".copy")
    with source.open("rb") as read, target.open("xb", buffering=0) as write:
        while data := read.read(1 << 20):
            write.write(data)
        os.fsync(write.fileno())
    sync(target.parent)


def _read(source: Path) -> None:
    sha256_hex(source.read_bytes())  # as a client verifies what it fetched
