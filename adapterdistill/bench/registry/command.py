"""The command `adapterdistill bench registry`: a registry under load."""

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from adapterdistill.bench.registry.choice import add_rows, choice
from adapterdistill.bench.registry.latency import latencies, watch_latency
from adapterdistill.bench.registry.mixed import crowded
from adapterdistill.bench.registry.report import load_sections
from adapterdistill.bench.registry.speed import LARGE, transfers
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.testbed.crowd import Crowd, fill
from adapterdistill.testbed.environment import environment
from adapterdistill.testbed.random_adapters import MINILM
from adapterdistill.testbed.registry import Federation, registry_process
from adapterdistill.testbed.reporting import Part, Report, measure_parts

MAX_PUBLISHED = 10_000
_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Size:
    """How much is measured. 0 adapters leave the load out."""

    adapters: int
    """Those beyond MAX_PUBLISHED are rows of the index, without payloads."""
    calls: int
    """Timed calls of each kind."""
    watched: int
    rounds: int
    """Rounds of publishing and fetching beside copying."""
    files: int
    mixed_s: float


SIZES = {
    "tiny": Size(12, 8, 3, 1, 2, 0.5),
    "quick": Size(500, 200, 20, 5, 16, 5.0),
    "standard": Size(10_000, 2_000, 200, 9, 32, 30.0),
}


def registry_command(*, out: Path, size: Size, more: Sequence[Part] = ()) -> Report:
    """Measure, and write the report after each part.

    Args:
        more: further parts of the report.
    """
    load = Part("load", lambda: measure_load(size), load_sections, load_faults)
    figures: dict[str, Any] = {"benchmark": "registry", "environment": environment()}
    return measure_parts(out, "Registry", figures, [*([load] if size.adapters else []), *more])


def measure_load(size: Size) -> dict[str, Any]:
    """Fill a registry over mutual TLS and measure it; memory is the server's, in bytes."""
    found: dict[str, Any] = {"adapters": size.adapters}
    with TemporaryDirectory() as name:
        folder = Path(name)
        federation = Federation(folder)
        rows = max(0, size.adapters - MAX_PUBLISHED)
        if rows:
            add_rows(federation.root, rows)
        with registry_process(federation.root) as server, ExitStack() as stack:

            def connect(tenant: str) -> RegistryClient:
                credentials = federation.credentials(tenant)
                client = RegistryClient(
                    server.address, timeout_s=_TIMEOUT_S, credentials=credentials
                )
                return stack.enter_context(client)

            crowd, numbers = Crowd(connect), count()
            memory = {"at_start": server.resident_bytes()}
            published, found["fill"] = fill(crowd, size.adapters - rows)
            # The collector of this process would walk the manifests that it holds, for 0.3 s at
            # 10,000 of them, within every hundredth page that it reads.
            gc.collect()
            gc.freeze()
            memory["filled"] = server.resident_bytes()
            found["latency"] = latencies(crowd, published, size.calls)
            memory["after_single_calls"] = server.resident_bytes()
            found["watch"] = watch_latency(crowd, connect("watcher"), size.watched, 1_000_000)
            found["choice"] = choice(
                crowd.of(0),
                published[0].encoder,
                folder,
                lambda: fill(crowd, 1, first=5_000_000 + next(numbers)),
            )
            found["speed"] = [
                transfers(
                    crowd,
                    folder / f"beside-{shape.hidden}",
                    shape,
                    rounds=size.rounds,
                    files=files,
                    first_number=first_number,
                )
                for shape, files, first_number in (
                    (MINILM, size.files, 2_000_000),
                    (LARGE, max(1, size.files // 8), 3_000_000),
                )
            ]
            memory["after_transfers"] = server.resident_bytes()
            found["mixed"] = crowded(
                crowd, server, published, seconds=size.mixed_s, first_seed=10_000_000
            )
            memory |= {"after_mixed": server.resident_bytes(), "peak": server.peak_bytes()}
    return found | {"memory": memory}


def load_faults(found: Mapping[str, Any]) -> Iterator[str]:
    errors = found["load"]["mixed"]["errors"]
    yield from (f"mixed calls: {count} x {what}" for what, count in errors.items())
