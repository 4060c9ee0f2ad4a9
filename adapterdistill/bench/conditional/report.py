"""The command `adapterdistill bench conditional` and its report."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from adapterdistill.backbone import Encoder
from adapterdistill.bench.cache import ResultCache
from adapterdistill.bench.conditional import study as bench
from adapterdistill.bench.conditional.long_inputs import long_tenants
from adapterdistill.bench.sizes import named_size
from adapterdistill.bench.tenants import BenchTenant, open_dataset, read_tenant, spread
from adapterdistill.bench.transfer.sizes import SIZES as TRANSFER_SIZES
from adapterdistill.bench.transfer.study import read_tenants
from adapterdistill.testbed.encoder_options import EncoderOptions
from adapterdistill.testbed.environment import environment
from adapterdistill.testbed.progress import phase
from adapterdistill.testbed.reporting import Report, document, percent, setting, table, write_report

AIMED_SPEED = 2.0
_TIMED_ROWS = 256


def conditional_command(
    *, data: Path, out: Path, cache: Path, size: str, encoder: EncoderOptions
) -> Report:
    """Measure and write the report."""
    torch.set_num_threads(1)
    loaded, chosen = encoder.load(), named_size(bench.SIZES, size)
    reading = replace(
        TRANSFER_SIZES["standard"],
        tenants=None,
        max_test=chosen.max_test,
        max_valid=chosen.max_valid,
    )
    folder = data / "tenants" if (data / "tenants").is_dir() else data
    tenants = read_tenants(folder, cache / "tenants", loaded, reading)
    for made in long_tenants(data, cache / "long"):
        dataset = open_dataset(made, cache / "tenants")
        tenants[made.name] = read_tenant(
            dataset, made.name, loaded, max_test=chosen.max_test, max_valid=chosen.max_valid
        )
    found = {"size": size, **measure(loaded, list(tenants.values()), chosen, ResultCache(cache))}
    found["environment"] = environment(loaded)
    return write_report(out, found, markdown(found))


def measure(
    encoder: Encoder, tenants: Sequence[BenchTenant], size: bench.Size, cache: ResultCache
) -> dict[str, Any]:
    """Speed by length, then speed and accuracy on tenants with short and with long queries."""
    tested = {tenant.name: tenant for tenant in tenants if len(tenant.test)}
    long = {
        name
        for name, tenant in tested.items()
        if tenant.test.tokens >= bench.LONG * len(tenant.test)
    }
    kinds = {"short": spread(sorted(tested.keys() - long), size.tenants)}
    kinds["long"] = spread(sorted(long), size.tenants)
    taking_part = [tested[name] for names in kinds.values() for name in names]
    lengths = []
    with phase("timing by length", len(size.lengths)) as done:
        for length in size.lengths:
            rows = bench.rows_of_length(encoder, taking_part, length)
            lengths.append(bench.measure_speed(encoder, rows, size.routings, size.rounds))
            done()
    accuracy = bench.Accuracy(encoder, size, cache)
    groups = []
    for kind, names in kinds.items():
        members = [tested[name] for name in names]
        if members:
            groups.append({"kind": kind, **_group(encoder, members, size, accuracy)})
    return {
        "benchmark": "conditional",
        "bottleneck_size": bench.BOTTLENECK_SIZE,
        "dense_steps": size.dense_steps,
        "steps": size.steps,
        "rounds": size.rounds,
        "long_from_tokens": bench.LONG,
        "lengths": lengths,
        "groups": groups,
    }


def _group(
    encoder: Encoder, members: Sequence[BenchTenant], size: bench.Size, accuracy: bench.Accuracy
) -> dict[str, Any]:
    rows = [ids for tenant in members for ids in tenant.test.ids]
    by_tenant = [accuracy.of(tenant) for tenant in members]
    # Timed last, so that the times of a resumed run come from one stretch.
    step = max(1, -(-len(rows) // _TIMED_ROWS))
    speed = bench.measure_speed(encoder, rows[::step], size.routings, size.rounds)
    lost = bench.losses(by_tenant, size.routings)
    place = bench.chosen(lost, [one["faster_by_median"] for one in speed["conditional"]])
    return {
        "tenants": [tenant.name for tenant in members],
        "speed": speed,
        "accuracy": lost,
        "chosen": place,
        "by_tenant": by_tenant,
    }


def markdown(found: Mapping[str, Any]) -> str:
    """The report for people."""
    env = found["environment"]
    parts = [
        "Conditional adapters",
        f"Size {found['size']}. A parallel adapter of bottleneck {found['bottleneck_size']}, dense "
        f"({found['dense_steps']} steps at most on the tenant's rows) and conditional "
        f"({found['steps']} steps at most towards the dense one, without labels; k = ceil(n / "
        "speed) of a row's n tokens pass the layers, never fewer than 16). Steps and settings are "
        "chosen on `valid` rows. Speeds are relative to the dense adapter's texts/s on the same "
        f"rows, {found['rounds']} rounds, all in turn, by medians (by minima in brackets).",
        "## Speed by length",
        f"Batches of rows of one length, texts/s of the dense adapter and factors.\n\n"
        f"{_lengths(found['lengths'])}",
    ]
    kinds = {group["kind"] for group in found["groups"]}
    for group in found["groups"]:
        parts += _of_group(group)
    for kind in {"short", "long"} - kinds:
        parts.append(f"No tenant has {kind} queries.")
    parts.append(setting(env))
    return document(*parts)


def _lengths(lengths: Sequence[Mapping[str, Any]]) -> str:
    routings = lengths[0]["conditional"] if lengths else []
    head = ("tokens", "dense texts/s", *map(_name, routings))
    return table(
        head,
        (
            (
                f"{one['mean_tokens']:.0f}",
                f"{one['dense']['median']:.0f} ({one['dense']['fastest']:.0f})",
                *(_factor(routing) for routing in one["conditional"]),
            )
            for one in lengths
        ),
    )


def _of_group(group: Mapping[str, Any]) -> list[str]:
    speed, long = group["speed"], group["kind"] == "long"
    rows = zip(group["accuracy"], speed["conditional"], strict=True)
    body = table(
        ("setting", "faster", "top-1 valid", "valid change", "top-1 test", "test change (95%)"),
        (
            (
                _name(lost),
                _factor(timed),
                percent(lost["valid"]["top1"]),
                _points(lost["valid"]["change"]),
                percent(lost["test"]["top1"]),
                f"{_points(lost['test']['change'])} [{_points(lost['test']['low'])}, "
                f"{_points(lost['test']['high'])}]",
            )
            for lost, timed in rows
        ),
    )
    dense, first = speed["dense"], group["accuracy"][0]
    return [
        f"## {'Long' if long else 'Short'} queries",
        f"{', '.join(group['tenants'])}: {first['test']['queries']} test and "
        f"{first['valid']['queries']} valid queries, {speed['mean_tokens']} tokens on average. "
        f"Dense: {dense['median']:.0f} texts/s by the median ({dense['fastest']:.0f} by the "
        f"minimum), top-1 {percent(first['valid']['dense_top1'])} valid, "
        f"{percent(first['test']['dense_top1'])} test.",
        body,
        _verdict(group, long=long),
    ]


def _verdict(group: Mapping[str, Any], *, long: bool) -> str:
    aim = f"Aim: {AIMED_SPEED:g} times as fast, losing at most a point." if long else ""
    place = group["chosen"]
    if place is None:
        if not group["accuracy"][0]["valid"]["queries"]:
            return f"{aim} No `valid` row to choose a setting by.".strip()
        met = " NOT MET." if long else ""
        return f"{aim} No setting loses at most a point on `valid` rows.{met}".strip()
    lost = group["accuracy"][place]["test"]["change"]
    faster = group["speed"]["conditional"][place]["faster_by_median"]
    met = faster >= AIMED_SPEED and lost >= -bench.MOST_LOST
    said = (
        f"Chosen on `valid` rows: {_name(group['accuracy'][place])}, {faster:.2f} times as fast, "
        f"test {_points(lost)} points."
    )
    if long:
        return f"{aim} {said} {'Met.' if met else 'NOT MET.'}"
    return f"{said} {'' if faster > 1 else 'Short queries gain nothing.'}".strip()


def _name(routing: Mapping[str, Any]) -> str:
    return f"n/k {routing['speed']:g}, {'k-to-all' if routing['to_all'] else 'k-to-k'}"


def _factor(routing: Mapping[str, Any]) -> str:
    return f"{routing['faster_by_median']:.2f} ({routing['faster_by_minimum']:.2f})"


def _points(share: float | None) -> str:
    return "" if share is None else f"{100 * share:+.1f}"
