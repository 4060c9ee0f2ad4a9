"""The sections of the report of serving over HTTP."""

from collections.abc import Iterator, Mapping
from typing import Any

from adapterdistill.testbed.reporting import counts, table, table_of


def speed_sections(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"## Speed, {found['tenants']} tenants mixed"
    head = ("server", "queries", "clients", "requests/s", "p50 ms", "p95", "p99", "in replica")
    rows: list[tuple[object, ...]] = [
        ("empty handler", "-", g["clients"], g["requests_per_s"], *_times(g), "-")
        for g in found["generator"]
    ]
    for proxy, speed in found["speed"].items():
        rows += [
            (f"engine beside {proxy}", e["queries"], "-", e["calls_per_s"], *_times(e), "-")
            for e in speed["engine"]
        ]
        rows += [
            (proxy, w["queries"], w["clients"], w["requests_per_s"], *_times(w), w["in_replica_ms"])
            for w in speed["loads"]
        ]
    yield table(head, rows)
    yield "## Where the time goes"
    yield table_of(
        (
            {**load, "proxy": proxy, "spent": _spent(load["processor_ms_per_request"])}
            for proxy, speed in found["speed"].items()
            for load in speed["loads"]
        ),
        {
            "proxy": "{proxy}",
            "queries": "{queries}",
            "clients": "{clients}",
            "a batch ms": "{engine_batch_ms}",
            "its queries": "{queries_in_a_batch}",
            "engine busy": "{engine_busy}",
            "processor ms": "{spent}",
        },
    )


def _times(of: Mapping[str, float]) -> tuple[float, float, float]:
    return of["p50_ms"], of["p95_ms"], of["p99_ms"]


def _spent(of: Mapping[str, float]) -> str:
    return ", ".join(f"{part} {ms:.2f}" for part, ms in of.items())


def flood_sections(figures: Mapping[str, Any]) -> Iterator[str]:
    found = figures["fairness"]
    yield "## One tenant's flood"
    words = (
        f"The server answers {found['capacity_per_s']:.0f} requests/s. Nine tenants send a share "
        f"of that at times drawn beforehand, alone and beside a tenth that sends nine times as "
        f"much as they; {found['rounds']} rounds of {found['seconds']:g} s each."
    )
    head = ("others' share", "others/s", "alone: p50 ms", "p95", "p99", "in the flood: p50 ms")
    rows = (
        (
            f"{load['others_share']:.0%}",
            load["others_per_s"],
            *_times(load["alone"]),
            *_times(load["in_flood"]),
            f"{load['times']:.2f} ({', '.join(map(str, load['times_by_round']))})",
            counts(load["others_failed"]) or 0,
            counts(load["flood"]),
            load["late"]["p95_ms"],
        )
        for load in found["loads"]
    )
    more = ("p95", "p99", "p95, times (by round)", "others failed", "flood", "sent late: p95 ms")
    yield words
    yield table((*head, *more), rows)
