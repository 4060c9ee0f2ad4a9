"""The command `adapterdistill bench serving --http`: the real deployment under load over HTTP.

`adapterdistill serve` runs in processes of its own; this one has an engine of its own over the same
store, for comparison, and sends the load. Only the server and the load work at the same time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from adapterdistill.bench.endpoint.fairness import (
    MOST_TIMES,
    measure_capacity,
    measure_fairness,
)
from adapterdistill.bench.endpoint.report import flood_sections, speed_sections
from adapterdistill.bench.endpoint.speed import MANY, SINGLE, measure_generator, measure_speed
from adapterdistill.serve.engine.engine import Engine
from adapterdistill.testbed.encoder_options import EncoderOptions
from adapterdistill.testbed.endpoint import Endpoint, endpoint_in
from adapterdistill.testbed.environment import environment
from adapterdistill.testbed.progress import say
from adapterdistill.testbed.reporting import Part, Report, measure_parts
from adapterdistill.testbed.serving import empty_server, wait_until_proven

HAPROXY, TWO_REPLICAS, RAYS_OWN = "HAProxy", "HAProxy, two replicas", "Ray's own proxy"
_MOST_OVER_ENGINE_MS, _LEAST_PER_S, _MOST_TIMES = 2.0, 800.0, 1.3


@dataclass(frozen=True)
class Size:
    """How much is measured. 0 rounds leave that part out."""

    tenants: int
    rounds: int
    load_s: float
    """Seconds of each load in a round."""
    flood_rounds: int
    flood_s: float = 6.0
    """Seconds of each load in a round, with the flood and without."""


SIZES = {
    "tiny": Size(10, 1, 0.3, 1, 0.5),
    "quick": Size(668, 3, 2.0, 3),
    "standard": Size(668, 7, 5.0, 7),
}


def http_command(
    *,
    data: Path | None,
    out: Path,
    size: Size,
    encoder: EncoderOptions,
    threads: int,
    more: Sequence[Callable[[Endpoint], Part]] = (),
) -> Report:
    """Measure, and write http.json and http.md after each part.

    Args:
        more: makers of further parts on the same endpoint.
    """
    torch.set_num_threads(threads)
    with TemporaryDirectory() as name:
        endpoint = endpoint_in(Path(name), data, size.tenants, encoder, threads=threads)
        parts = [*_parts(endpoint, size), *(make(endpoint) for make in more)]
        figures = {
            "benchmark": "serving over HTTP",
            "environment": environment(endpoint.encoder),
            "tenants": len(endpoint.banks),
        }
        return measure_parts(out, "Serving over HTTP", figures, parts, name="http")


def _parts(endpoint: Endpoint, size: Size) -> Iterator[Part]:
    if size.rounds:
        yield Part("generator", lambda: _measure_generator(endpoint, size))
        yield Part(
            "speed",
            lambda: _measure_speeds(endpoint, size),
            speed_sections,
            speed_faults,
            speed_aims,
        )
    if size.flood_rounds:
        yield Part(
            "fairness",
            lambda: _measure_flood(endpoint, size),
            flood_sections,
            flood_faults,
            flood_aims,
        )


def _measure_generator(endpoint: Endpoint, size: Size) -> list[dict[str, Any]]:
    with empty_server() as address:
        return measure_generator(address, endpoint.banks, seconds=size.load_s)


def _measure_speeds(endpoint: Endpoint, size: Size) -> dict[str, Any]:
    engine = Engine(endpoint.encoder, endpoint.store, capacity=len(endpoint.banks))
    engine.refresh()
    found = {}
    for proxy in (HAPROXY, TWO_REPLICAS, RAYS_OWN):
        say(f"serving behind {proxy}")
        replicas = 2 if proxy == TWO_REPLICAS else 1
        with endpoint.start(haproxy=proxy != RAYS_OWN, replicas=replicas) as server:
            wait_until_proven(server.address)
            found[proxy] = measure_speed(
                server.address,
                engine,
                endpoint.banks,
                endpoint.answers,
                rounds=size.rounds,
                seconds=size.load_s,
                cpu_s=server.cpu_s,
                replicas=replicas,
            )
    return found


def _measure_flood(endpoint: Endpoint, size: Size) -> dict[str, Any]:
    say("one tenant floods")
    banks, seconds = endpoint.banks, size.flood_s
    with endpoint.start(haproxy=True, replicas=1) as server:
        wait_until_proven(server.address)
        capacity_per_s = measure_capacity(server.address, banks, seconds=seconds)
        return measure_fairness(
            server.address,
            banks,
            capacity_per_s=capacity_per_s,
            rounds=size.flood_rounds,
            seconds=seconds,
        )


def speed_aims(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for proxy, speed in found["speed"].items():
        engine = {row["queries"]: row["p50_ms"] for row in speed["engine"]}
        of = {(row["queries"], row["clients"]): row for row in speed["loads"]}
        over = round(of[SINGLE, 1]["p50_ms"] - engine[SINGLE], 3)
        per_s = of[SINGLE, 64]["requests_per_s"]
        times = round(1000 / engine[MANY] / of[MANY, 8]["requests_per_s"], 3)
        for aim, value, bound, met in (
            ("one client's p50, ms over the engine's", over, "<= 2", over <= _MOST_OVER_ENGINE_MS),
            ("64 clients, requests/s", per_s, ">= 800", per_s >= _LEAST_PER_S),
            ("requests of 32, times the engine's own time", times, "<= 1.3", times <= _MOST_TIMES),
        ):
            yield {"proxy": proxy, "aim": aim, "aimed": bound, "measured": value, "met": met}


def flood_aims(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for load in found["fairness"]["loads"]:
        yield {
            "proxy": HAPROXY,
            "aim": f"others' p95 in a flood, times without, at {load['others_share']:.0%} load",
            "aimed": f"<= {MOST_TIMES:g}",
            "measured": load["times"],
            "met": load["times"] <= MOST_TIMES,
        }


def speed_faults(found: Mapping[str, Any]) -> Iterator[str]:
    for proxy, speed in found["speed"].items():
        yield from (f"{proxy}: an answer {fault}" for fault in speed["wrong"])
        if speed["failed"]:
            yield f"{proxy}: {speed['failed']} requests failed"


def flood_faults(found: Mapping[str, Any]) -> Iterator[str]:
    for load in found["fairness"]["loads"]:
        if failed := load["others_failed"]:
            yield f"flood at {load['others_share']:.0%} load: others' requests failed: {failed}"
