"""Drills of the way to a registry that somebody runs: what it has is read, and nothing written."""

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from adapterdistill.drills.drill import Outcome, not_refused, seconds_until
from adapterdistill.drills.named import Named
from adapterdistill.drills.registry.acknowledged import fetch_findings
from adapterdistill.errors import NotFoundError
from adapterdistill.manifest import Manifest
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.testbed.faulty_proxy import FaultyProxy

_DOWNLOADS = 3
_LOOKED_AT = 1000
_HASTY_S = 0.3
_STANDSTILL_S = 5.0
_UNAVAILABLE = "REGISTRY_UNAVAILABLE"


@dataclass(frozen=True)
class _Way:
    proxy: FaultyProxy
    """In front of the registry, on this machine: other clients do not use it."""
    client: RegistryClient
    hasty: RegistryClient
    """A client like `client`, with a short deadline."""
    direct: RegistryClient
    known: list[tuple[Manifest, bytes]]
    """Some of what the registry has, smallest first, as it came past the proxy."""


def drop_rpc(named: Named, draw: random.Random) -> Outcome:
    """Reset connections in the middle of downloads, and refuse them for a while."""
    recovery_s: list[float] = []
    findings: list[str] = []
    with _way(named, draw) as way:
        for manifest, payload in way.known:
            way.proxy.cut_after(draw.randrange(len(payload)))
            findings += fetch_findings(way.client, manifest, payload)
            if way.proxy.cut_at is None:
                findings.append("no connection was cut, so this shows nothing")
            else:
                recovery_s.append(time.monotonic() - way.proxy.cut_at)
        way.proxy.refuses = True
        way.proxy.cut()
        findings += not_refused(lambda: way.hasty.get(manifest.ref), _UNAVAILABLE)
        way.proxy.refuses = False
        recovery_s.append(seconds_until(lambda: way.client.get(manifest.ref)))
    return Outcome(max(recovery_s), tuple(findings))


def slow_rpc(named: Named, draw: random.Random) -> Outcome:
    """Slow everything down: patient clients get right answers, hasty ones their error in time."""
    with _way(named, draw) as way:
        manifest, payload = way.known[0]
        way.proxy.slow_down(draw.uniform(0.02, 0.1))
        findings = [*fetch_findings(way.client, manifest, payload)]
        way.proxy.slow_down(_STANDSTILL_S)
        began = time.monotonic()
        findings += not_refused(lambda: way.hasty.get(manifest.ref), _UNAVAILABLE)
        waited_s = time.monotonic() - began
        if waited_s > _STANDSTILL_S:
            findings.append(f"a deadline of {_HASTY_S:g} s was reported after {waited_s:.1f} s")
        findings += fetch_findings(way.direct, manifest, payload)  # others are not held up
        way.proxy.speed_up()
        recovery_s = seconds_until(lambda: way.client.get(manifest.ref))
        findings += fetch_findings(way.client, manifest, payload)
    return Outcome(recovery_s, tuple(findings))


@contextmanager
def _way(named: Named, draw: random.Random) -> Iterator[_Way]:
    """Raises NotFoundError if the registry has nothing for this caller, and as its client does."""
    assert named.registry is not None
    address = named.registry.resolve()
    credentials = named.registry.credentials and Path(named.registry.credentials)
    connect = partial(RegistryClient, credentials=credentials or None)
    with ExitStack() as opened:
        direct = opened.enter_context(connect(address, timeout_s=named.registry.timeout_s))
        listed = list(islice(direct.list(), _LOOKED_AT))
        if not listed:
            raise NotFoundError("the registry has no adapter for these credentials to fetch")
        chosen = draw.sample(listed, min(_DOWNLOADS, len(listed)))
        known = [direct.fetch(one.ref) for one in sorted(chosen, key=lambda m: m.payload_bytes)]
        proxy = opened.enter_context(FaultyProxy(address))
        # Its certificate is for its own name, not for the proxy's.
        host = address.rpartition(":")[0].strip("[]")
        through = partial(connect, proxy.address, server_name=host)
        client = opened.enter_context(through(timeout_s=named.registry.timeout_s))
        hasty = opened.enter_context(through(timeout_s=_HASTY_S))
        yield _Way(proxy, client, hasty, direct, known)
