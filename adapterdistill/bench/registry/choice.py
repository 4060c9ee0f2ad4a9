"""Choosing teachers among many adapters: the first listing, and what changed since it was kept."""

import time
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from pathlib import Path
from random import Random
from tempfile import NamedTemporaryFile

import torch
import torch.nn.functional as F

from adapterdistill.manifest import (
    FINGERPRINT_BYTES,
    EncoderRef,
    Fingerprint,
    Manifest,
    sha256_hex,
)
from adapterdistill.registry.admission.weight_statistics import measure
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.index.database import connect, transaction
from adapterdistill.registry.index.index import Index
from adapterdistill.selection import by_relevance, probe_sha256
from adapterdistill.testbed.progress import phase
from adapterdistill.testbed.random_adapters import MINILM, adapter

_AT_ONCE = 1000
_TEACHERS = 16
_ROUNDS = 5


def add_rows(root: Path, count: int) -> list[Manifest]:
    """Add adapters without payloads, each of a tenant of its own, to a folder that is not served.

    A hundred thousand payloads would take 45 GB, and nothing that is measured on these reads them.
    """
    example, payload = adapter(MINILM, 0, tenant="crowd", name="faq")
    with NamedTemporaryFile() as file:
        file.write(payload)
        file.flush()
        statistics = measure(Path(file.name), example).canonical_json()
    draw, added = Random(2), []
    with closing(Index(connect(root))) as index, phase("adding rows", count) as done:
        for start in range(0, count, _AT_ONCE):
            with transaction(index.db):
                for number in range(start, min(start + _AT_ONCE, count)):
                    manifest = example.model_copy(
                        update={
                            "tenant": f"crowd-{number:06d}",
                            "version": sha256_hex(b"%d" % number),
                            "fingerprint": Fingerprint.of(
                                probe_sha256(), draw.randbytes(FINGERPRINT_BYTES)
                            ),
                        }
                    )
                    index.add(manifest, statistics_json=statistics)
                    added.append(manifest)
                    done()
    return added


def choice(
    client: RegistryClient, encoder: EncoderRef, folder: Path, publish: Callable[[], object]
) -> dict[str, float]:
    """Seconds to choose 16 teachers: the first time, and again after each of some publishes.

    Args:
        folder: keeps the listing; empty.
        publish: publishes an adapter.
    """
    profile = F.normalize(torch.randn(FINGERPRINT_BYTES, generator=torch.manual_seed(0)), dim=0)

    client.kept = folder / "kept"

    def chosen() -> tuple[int, float]:
        started = time.perf_counter()
        listed = [*client.summaries(encoder=encoder, exclude_tenant="newcomer")]
        order = by_relevance(profile, [one.fingerprint for one in listed])
        assert len([*islice(order, _TEACHERS)]) == min(_TEACHERS, len(listed))
        return len(listed), time.perf_counter() - started

    listed, first_s = chosen()
    again = []
    for _ in range(_ROUNDS):
        publish()
        listed, seconds = chosen()
        again.append(seconds)
    client.kept = None
    return {
        "listed": listed,
        "first_s": round(first_s, 3),
        "again_s": round(sorted(again)[len(again) // 2], 3),
        "again_worst_s": round(max(again), 3),
    }
