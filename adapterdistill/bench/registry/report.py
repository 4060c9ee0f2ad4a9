"""The registry benchmark's report for people."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from adapterdistill.testbed.reporting import table

_MEGABYTE = 10**6


def markdown(found: Mapping[str, Any]) -> str:
    parts = ["# Registry", _verdict(found["faults"])]
    if "load" in found:
        parts += _load(found["load"])
    if "fuzz" in found:
        parts += _fuzz(found["fuzz"])
    if "kills" in found:
        parts += _kills(found["kills"])
    parts += [
        "## How it was run",
        "\n".join(
            f"- {name.replace('_', ' ')}: {value}" for name, value in found["environment"].items()
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _verdict(faults: list[str]) -> str:
    if not faults:
        return "No fault found."
    return "\n".join([f"**{len(faults)} faults**:", *(f"- {one}" for one in faults[:50])])


def _kills(kills: Mapping[str, Any]) -> Iterator[str]:
    recovery = kills["recovery_s"]
    yield f"## Killed {kills['kills']} times amid publishes"
    yield (
        f"Of {kills['acknowledged']:,} publishes that were answered,"
        f" {kills['found']:,} were fetched and verified afterwards;"
        f" {kills['unacknowledged']:,} more were whole though their answers were lost."
        f" Ready again after {recovery['median']:.2f} s (median; at most {recovery['max']:.2f} s)."
        f" Lines of the audit log that were cut short and written again: {kills['lines_repaired']}."
    )


def _load(load: Mapping[str, Any]) -> Iterator[str]:
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
    yield "## Beside copying the same files\n\nMB/s, medians of rounds; ratios within a round."
    yield table(
        ("payload", "copy", "publish", "fetch", "read", "publish/copy", "fetch/copy", "fetch/read"),
        (
            (
                f"{row['payload_bytes'] / _MEGABYTE:.2f} MB",
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
    yield _sizes(load["memory"])


def _sizes(memory: Mapping[str, int]) -> str:
    return table(
        [name.replace("_", " ") for name in memory],
        [[f"{value / _MEGABYTE:.1f}" for value in memory.values()]],
    )


def _fuzz(fuzz: Mapping[str, Any]) -> Iterator[str]:
    memory = dict(fuzz["memory"])
    slope = memory.pop("slope_a_thousand_cases")
    yield f"## {fuzz['cases']:,} mutated calls"
    yield (
        f"Seed {fuzz['seed']}, {fuzz['seconds']} s ({fuzz['server_cpu_s']} s of the server's"
        f" processor). Accepted {fuzz['accepted']:,}, of which {len(fuzz['wrongly_accepted'])} fail"
        f" an independent verification; {len(fuzz['failures'])} calls failed instead of being"
        f" refused; {len(fuzz['accepted_but_missing'])} accepted versions are not handed out as"
        f" they came; {fuzz['tracebacks_logged']} tracebacks logged; the same process"
        f" {'serves on' if fuzz['same_process_alive'] else 'ENDED'}."
    )
    kinds: dict[str, Counter[str]] = {}
    total: Counter[str] = Counter()
    for row in fuzz["outcomes"]:
        kinds.setdefault(row["kind"], Counter())[row["outcome"]] += row["cases"]
        total[row["outcome"]] += row["cases"]
    outcomes = [name for name, _ in total.most_common()]
    yield table(
        ("spoilt", *outcomes),
        (
            (kind, *(counts[name] or "" for name in outcomes))
            for kind, counts in [*sorted(kinds.items()), ("all", total)]
        ),
    )
    yield (
        "Resident memory of the server, MB; in the second half it grew by"
        f" {slope / 1024:.1f} KiB a thousand cases."
    )
    yield _sizes(memory)
