"""The report of serving over HTTP, for people."""

from collections.abc import Iterator, Mapping
from typing import Any

from adapterdistill.testbed.reporting import table


def markdown(found: Mapping[str, Any]) -> str:
    faults = found["faults"]
    parts = ["# Serving over HTTP", "No fault found." if not faults else ""]
    parts += [f"**{len(faults)} faults**:\n" + "\n".join(f"- {f}" for f in faults[:50])] * bool(
        faults
    )
    if found["aims"]:
        head = ("proxy", "aim", "aimed at", "measured", "met")
        rows = (
            (a["proxy"], a["aim"], a["aimed"], a["measured"], "yes" if a["met"] else "no")
            for a in found["aims"]
        )
        parts.append(table(head, rows))
    if "speed" in found:
        parts += _speed(found)
    if "fairness" in found:
        parts += ["## One tenant's flood", _flood(found["fairness"])]
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


def _flood(found: Mapping[str, Any]) -> str:
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
            _counts(load["others_failed"]) or 0,
            _counts(load["flood"]),
            load["late"]["p95_ms"],
        )
        for load in found["loads"]
    )
    more = ("p95", "p99", "p95, times (by round)", "others failed", "flood", "sent late: p95 ms")
    return words + "\n\n" + table((*head, *more), rows)


def _isolation(found: Mapping[str, Any]) -> str:
    isolation = found["isolation"]
    head = ("replicas", "requests", "seconds", "wrong", "failed", "loads", "evictions", "changes")
    rows = (
        (
            part["replicas"],
            part["requests"],
            part["seconds"],
            _counts(part["wrong"]) or 0,
            _counts(part["failed"]) or 0,
            part["paging"]["loads"],
            part["paging"]["evictions"],
            _counts(part["steps"]),
        )
        for part in isolation["parts"]
    )
    told = [table(head, rows)]
    told += [
        f"{part['replicas']} replicas, {part['slots']} tenants in memory of {found['tenants']}: "
        f"of {sum(part['changing_tenants'].values())} tenants that changed, "
        f"{part['both_versions_seen']} were answered by both versions; "
        f"{part['canary_answers']} answers by canaries; statuses "
        f"{_counts(part['statuses'])}; asked for at most so many seconds after a change and "
        f"answered as before it: {_counts(part['last_answer_of_before_s'])}; scores differ from "
        f"each adapter's alone by at most {part['farthest_from_alone']:.1e}."
        for part in isolation["parts"]
    ]
    made = isolation["control"].items()
    told.append(
        table(
            ("answers made wrong", "made", "noticed", "nearest to right"),
            ((kind, c["made"], c["noticed"], c.get("nearest", "-")) for kind, c in made),
        )
    )
    return "\n\n".join(told)


def _counts(of: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {count}" for name, count in of.items())


def _kill(k: Mapping[str, Any]) -> str:
    return (
        f"{k['requests']} requests at {k['requests_per_s']}/s, {k['replicas']} replicas, one "
        f"killed: {len(k['wrong'])} wrong answers, attempts that failed: "
        f"{k['failed_attempts'] or 'none'}, requests that failed after retries: "
        f"{k['failed_after_retries']}. A new replica answered after "
        f"{k['seconds_until_full_service']} s. With retries p50 {k['p50_ms']} ms, p99 "
        f"{k['p99_ms']} ms, slowest {k['slowest_s']} s."
    )
