"""Many tenants' clients of one registry, and the thousands of adapters that they publish.

The registry is filled by publishes like any other; nothing is written past its interface.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from random import Random

from adapterdistill.manifest import Manifest
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.testbed.progress import phase
from adapterdistill.testbed.random_adapters import MINILM, adapter

TENANTS = 64
FAMOUS = 100
"""The oldest adapters, which are teachers of the later ones."""
_TEACHERS = 8
_FILLERS = 8


def tenant_name(number: int) -> str:
    return f"tenant-{number % TENANTS:02d}"


class Crowd:
    """One client a tenant; each is a channel of its own."""

    def __init__(self, connect: Callable[[str], RegistryClient]) -> None:
        self._clients = [connect(tenant_name(number)) for number in range(TENANTS)]

    def of(self, number: int) -> RegistryClient:
        return self._clients[number % TENANTS]


def fill(crowd: Crowd, count: int, first: int = 0) -> tuple[list[Manifest], dict[str, float]]:
    """Publish `count` adapters of MiniLM size; all but the oldest learnt from eight of these.

    Their numbers begin at `first`.
    """
    famous = min(FAMOUS, count)
    published: list[Manifest] = []
    numbers, lock = iter(range(first + famous, first + count)), threading.Lock()
    started = time.perf_counter()
    with phase("publishing adapters", count) as done:
        for number in range(first, first + famous):
            published.append(_publish(crowd, number, ()))
            done()
        teachers = [manifest.ref.name for manifest in published]

        def work() -> None:
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                chosen = tuple(Random(number).sample(teachers, min(_TEACHERS, len(teachers))))
                manifest = _publish(crowd, number, chosen)
                with lock:
                    published.append(manifest)
                    done()

        with ThreadPoolExecutor(_FILLERS) as threads:
            for finished in [threads.submit(work) for _ in range(_FILLERS)]:
                finished.result()
    seconds = time.perf_counter() - started
    total = sum(manifest.payload_bytes for manifest in published)
    return published, {"seconds": seconds, "payload_bytes": total, "mb_s": total / seconds / 1e6}


def _publish(crowd: Crowd, number: int, teachers: tuple[str, ...]) -> Manifest:
    manifest, payload = adapter(
        MINILM, number, tenant=tenant_name(number), name=f"a{number:05d}", teachers=teachers
    )
    return crowd.of(number).publish(manifest, payload)
