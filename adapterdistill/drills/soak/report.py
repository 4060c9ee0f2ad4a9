"""Growth of a deployment's memory in a soak, aims, and the report."""

import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from adapterdistill.drills.soak.samples import OWN_ROLE, SESSION, SOCKETS, TEMPORARY, Held, Sample
from adapterdistill.extras import require
from adapterdistill.testbed.reporting import aims_table, document, setting, table

FLAT_MIB_PER_HOUR = 8.0
"""The most growth of each of the project's own processes, at the upper end of the 95% interval. A
process that grows by less takes more than five days for 1 GiB."""
OWN = ("registry", "replica", OWN_ROLE)
OWN_FILES = (TEMPORARY, SESSION, SOCKETS)
"""Kinds that must not become more; logs do, and shared memory may be anybody's."""
WARM_UP = 0.2
"""The share of the time in which caches fill; slopes leave it out."""
MOST_BLOCKS = 40
_LEAST_OF_BLOCK = 2


def roles_over_time(samples: Sequence[Sample]) -> dict[str, dict[str, Any]]:
    """Start and end after the warm-up, and slopes, of each role that was there all the time."""
    warm = [one for one in samples if one.at_s >= WARM_UP * samples[-1].at_s]
    lasting = sorted(set.intersection(*(set(one.roles) for one in warm)))
    return {role: _over_time([(one.at_s, one.roles[role]) for one in warm]) for role in lasting}


def _over_time(held: Sequence[tuple[float, Held]]) -> dict[str, Any]:
    hours = [at_s / 3600 for at_s, _ in held]
    found: dict[str, Any] = {
        "processes": {"start": held[0][1].processes, "end": held[-1][1].processes}
    }
    for name in ("private_mib", "rss_mib", "fds", "threads"):
        blocks = block_medians(hours, [getattr(one, name) for _, one in held])
        found[name] = {
            "start": round(blocks[0][1], 2),
            "end": round(blocks[-1][1], 2),
            "per_hour": slope(blocks),
        }
        # A cache that fills slows down; a leak does not.
        found[name]["by_thirds"] = [
            slope(blocks[len(blocks) * third // 3 : len(blocks) * (third + 1) // 3])
            for third in range(3)
        ]
    return found


def block_medians(times: Sequence[float], values: Sequence[float]) -> list[tuple[float, float]]:
    """Median time and value of equal numbers of neighbours: samples that follow each other are
    alike, and an interval that took each for news would be too narrow."""
    count = max(1, min(MOST_BLOCKS, len(times) // _LEAST_OF_BLOCK))
    cuts = [round(len(times) * place / count) for place in range(count + 1)]
    return [
        (statistics.median(times[a:b]), statistics.median(values[a:b]))
        for a, b in itertools.pairwise(cuts)
    ]


def slope(points: Sequence[tuple[float, float]]) -> dict[str, float] | None:
    """Theil and Sen's: the median of the slopes between all pairs of points, with its 95% interval
    (Sen, 1968); None below three points."""
    if len(points) < 3:
        return None
    times, values = zip(*points, strict=True)
    found = require("bench", "scipy.stats").theilslopes(values, times, alpha=0.95)
    ends = {"slope": found.slope, "low": found.low_slope, "high": found.high_slope}
    return {name: round(float(value), 3) for name, value in ends.items()}


def aims(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The aims, which were decided beforehand, with their measurements."""

    def aim(text: str, bound: str, measured: object, met: bool) -> dict[str, Any]:
        return {"aim": text, "aimed": bound, "measured": measured, "met": met}

    def none(text: str, measured: Mapping[str, Any] | Sequence[Any] | int) -> dict[str, Any]:
        return aim(text, "none", measured or "none", not measured)

    queries, onboardings = found["queries"], found["onboardings"]
    yield aim("queries", ">= 1", queries["requests"], queries["requests"] > 0)
    yield aim("onboardings meanwhile", ">= 1", onboardings["done"], onboardings["done"] > 0)
    yield none("wrong answers", queries["wrong"])
    yield none("queries that failed", {s: n for s, n in queries["statuses"].items() if s != "200"})
    yield none("onboardings that failed", onboardings["failed"])
    for role in OWN:
        grown = found["roles"].get(role, {}).get("private_mib", {}).get("per_hour")
        high = grown and grown["high"]
        yield aim(
            f"memory of the {role}, MiB an hour, upper end of the 95% interval",
            f"<= {FLAT_MIB_PER_HOUR:g}",
            high,
            high is not None and high <= FLAT_MIB_PER_HOUR,
        )
    before, after = found["idle"]["before"], found["idle"]["after"]
    of_role = {
        name: [{role: held[name] for role, held in one["roles"].items()} for one in (before, after)]
        for name in ("processes", "fds")
    }
    yield none("processes more at rest afterwards", more(*of_role["processes"]))
    own = [{r: n for r, n in one.items() if r in OWN} for one in of_role["fds"]]
    yield none("descriptors of the project's own more at rest afterwards", more(*own))
    yield none("actors more at rest afterwards", more(before["actors"], after["actors"]))
    files = [{kind: one["files"].get(kind, 0) for kind in OWN_FILES} for one in (before, after)]
    yield none("files more at rest afterwards", more(*files))
    left = found["left"]
    yield none("processes left when all was stopped", left["processes"])
    rest = {kind: n for kind, n in left.items() if kind != "processes" and n > 0}
    yield none("files left when all was stopped", rest)


def more(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """Kinds of which there are more than before, and how many more."""
    return {kind: n - before.get(kind, 0) for kind, n in after.items() if n > before.get(kind, 0)}


def markdown(found: Mapping[str, Any]) -> str:
    missed = [one["aim"] for one in found["aims"] if not one["met"]]
    verdict = "Every aim is met." if not missed else f"**Missed: {'; '.join(missed)}.**"
    queries, onboardings = found["queries"], found["onboardings"]
    parts = [
        f"Soak of {found['minutes']:g} minutes",
        verdict,
        aims_table([{**aim, "measured": told(aim["measured"])} for aim in found["aims"]]),
        f"{queries['requests']:,} queries at {found['rate_per_s']:g}/s: p50 {queries['p50_ms']}, "
        f"p95 {queries['p95_ms']}, p99 {queries['p99_ms']} ms. {onboardings['done']} onboardings"
        f"{_seconds(onboardings['seconds'])}, one after another.",
        f"## Over time\n\nAfter the first {WARM_UP:.0%}, medians of up to {MOST_BLOCKS} equal "
        "spans of time; slope by Theil and Sen with its 95% interval. Private memory is anonymous, "
        "resident or swapped out.",
        _over_time_table(found["roles"]),
        "## At rest, before and after",
        _idle_table(found["idle"]),
        "## Kept on purpose\n\nThe registry's history, and the last two versions of the tenants "
        "that stay.",
        table(
            ("kept", "before MiB", "after MiB", "KiB an onboarding"),
            (
                (
                    name,
                    *(f"{kept[at] / 2**20:.2f}" for at in ("before", "after")),
                    f"{(kept['after'] - kept['before']) / 1024 / max(1, onboardings['done']):.1f}",
                )
                for name, kept in found["kept_bytes"].items()
            ),
        ),
        setting(found["environment"]),
    ]
    return document(*parts)


def _seconds(seconds: Sequence[float]) -> str:
    if not seconds:
        return ""
    return f" of {statistics.median(seconds):.0f} s (median; at most {max(seconds):.0f} s)"


def _over_time_table(roles: Mapping[str, Any]) -> str:
    head = ("role", "processes", "private MiB", "MiB an hour", "by thirds of the time")
    return table(
        (*head, "resident MiB", "descriptors", "an hour", "threads"),
        (
            (
                f"**{role}**" if role in OWN else role,
                _span(of["processes"]),
                _span(of["private_mib"]),
                _interval(of["private_mib"]["per_hour"]),
                ", ".join(f"{one['slope']:+.1f}" for one in of["private_mib"]["by_thirds"] if one),
                _span(of["rss_mib"]),
                _span(of["fds"]),
                _interval(of["fds"]["per_hour"]),
                _span(of["threads"]),
            )
            for role, of in roles.items()
        ),
    )


def _idle_table(idle: Mapping[str, Any]) -> str:
    before, after = idle["before"], idle["after"]
    rows: list[tuple[object, ...]] = []
    for name in ("processes", "fds"):
        for role in sorted({*before["roles"], *after["roles"]}):
            pair = (one["roles"].get(role, {}).get(name, 0) for one in (before, after))
            rows.append((f"{'descriptors' if name == 'fds' else name} of {role}", *pair))
    for kind in ("actors", "files"):
        for one in sorted({*before[kind], *after[kind]}):
            rows.append((f"{kind}: {one}", before[kind].get(one, 0), after[kind].get(one, 0)))
    return table(("what", "before", "after"), rows)


def _span(of: Mapping[str, float]) -> str:
    return f"{of['start']:g} to {of['end']:g}"


def _interval(of: Mapping[str, float] | None) -> str:
    return "-" if of is None else f"{of['slope']:+.2f} [{of['low']:+.2f}, {of['high']:+.2f}]"


def told(measured: object) -> str:
    if isinstance(measured, Mapping):
        return ", ".join(f"{name} {n}" for name, n in measured.items())
    return "; ".join(map(str, measured)) if isinstance(measured, list) else str(measured)
