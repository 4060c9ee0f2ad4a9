"""The report of the serving benchmark."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from adapterdistill.backbone import Encoder
from adapterdistill.bench.engine import encoders, paging, throughput
from adapterdistill.bench.engine.encoders import LEAST_SHARE, measure_encoders
from adapterdistill.bench.engine.paging import CLIFF_TIMES, fill_many, measure_paging
from adapterdistill.bench.engine.sides import (
    ALONE,
    BARE,
    SENTENCES_BFLOAT16,
    SENTENCES_FLOAT32,
)
from adapterdistill.bench.engine.throughput import measure_engine
from adapterdistill.bench.sizes import named_size
from adapterdistill.testbed.encoder_options import EncoderOptions
from adapterdistill.testbed.environment import environment
from adapterdistill.testbed.faq_banks import read_banks
from adapterdistill.testbed.reporting import (
    Report,
    document,
    setting,
    table,
    table_of,
    write_report,
    yes_or_no,
)

AIMED_MIX, AIMED_BATCH = "32 tenants", 32
_AIMS = ((BARE, 0.9), (SENTENCES_FLOAT32, 4.0), (SENTENCES_BFLOAT16, 1.4), (ALONE, 3.0))
_TOP1_POINTS = 0.1
_FLOOD_TIMES = 2.0


def serving_command(
    *,
    data: Path,
    out: Path,
    size: str,
    encoder: EncoderOptions,
    threads: int,
    peer_env: Path | None,
    paging_only: bool = False,
) -> Report:
    """Measure and write the report."""
    torch.set_num_threads(threads)
    timed, exact = encoder.load(), encoder.load_exact()
    chosen = named_size(throughput.SIZES, size)
    engine = {"paging": _paged(timed, exact, data, paging.SIZES[size])}
    if not paging_only:
        banks = read_banks(data, chosen.tenants)
        engine["encoders"] = measure_encoders(timed, banks, encoders.SIZES[size])
        engine |= measure_engine(timed, exact, banks, chosen, peer_env=peer_env)
    found = {
        "benchmark": "serving",
        "size": size,
        "environment": environment(timed),
        "engine": engine,
        "aims": list(paging_aims(engine["paging"]) if paging_only else aims(engine)),
    }
    return write_report(out, found, markdown(found))


def _paged(timed: Encoder, exact: Encoder, data: Path, size: paging.Size) -> dict[str, Any]:
    banks = read_banks(data, size.tenants)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        fill_many(store, banks, exact)
        return measure_paging(timed, store, banks, size)


def aims(engine: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every aim that the run has figures for, and whether it is met."""
    for cell in engine["timings"]:
        if (cell["mix"], cell["batch"]) != (AIMED_MIX, AIMED_BATCH):
            continue
        for side, least in _AIMS:
            if side in cell["sides"]:
                found = cell["sides"][side]
                measured = found["mixed_is_times_as_fast"]
                yield {
                    "aim": f"mixed batch, times as fast as: {side}",
                    "least": least,
                    "measured": measured,
                    "by_processor_time": found["mixed_is_times_as_cheap"],
                    "met": measured >= least,
                }
    lost = 100 * (engine["top1"]["float32"] - engine["top1"]["engine"])
    yield {
        "aim": "top-1 points below float32",
        "most": _TOP1_POINTS,
        "measured": round(lost, 3),
        "met": lost <= _TOP1_POINTS,
    }
    times = engine["fairness"]["times"]
    yield {
        "aim": "p95 of others while one tenant sends nine tenths, times that without it",
        "most": _FLOOD_TIMES,
        "measured": times,
        "met": times <= _FLOOD_TIMES,
    }
    for name, of in engine["encoders"]["encoders"].items():
        yield {
            "aim": f"queries/s of {name} beside another encoder, as a share of alone",
            "least": LEAST_SHARE,
            "measured": of["share"],
            "met": of["share"] >= LEAST_SHARE,
        }
    yield from paging_aims(engine["paging"])


def paging_aims(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    failed = sum(cell["failed"] for cell in found["traffics"])
    for aim, most, measured in (
        (
            "p95 of 1.1 times as many tenants as slots, times that of 0.9",
            CLIFF_TIMES,
            found["p95_times_when_10_percent_over"],
        ),
        ("failed queries, with more tenants than slots", 0, failed),
    ):
        yield {"aim": aim, "most": most, "measured": measured, "met": measured <= most}


def markdown(found: Mapping[str, Any]) -> str:
    """The report for people."""
    env, engine = found["environment"], found["engine"]
    if "timings" not in engine:
        return document("Serving more tenants than slots", _paging(engine["paging"]))
    top1, equal = engine["top1"], engine["equality"]
    parts = [
        "Serving",
        f"{engine['tenants_resident']} tenants resident; {engine['rounds']} rounds, all sides in "
        f"turn on the same texts, each batch run once before; {env['dtype']} on {env['device']}, "
        f"{env['threads_in_this_process']} thread(s), load {env['load_1_5_15_min'][0]} at the end. "
        "From texts to embeddings; ratios are medians over rounds.",
        table(
            ("aim", "aimed at", "measured", "by processor time", "met"),
            (
                (
                    a["aim"],
                    f">= {a['least']}" if "least" in a else f"<= {a['most']}",
                    a["measured"],
                    a.get("by_processor_time", ""),
                    yes_or_no(a["met"]),
                )
                for a in found["aims"]
            ),
        ),
        "## Engine",
        _timings(engine["timings"]),
        "## Floor",
        _floor(engine["floor"]),
        "## One tenant's flood",
        _flood(engine["fairness"]),
        "## More tenants than slots",
        _paging(engine["paging"]),
        "## Two encoders in one engine",
        _encoders(engine["encoders"]),
        "## Checked before timing",
        f"Float32, rows of mixed batches against each adapter alone: differ by at most "
        f"{equal['largest_difference']:.1e}; control, another adapter: at least "
        f"{equal['control_another_adapter']:.1e}.",
        f"Top-1 over {top1['texts']} texts: {top1['engine']:.4f}, in float32 "
        f"{top1['float32']:.4f}; the same best FAQ for {100 * top1['same_answer']:.2f}%.",
        _peer(engine["peer"]),
        setting(env),
    ]
    return document(*parts)


def _timings(timings: Sequence[Mapping[str, Any]]) -> str:
    return table_of(
        (
            {**cell, "side": name, **side}
            for cell in timings
            for name, side in cell["sides"].items()
        ),
        {
            "batch": "{batch}",
            "mix": "{mix}",
            "side": "{side}",
            "min ms": "{min_ms:.1f}",
            "median ms": "{median_ms:.1f}",
            "processor ms": "{processor_median_ms:.1f}",
            "texts/s": "{texts_per_s:.0f}",
            "mixed is times as fast": "{mixed_is_times_as_fast:.2f}",
            "as cheap": "{mixed_is_times_as_cheap:.2f}",
        },
    )


def _floor(floor: Mapping[str, Any]) -> str:
    per_token = floor["flops_per_token"]
    words = (
        f"A token takes {per_token['encoder'] / 1e6:.1f} million operations in the encoder and "
        f"{per_token['adapter'] / 1e6:.2f} in an adapter, of "
        f"{floor['bytes_of_an_adapter'] / 1e3:.0f} kB. This machine's large products run at "
        f"{floor['gflops_per_s']:.0f} GFLOP/s, reads at {floor['read_gbytes_per_s']:.1f} GB/s. "
        "Milliseconds a batch at these rates, and as found:"
    )
    columns = {
        "batch": "{batch}",
        "mix": "{mix}",
        "encoder: floor": "{encoder_ms:.1f}",
        "encoder: took": "{encoder_took_ms:.1f}",
        "adapters: floor": "{adapters_ms:.2f} ({of_which_reading_ms:.2f} reading)",
        "adapters: took": "{adapters_took_ms:.2f}",
    }
    return words + "\n\n" + table_of(floor["cells"], columns)


def _flood(found: Mapping[str, Any]) -> str:
    return (
        f"The engine ranks {found['engine_queries_per_s']:.0f} queries/s in batches of 32. Nine "
        f"tenants send {found['others_queries_per_s']:.0f}/s through the queue, single queries: "
        f"p95 {found['others_p95_ms']:.1f} ms. A tenth sends {found['flood_queries_per_s']:.0f}/s "
        f"beside them, of which {found['flood_answered_per_s']:.0f}/s are answered: the nine's p95 "
        f"is {found['others_p95_ms_in_flood']:.1f} ms, {found['times']:.2f} times as long, and "
        f"{found['others_refused']} of their queries are refused."
    )


def _paging(found: Mapping[str, Any]) -> str:
    words = (
        f"{found['tenants']} live tenants take turns in {found['slots']} slots of "
        f"{found['bank_mib']} MiB; the process grew by {found['process_grew_mib']} MiB. The first "
        f"refresh took {found['first_refresh_s']} s, one without a change "
        f"{found['refresh_without_change_ms']} ms. Asking for every tenant once, in turn, took "
        f"{found['scan_ms_a_tenant']} ms each. Single queries, "
        f"{found['queries_per_s']} a second:"
    )
    rows = [
        tuple({**cell, "why": "; ".join(f"{n} {why}" for why, n in cell["why"].items())}.values())
        for cell in found["traffics"]
    ]
    head = [name.replace("_", " ") for name in found["traffics"][0]]
    return words + "\n\n" + table(tuple(head), rows)


def _encoders(found: Mapping[str, Any]) -> str:
    words = (
        f"{found['tenants_of_each']} tenants and {found['clients_of_each']} clients of each, in "
        f"{found['rounds']} rounds. Queries a second of processor time that the engine spends on "
        "the encoder's batches, in an engine of its own and in one for both; shares of one round, "
        "their median and the lowest:"
    )
    rows = ({"encoder": name, **of} for name, of in found["encoders"].items())
    columns = {
        "encoder": "{encoder}",
        "alone": "{alone_queries_per_s:.0f}",
        "together": "{together_queries_per_s:.0f}",
        "share": "{share:.3f}",
        "lowest": "{lowest_share:.3f}",
    }
    return words + "\n\n" + table_of(rows, columns)


def _peer(peer: Mapping[str, Any]) -> str:
    if "skipped" in peer:
        return f"sentence-transformers was skipped: {peer['skipped']}."
    return (
        f"sentence-transformers {peer['version']} with torch {peer['torch']} in its own "
        f"environment: the bare encoder's embeddings differ by {peer['largest_difference']:.1e}."
    )
