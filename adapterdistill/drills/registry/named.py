"""Drills of the way to a registry that somebody runs: they read what it has and write nothing."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path

from adapterdistill.drills.drill import Outcome, seconds_until
from adapterdistill.drills.named import Named
from adapterdistill.drills.registry.acknowledged import fetch_findings
from adapterdistill.drills.registry.calls import Way, way_to
from adapterdistill.errors import NotFoundError
from adapterdistill.manifest import Manifest

_DOWNLOADS = 3
_LOOKED_AT = 1000
Known = list[tuple[Manifest, bytes]]
"""Some of what the registry has, smallest first."""


def drop_rpc(named: Named, draw: random.Random) -> Outcome:
    """Reset connections in the middle of downloads, and refuse them for a while."""
    recovery_s: list[float] = []
    findings: list[str] = []
    with _way(named, draw) as (way, known):

        def fetch(manifest: Manifest, payload: bytes) -> None:
            findings.extend(fetch_findings(way.client, manifest, payload))

        for manifest, payload in known:
            passed_bytes = draw.randrange(len(payload))
            seconds, uncut = way.cut_after(passed_bytes, partial(fetch, manifest, payload))
            recovery_s.append(seconds)
            findings += uncut
        findings += way.refuse(manifest.ref)
        recovery_s.append(seconds_until(lambda: way.client.get(manifest.ref)))
    return Outcome(max(recovery_s), tuple(findings))


def slow_rpc(named: Named, draw: random.Random) -> Outcome:
    """Slow everything down: patient clients get right answers, hasty ones their error in time."""
    with _way(named, draw) as (way, known):
        manifest, payload = known[0]
        way.proxy.slow_down(draw.uniform(0.02, 0.1))
        findings = [*fetch_findings(way.client, manifest, payload)]
        findings += way.stand_still(manifest.ref)
        findings += fetch_findings(way.direct, manifest, payload)  # others are not held up
        way.proxy.speed_up()
        recovery_s = seconds_until(lambda: way.client.get(manifest.ref))
        findings += fetch_findings(way.client, manifest, payload)
    return Outcome(recovery_s, tuple(findings))


@contextmanager
def _way(named: Named, draw: random.Random) -> Iterator[tuple[Way, Known]]:
    """Raises NotFoundError if the registry has nothing for this caller, and as its client does."""
    assert named.registry is not None
    credentials = named.registry.credentials and Path(named.registry.credentials)
    address, timeout_s = named.registry.resolve(), named.registry.timeout_s
    with way_to(address, credentials or None, timeout_s=timeout_s) as way:
        listed = list(islice(way.direct.list(), _LOOKED_AT))
        if not listed:
            raise NotFoundError("the registry has no adapter for these credentials to fetch")
        chosen = draw.sample(listed, min(_DOWNLOADS, len(listed)))
        yield way, [way.direct.fetch(m.ref) for m in sorted(chosen, key=lambda m: m.payload_bytes)]
