"""What `adapterdistill bench serving --http` does: the real deployment under load over HTTP.

`adapterdistill serve` runs in processes of its own; this one has an engine of its own over the same
store, for comparison, and sends the load. No two of them work at a time but server and load.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from adapterdistill.backbone import load_encoder
from adapterdistill.bench.endpoint.fairness import (
    MOST_TIMES,
    measure_capacity,
    measure_fairness,
)
from adapterdistill.bench.endpoint.report import markdown
from adapterdistill.bench.endpoint.speed import MANY, SINGLE, measure_generator, measure_speed
from adapterdistill.drills.endpoint.isolation import isolation_faults, measure_isolation
from adapterdistill.drills.endpoint.kill import measure_kill
from adapterdistill.testbed.answers import THRESHOLD, Answers
from adapterdistill.testbed.environment import environment
from adapterdistill.testbed.faq_banks import fill_store, read_banks
from adapterdistill.testbed.progress import say
from adapterdistill.testbed.random_adapters import random_adapters
from adapterdistill.testbed.serving import deployed, empty_server, wait_until_proven
from serve.engine.engine import Engine

HAPROXY, TWO_REPLICAS, RAYS_OWN = "HAProxy", "HAProxy, two replicas", "Ray's own proxy"
_MOST_OVER_ENGINE_MS, _LEAST_PER_S, _MOST_TIMES = 2.0, 800.0, 1.3


@dataclass(frozen=True)
class Size:
    """How much is measured. 0 rounds, requests or seconds leave that part out."""

    tenants: int
    rounds: int
    load_s: float
    """Of each load in a round."""
    requests: int
    """Checked while tenants change; as many more as it takes until all changes were made."""
    kill_s: float
    flood_rounds: int
    flood_s: float = 6.0
    """Of each load in a round, with the flood and without."""


SIZES = {
    "tiny": Size(10, 1, 0.3, 0, 8.0, 1, 0.5),
    "quick": Size(668, 3, 2.0, 20_000, 40.0, 3),
    "standard": Size(668, 7, 5.0, 100_000, 120.0, 7),
}


def http_command(
    *, data: Path, out: Path, size: Size, encoder: str, dtype: str, threads: int, max_tokens: int
) -> dict[str, Any]:
    """Measure; write http.json and http.md after each part; return what is in the former."""
    torch.set_num_threads(threads)
    timed = load_encoder(encoder, dtype=dtype, max_tokens=max_tokens)
    exact = load_encoder(encoder, dtype="float32", max_tokens=max_tokens)
    banks = read_banks(data, size.tenants)
    found: dict[str, Any] = {"benchmark": "serving over HTTP", "environment": environment(timed)}
    out.mkdir(parents=True, exist_ok=True)

    def part(name: str, measured: object) -> None:
        found[name] = measured
        found["aims"], found["faults"] = list(aims(found)), list(faults(found))
        (out / "http.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
        (out / "http.md").write_text(markdown(found))

    with TemporaryDirectory() as name:
        store, log = Path(name) / "store", Path(name) / "log"
        adapters = random_adapters(exact, len(banks))  # a version of its own for every tenant
        fill_store(store, banks, exact, adapters, threshold=THRESHOLD)
        answers = Answers(banks, store, timed)
        part("tenants", len(banks))
        start = partial(deployed, store, log, encoder=encoder, dtype=dtype, threads=threads)
        if size.rounds:
            with empty_server() as address:
                part("generator", measure_generator(address, banks, seconds=size.load_s))
            engine = Engine(timed, store, capacity=len(banks))
            engine.refresh()
        for proxy in (HAPROXY, TWO_REPLICAS, RAYS_OWN) if size.rounds else ():
            say(f"serving behind {proxy}")
            replicas = 2 if proxy == TWO_REPLICAS else 1
            with start(haproxy=proxy != RAYS_OWN, replicas=replicas) as server:
                wait_until_proven(server.address)
                speed = measure_speed(
                    server.address,
                    engine,
                    banks,
                    answers,
                    rounds=size.rounds,
                    seconds=size.load_s,
                    cpu_s=server.cpu_s,
                    replicas=replicas,
                )
                part("speed", found.get("speed", {}) | {proxy: speed})
        if size.flood_rounds:
            say("one tenant floods")
            with start(haproxy=True, replicas=1) as server:
                wait_until_proven(server.address)
                flood = measure_fairness(
                    server.address,
                    banks,
                    capacity_per_s=measure_capacity(server.address, banks, seconds=size.flood_s),
                    rounds=size.flood_rounds,
                    seconds=size.flood_s,
                )
                part("fairness", flood)
        if size.requests:
            behind_haproxy = partial(start, haproxy=True)
            measured = measure_isolation(
                behind_haproxy, store, banks, answers, timed, exact, requests=size.requests
            )
            part("isolation", measured)
        if size.kill_s:
            say("two replicas, of which one is killed")
            with start(haproxy=True, replicas=2) as server:
                kill = server.kill_a_replica
                part(
                    "kill",
                    measure_kill(
                        server.address, banks, answers, kill, replicas=2, seconds=size.kill_s
                    ),
                )
    return found


def aims(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every aim that the run has figures for, and whether it is met."""
    for proxy, speed in found.get("speed", {}).items():
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
    for load in found.get("fairness", {}).get("loads", ()):
        yield {
            "proxy": HAPROXY,
            "aim": f"others' p95 in a flood, times without, at {load['others_share']:.0%} load",
            "aimed": f"<= {MOST_TIMES:g}",
            "measured": load["times"],
            "met": load["times"] <= MOST_TIMES,
        }


def faults(found: Mapping[str, Any]) -> Iterator[str]:
    """What must not be, of all parts."""
    for proxy, speed in found.get("speed", {}).items():
        yield from (f"{proxy}: an answer {fault}" for fault in speed["wrong"])
        if speed["failed"]:
            yield f"{proxy}: {speed['failed']} requests failed"
    for load in found.get("fairness", {}).get("loads", ()):
        if failed := load["others_failed"]:
            yield f"flood at {load['others_share']:.0%} load: others' requests failed: {failed}"
    if isolation := found.get("isolation"):
        yield from isolation_faults(isolation)
    if kill := found.get("kill"):
        yield from (f"kill: an answer {fault}" for fault in kill["wrong"])
        if kill["failed_after_retries"]:
            yield f"kill: {kill['failed_after_retries']} requests failed for good"
