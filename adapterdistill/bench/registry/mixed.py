"""64 clients that make random calls at once, of which none may fail."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from random import Random
from typing import Any

from adapterdistill.bench.registry.latency import figures
from adapterdistill.errors import AdapterDistillError
from adapterdistill.manifest import Manifest
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.testbed.crowd import TENANTS, Crowd, tenant_name
from adapterdistill.testbed.random_adapters import MINILM, adapter
from adapterdistill.testbed.registry import RegistryProcess

MIX = {"get": 40, "fetch": 25, "summaries": 5, "list": 5, "lineage": 10, "alias": 10, "publish": 5}
"""Percentage of each call."""


def crowded(
    crowd: Crowd,
    server: RegistryProcess,
    published: Sequence[Manifest],
    *,
    seconds: float,
    first_seed: int,
) -> dict[str, Any]:
    """Calls a second, milliseconds of each kind of call, and errors by kind and reason."""
    taken: dict[str, list[float]] = {kind: [] for kind in MIX}
    errors: Counter[str] = Counter()
    cpu_s, started = server.cpu_s(), time.perf_counter()
    until = started + seconds

    def work(number: int) -> None:
        caller = _Caller(number, crowd.of(number), published, first_seed + 100_000 * number)
        while time.perf_counter() < until:
            kind = caller.draw.choices(list(MIX), list(MIX.values()))[0]
            call = caller.next(kind)
            begun = time.perf_counter()
            try:
                call()
            except AdapterDistillError as error:
                errors[f"{kind}: {error.reason}"] += 1
            taken[kind].append(1000 * (time.perf_counter() - begun))

    with ThreadPoolExecutor(TENANTS) as threads:
        for finished in [threads.submit(work, number) for number in range(TENANTS)]:
            finished.result()
    wall = time.perf_counter() - started
    calls = sum(map(len, taken.values()))
    return {
        "clients": TENANTS,
        "seconds": round(wall, 1),
        "calls": calls,
        "calls_a_second": round(calls / wall, 1),
        "server_cpu_share": round((server.cpu_s() - cpu_s) / wall, 2),
        "errors": dict(errors),
        "latency": {kind: figures(values) for kind, values in taken.items() if values},
    }


class _Caller:
    """One tenant and what it calls next."""

    def __init__(
        self, number: int, client: RegistryClient, published: Sequence[Manifest], first_seed: int
    ) -> None:
        self.draw = Random(number)
        self._tenant = tenant_name(number)
        self._client = client
        self._published = published
        self._own = [one.ref for one in published if one.tenant == self._tenant]
        self._seed = first_seed

    def next(self, kind: str) -> Callable[[], object]:
        client, manifest = self._client, self.draw.choice(self._published)
        self._seed += 1
        if kind == "get":
            return lambda: client.get(manifest.ref)
        if kind == "fetch" or (kind == "alias" and not self._own):
            return lambda: client.fetch(manifest.ref)
        if kind == "lineage":
            return lambda: client.lineage(manifest.ref)
        if kind == "list":
            return lambda: list(islice(client.list(tenant=manifest.tenant), 200))
        if kind == "summaries":
            encoder = manifest.encoder
            return lambda: list(
                islice(client.summaries(encoder=encoder, exclude_tenant=self._tenant), 500)
            )
        if kind == "alias":
            own, alias = self.draw.choice(self._own), f"seed-{self._seed}"
            return lambda: client.set_alias(own, alias)
        new = adapter(MINILM, self._seed, tenant=self._tenant, name=f"seed-{self._seed}")
        return lambda: client.publish(*new)
