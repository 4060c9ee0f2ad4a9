"""The sections of the report on a registry under load."""

from collections.abc import Iterator, Mapping
from typing import Any

from adapterdistill.testbed.reporting import megabytes, table


def load_sections(found: Mapping[str, Any]) -> Iterator[str]:
    load = found["load"]
    filled, mixed = load["fill"], load["mixed"]
    yield f"## {load['adapters']:,} adapters"
    yield (
        f"Published in {filled['seconds']:.0f} s, {filled['mb_s']:.1f} MB/s of payloads, eight at a"
        " time. One call at a time, by one client, client and server on one machine:"
    )
    rows = {**load["latency"], **load["watch"]}
    yield table(
        ("call", "calls", "p50 ms", "p99 ms"),
        ((name, row["calls"], row["p50_ms"], row["p99_ms"]) for name, row in rows.items()),
    )
    chosen = load["choice"]
    yield (
        f"Choosing 16 teachers among the newest adapters, {chosen['listed']:,}:"
        f" {chosen['first_s']} s the first time; {chosen['again_s']} s (median; at most"
        f" {chosen['again_worst_s']} s) later, with the listing kept and one more published."
    )
    yield "## Beside copying the same files\n\nMB/s, medians of rounds; ratios within a round."
    yield table(
        ("payload", "copy", "publish", "fetch", "read", "publish/copy", "fetch/copy", "fetch/read"),
        (
            (
                f"{row['payload_bytes'] / 1e6:.2f} MB",
                *(row["mb_s"][name] for name in ("copy", "publish", "fetch", "read")),
                row["publish_to_copy"],
                row["fetch_to_copy"],
                row["fetch_to_read"],
            )
            for row in load["speed"]
        ),
    )
    yield f"## {mixed['clients']} clients at once"
    yield (
        f"{mixed['calls']:,} calls in {mixed['seconds']} s: {mixed['calls_a_second']} a second,"
        f" with {mixed['server_cpu_share']:.0%} of a core for the server;"
        f" {sum(mixed['errors'].values())} errors."
    )
    yield table(
        ("call", "calls", "p50 ms", "p99 ms"),
        (
            (name, row["calls"], row["p50_ms"], row["p99_ms"])
            for name, row in mixed["latency"].items()
        ),
    )
    yield "## Memory of the server\n\nResident, MB."
    yield megabytes(load["memory"])
