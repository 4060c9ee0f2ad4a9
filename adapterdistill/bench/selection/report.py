"""The command `adapterdistill bench selection` and its report."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from adapterdistill.bench.cache import ResultCache
from adapterdistill.bench.selection import accuracy
from adapterdistill.bench.selection.cost import measure_cost
from adapterdistill.bench.sizes import named_size
from adapterdistill.bench.tenants import open_dataset, read_tenant, tenant_names
from adapterdistill.bench.transfer.cells import Workbench
from adapterdistill.bench.transfer.method_table import LABELS
from adapterdistill.bench.transfer.sizes import SIZES
from adapterdistill.bench.transfer.study import read_tenants
from adapterdistill.testbed.encoder_options import EncoderOptions
from adapterdistill.testbed.environment import environment
from adapterdistill.testbed.reporting import Report, document, setting, table, write_report

COUNTS = (10, 100, 1_000, 10_000)
MAX_TEACHERS = 16
_OWN_QUERIES = 3
_MEBIBYTE = 2**20


def selection_command(
    *,
    data: Path | None,
    out: Path,
    cache: Path,
    size: str,
    encoder: EncoderOptions,
    counts: Sequence[int] = COUNTS,
) -> Report:
    """Measure and write the report.

    Args:
        data: folder of tenants for the accuracy part, which is left out without one.
    """
    torch.set_num_threads(1)
    loaded = encoder.load()
    samples = Path(str(files("adapterdistill"))) / "samples"
    name = tenant_names(samples)[0]
    dataset = open_dataset(samples / name, cache / "tenants")
    newcomer = read_tenant(dataset, name, loaded, max_test=1, max_valid=1)
    rows = newcomer.arrival(_OWN_QUERIES, seed=0).ids
    found: dict[str, Any] = {
        "benchmark": "selection",
        "cost": measure_cost(loaded, rows, counts=counts, max_teachers=MAX_TEACHERS),
    }
    if data is not None:
        chosen = named_size(accuracy.SIZES, size)
        # Rows as in the transfer benchmark, so that both can use one cache of teachers.
        reading = replace(SIZES["standard"], tenants=chosen.tenants)
        tenants = read_tenants(data, cache / "tenants", loaded, reading)
        bench = Workbench(loaded, tenants, ResultCache(cache))
        found["accuracy"] = {"size": size, **accuracy.measure_accuracy(bench, chosen)}
    found["environment"] = environment(loaded)
    return write_report(out, found, markdown(found))


def markdown(found: Mapping[str, Any]) -> str:
    """The report for people."""
    env = found["environment"]
    parts = ["# Selection of teachers", "## Cost", _cost(found["cost"])]
    if "accuracy" in found:
        parts += _accuracy(found["accuracy"])
    parts.append(setting(env))
    return document(*parts)


def _cost(cost: Mapping[str, Any]) -> str:
    count, mebibytes = cost["max_teachers"], cost["payload_bytes"] / _MEBIBYTE
    said = (
        f"A newcomer with {cost['own_texts']} texts of its own, random adapters of"
        f" {mebibytes:.2f} MiB each, a registry process on loopback. Median seconds of"
        f" {cost['rounds']} rounds. `whole`: list, choose, fetch {count} and prove them. What"
        " fetching and proving all would take is reckoned from these."
    )
    head = (
        "adapters", "MiB listed", "list s", "MiB as manifests", "list manifests s", "choose s",
        f"MiB fetched ({count})", "fetch and prove s", "whole s", "MiB of all", "all s",
    )  # fmt: skip
    rows = (
        (
            f"{row['listed']:,}",
            f"{row['list_bytes'] / _MEBIBYTE:.3f}",
            f"{row['list_s']['median']:.3f}",
            f"{row['list_manifests_bytes'] / _MEBIBYTE:.2f}",
            f"{row['list_manifests_s']['median']:.3f}",
            f"{row['choose_s']['median']:.3f}",
            f"{row['fetched_bytes'] / _MEBIBYTE:.1f}",
            f"{row['fetch_and_prove_s']['median']:.2f}",
            f"{row['whole_s']['median']:.2f}",
            f"{row['all_bytes'] / _MEBIBYTE:,.0f}",
            f"{row['all_fetch_and_prove_s']:,.1f}",
        )
        for row in cost["sizes"]
    )
    return f"{said}\n\n{table(head, rows)}"


def _accuracy(found: Mapping[str, Any]) -> Iterator[str]:
    yield "## Accuracy"
    yield (
        f"Size {found['size']}. Macro top-1 in %, by centroid, of the m chosen teachers, of random"
        " ones (mean, lowest and highest draw) and of all; differences in points with 95% paired"
        " bootstrap over tenants, then queries. Every choice in this project was judged on the"
        " unseen training rows alone."
    )
    for part in found["collections"]:
        kind = "Tenants" if part["name"] == "tenants" else "Halves of tenants"
        yield f"### {kind}: {part['tenants']}"
        for rows, title in (("judged", "Unseen training rows"), ("test", "Test rows")):
            yield f"{title}:\n\n{table(_HEAD, _lines(part['table'], rows))}"
        yield table(
            ("k", "arrivals with relatives", "mean rank of a relative", "by chance",
             "a relative comes first", "one among the first four"),
            (
                (r["k"], r["arrivals"], f"{r['mean_rank']:.1f}", f"{r['mean_rank_by_chance']:.1f}",
                 f"{100 * r['first_is_related']:.0f}%", f"{100 * r['first_four_hold_one']:.0f}%")
                for r in part["related"] if r["arrivals"]
            ),
        )  # fmt: skip


_HEAD = ("method", "k", "m", "chosen", "random", "all", "chosen - random", "chosen - all")


def _lines(rows: Sequence[Mapping[str, Any]], part: str) -> Iterator[Sequence[object]]:
    for row in rows:
        figures = row[part]
        yield (
            LABELS[row["method"]],
            row["k"],
            row["teachers"],
            f"{figures['chosen']:.1f}",
            f"{figures['random']:.1f} ({figures['random_lowest']:.1f} to"
            f" {figures['random_highest']:.1f})",
            f"{figures['all']:.1f}",
            *(
                f"{d['mean']:+.1f} [{d['low']:+.1f}, {d['high']:+.1f}]"
                for d in (figures["over_random"], figures["over_all"])
            ),
        )
