"""The sections of a report on an endpoint's isolation and on a killed replica."""

from collections.abc import Iterator, Mapping
from typing import Any

from adapterdistill.testbed.reporting import counts, table


def isolation_sections(found: Mapping[str, Any]) -> Iterator[str]:
    yield "## Isolation"
    isolation = found["isolation"]
    head = ("replicas", "requests", "seconds", "wrong", "failed", "loads", "evictions", "changes")
    rows = (
        (
            part["replicas"],
            part["requests"],
            part["seconds"],
            counts(part["wrong"]) or 0,
            counts(part["failed"]) or 0,
            part["paging"]["loads"],
            part["paging"]["evictions"],
            counts(part["steps"]),
        )
        for part in isolation["parts"]
    )
    yield table(head, rows)
    yield from (
        f"{part['replicas']} replicas, {part['slots']} tenants in memory of {found['tenants']}: "
        f"of {sum(part['changing_tenants'].values())} tenants that changed, "
        f"{part['both_versions_seen']} were answered by both versions; "
        f"{part['canary_answers']} answers by canaries; statuses "
        f"{counts(part['statuses'])}; asked for at most so many seconds after a change and "
        f"answered as before it: {counts(part['last_answer_of_before_s'])}; scores differ from "
        f"each adapter's alone by at most {part['farthest_from_alone']:.1e}."
        for part in isolation["parts"]
    )
    made = isolation["control"].items()
    yield table(
        ("answers made wrong", "made", "noticed", "nearest to right"),
        ((kind, c["made"], c["noticed"], c.get("nearest", "-")) for kind, c in made),
    )


def kill_sections(found: Mapping[str, Any]) -> Iterator[str]:
    k = found["kill"]
    yield "## A replica killed"
    yield (
        f"{k['requests']} requests at {k['requests_per_s']}/s, {k['replicas']} replicas, one "
        f"killed: {len(k['wrong'])} wrong answers, attempts that failed: "
        f"{k['failed_attempts'] or 'none'}, requests that failed after retries: "
        f"{k['failed_after_retries']}. A new replica answered after "
        f"{k['seconds_until_full_service']} s. With retries p50 {k['p50_ms']} ms, p99 "
        f"{k['p99_ms']} ms, slowest {k['slowest_s']} s."
    )
