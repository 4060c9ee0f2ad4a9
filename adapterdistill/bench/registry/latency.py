"""Latency of single calls among many adapters, and of the events that a watcher receives."""

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import cycle, islice
from random import Random
from typing import Any

from adapterdistill.errors import RegistryUnavailableError
from adapterdistill.manifest import EncoderRef, Manifest, VersionRef
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.testbed.crowd import FAMOUS, TENANTS, Crowd, tenant_name
from adapterdistill.testbed.random_adapters import MINILM, adapter

_EVENT_TIMEOUT_S = 30.0


def latencies(crowd: Crowd, published: Sequence[Manifest], calls: int) -> dict[str, Any]:
    """Milliseconds of single calls by one client at a time, among all the adapters."""
    draw = Random(1)
    chosen = [draw.choice(published).ref for _ in range(calls)]
    aliased = chosen[: max(1, calls // 4)]
    for ref in set(aliased):
        crowd.of(_number(ref)).set_alias(ref, "live")
    clients = cycle(range(TENANTS))
    newest = published[-1]
    listing, summaries = _pages(crowd.of(0)), _summary_pages(crowd.of(0), newest.encoder)
    steps: dict[str, Callable[[VersionRef], Any]] = {
        "list, a page of 200 manifests": lambda _ref: next(listing),
        "list, a page of 500 summaries": lambda _ref: next(summaries),
        "get": lambda ref: crowd.of(next(clients)).get(ref),
        "resolve an alias": lambda _ref: _resolve(crowd.of(next(clients)), draw.choice(aliased)),
        "set an alias": lambda ref: crowd.of(_number(ref)).set_alias(ref, f"x{draw.random():.9f}"),
        "lineage of a student": lambda ref: crowd.of(next(clients)).lineage(ref),
        "lineage of a teacher of hundreds": lambda _ref: crowd.of(0).lineage(
            published[draw.randrange(min(FAMOUS, len(published)))].ref
        ),
        "fetch": lambda ref: crowd.of(next(clients)).fetch(ref),
    }
    found = {}
    for name, step in steps.items():
        slow = name.startswith(("list", "lineage of a teacher"))
        taken = [_timed(step, ref) for ref in chosen[: calls // 4 if slow else calls]]
        found[name] = figures(taken)
    return found


def _number(ref: VersionRef) -> int:
    return int(ref.adapter[1:])


def _resolve(client: RegistryClient, ref: VersionRef) -> None:
    assert client.resolve_alias(ref.tenant, ref.adapter, "live")[0] == ref


def _pages(client: RegistryClient) -> Iterator[int]:
    """One page a step, again from the newest after the last. The client asks for 200 a page."""
    while True:
        listing = client.list()
        while page := list(islice(listing, 200)):
            yield len(page)


def _summary_pages(client: RegistryClient, encoder: EncoderRef) -> Iterator[int]:
    while True:
        listing = client.summaries(encoder=encoder, exclude_tenant="newcomer")
        while page := list(islice(listing, 500)):
            yield len(page)


def _timed(step: Callable[[Any], Any], argument: Any) -> float:
    started = time.perf_counter()
    step(argument)
    return 1000 * (time.perf_counter() - started)


def figures(values: Sequence[float]) -> dict[str, float]:
    """Milliseconds; p99 of fewer than 100 values is their highest."""
    ordered = sorted(values)
    return {
        "calls": len(ordered),
        "p50_ms": round(statistics.median(ordered), 3),
        "p99_ms": round(ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], 3),
    }


def watch_latency(
    crowd: Crowd, client: RegistryClient, calls: int, first_number: int
) -> dict[str, Any]:
    """Milliseconds from the begin and the end of a publish until a watcher has its event.

    The watcher first receives all events since the registry began.

    Args:
        client: the watcher's; it is closed.
    """
    watcher = _Watcher(client)
    from_begin, from_end, publishes = [], [], []
    for number in range(first_number, first_number + calls + 1):
        manifest, payload = adapter(
            MINILM, number, tenant=tenant_name(number), name=f"a{number:05d}"
        )
        begun = time.perf_counter()
        crowd.of(number).publish(manifest, payload)
        ended = time.perf_counter()
        seen = watcher.wait_for(manifest.ref.name)
        publishes.append(1000 * (ended - begun))
        from_begin.append(1000 * (seen - begun))
        from_end.append(1000 * (seen - ended))
    watcher.stop()
    return {  # without the first, which waited for all that happened before
        "publish": figures(publishes[1:]),
        "publish's begin to the watcher": figures(from_begin[1:]),
        "publish's end to the watcher": figures(from_end[1:]),
    }


class _Watcher:
    """Notes when each event arrived."""

    def __init__(self, client: RegistryClient) -> None:
        self._seen: dict[str, float] = {}
        self._arrived = threading.Condition()
        self._client = client
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        with suppress(RegistryUnavailableError):  # the client is closed
            for change in self._client.watch():
                with self._arrived:
                    self._seen[change.name] = time.perf_counter()
                    self._arrived.notify_all()

    def wait_for(self, name: str) -> float:
        with self._arrived:
            if not self._arrived.wait_for(lambda: name in self._seen, _EVENT_TIMEOUT_S):
                raise AssertionError("the watcher missed an event")
            return self._seen[name]

    def stop(self) -> None:
        self._client.close()
        self._thread.join()
