"""The report of serving over HTTP, for people."""

from collections.abc import Iterator, Mapping
from typing import Any

from adapterdistill.bench.report import table


def markdown(found: Mapping[str, Any]) -> str:
    faults = found["faults"]
    parts = ["# Serving over HTTP", "No fault found." if not faults else ""]
    parts += [f"**{len(faults)} faults**:\n" + "\n".join(f"- {f}" for f in faults[:50])] * bool(
        faults
    )
    if "speed" in found:
        head = ("proxy", "aim", "aimed at", "measured", "met")
        rows = (
            (a["proxy"], a["aim"], a["aimed"], a["measured"], "yes" if a["met"] else "no")
            for a in found["aims"]
        )
        parts += [table(head, rows), *_speed(found)]
    if "isolation" in found:
        parts += ["## Isolation", _isolation(found)]
    if "kill" in found:
        parts += ["## A replica killed", _kill(found["kill"])]
    facts = (f"- {name.replace('_', ' ')}: {v}" for name, v in found["environment"].items())
    return "\n\n".join([*filter(None, parts), "## How it was run", "\n".join(facts)]) + "\n"


def _speed(found: Mapping[str, Any]) -> Iterator[str]:
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
    yield table(
        ("proxy", "queries", "clients", "a batch ms", "its queries", "engine busy", "processor ms"),
        (
            (
                proxy,
                w["queries"],
                w["clients"],
                w["engine_batch_ms"],
                w["queries_in_a_batch"],
                w["engine_busy"],
                _spent(w["processor_ms_per_request"]),
            )
            for proxy, speed in found["speed"].items()
            for w in speed["loads"]
        ),
    )


def _times(of: Mapping[str, float]) -> tuple[float, float, float]:
    return of["p50_ms"], of["p95_ms"], of["p99_ms"]


def _spent(of: Mapping[str, float]) -> str:
    return ", ".join(f"{part} {ms:.2f}" for part, ms in of.items())


def _isolation(found: Mapping[str, Any]) -> str:
    i = found["isolation"]
    return (
        f"{i['requests']:,} requests over {i['clients']} connections in {i['seconds']} s, half of "
        f"them of {i['swapped_tenants']} tenants whose bundles were swapped {i['swaps']} times "
        f"meanwhile ({i['versions_of_swapped_tenants']} versions answered) and of one whose bundle "
        f"went ({i['gone_tenant_last_answered_after_s']} s later it was answered last). "
        f"**{i['num_wrong']} wrong answers**, {i['failed']} failed requests; statuses "
        f"{i['statuses']}. Control: of {i['control']['wrong_answers']} answers made wrong, "
        f"{i['control']['noticed']} were noticed; through another adapter a page's own questions "
        f"score {found['highest_score_through_another']} at most."
    )


def _kill(k: Mapping[str, Any]) -> str:
    return (
        f"{k['requests']} requests at {k['requests_per_s']}/s, {k['replicas']} replicas, one "
        f"killed: {len(k['wrong'])} wrong answers, attempts that failed: "
        f"{k['failed_attempts'] or 'none'}, requests that failed after retries: "
        f"{k['failed_after_retries']}. A new replica answered after "
        f"{k['seconds_until_full_service']} s. With retries p50 {k['p50_ms']} ms, p99 "
        f"{k['p99_ms']} ms, slowest {k['slowest_s']} s."
    )
