"""The sections of a report on mutated calls and on kills."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from adapterdistill.testbed.reporting import megabytes, table


def kills_sections(found: Mapping[str, Any]) -> Iterator[str]:
    kills = found["kills"]
    recovery = kills["recovery_s"]
    yield f"## Killed {kills['kills']} times amid publishes"
    yield (
        f"Of {kills['acknowledged']:,} publishes that were answered,"
        f" {kills['found']:,} were fetched and verified afterwards;"
        f" {kills['unacknowledged']:,} more were whole though their answers were lost."
        f" Ready again after {recovery['median']:.2f} s (median; at most {recovery['max']:.2f} s)."
        f" Lines of the audit log that were cut short and written again: {kills['lines_repaired']}."
    )


def fuzz_sections(found: Mapping[str, Any]) -> Iterator[str]:
    fuzz = found["fuzz"]
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
    yield megabytes(memory)
    if fuzz["smallest"]:
        yield "The smallest cases that fail alike, messages in hexadecimal:"
        yield table(
            ("fault", "call", "messages"),
            (
                (one["fault"], one["method"], " ".join(one["messages_hex"]))
                for one in fuzz["smallest"]
            ),
        )
