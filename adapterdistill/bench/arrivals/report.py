"""The report on arrivals for people."""

from collections.abc import Mapping
from typing import Any

from adapterdistill.bench.arrivals.findings import LABELS
from adapterdistill.testbed.reporting import document, percent, setting, table, yes_or_no


def markdown(found: Mapping[str, Any]) -> str:
    missing = found["planned"] - found["arrivals"]
    return document(
        "What a tenant is served after `onboard`",
        f"{missing} of {found['planned']} arrivals have no result yet." if missing else "",
        *(
            f"Nothing is served: {one['tenant']}, k = {_k(one['k'])}, unlabelled queries "
            f"{yes_or_no(one['unlabelled'])}, seed {one['seed']}."
            for one in found["not_served"]
        ),
        "Top-1 points of what is served:",
        table(
            ("k", "unlabelled", "over", "aim", "measured (95%)", "met"),
            (
                (_k(a["k"]), yes_or_no(a["unlabelled"]), LABELS[a["over"]],
                 f"{100 * a['aim']:+g}", _points(a), yes_or_no(a["met"]))
                for a in found["aims"]
            ),
        ),
        *(part for block in found["blocks"] for part in _block(block)),
        setting(found["environment"]),
    )  # fmt: skip


def _block(block: Mapping[str, Any]) -> list[str]:
    with_pool = ", with unlabelled queries" if block["unlabelled"] else ""
    floor, stages = block["floor"], block["stage_seconds"]
    worst = "" if floor["worst"] is None else f", the worst by {100 * floor['worst']:+.1f} points"
    return [
        f"## k = {_k(block['k'])}{with_pool}",
        f"{block['tenants']} tenants, seeds {', '.join(map(str, block['seeds']))}.",
        table(
            ("", "top-1", "MRR", "seconds", "served over it (95%)", "wins / ties / losses",
             "AUROC", "out of scope found at 5% false rejection",
             "turned away out of scope / in scope"),
            ([*_row(name, row)] for name, row in block["rows"].items()),
        ),
        f"Served more than 1 point under the better of bare centroid and logistic regression: "
        f"{floor['under_by_more_than_1']} tenants{worst}. Quarantined: {block['quarantined']}. "
        f"Median seconds by stage: {', '.join(f'{n} {s:.1f}' for n, s in stages.items())}. "
        f"Peak memory of a process that ran arrivals: {block['peak_rss_mb']:.0f} MB.",
    ]  # fmt: skip


def _row(name: str, row: Mapping[str, Any]) -> list[str]:
    over, scope = row["served_over_it"], row["out_of_scope"] or {}
    away = [percent(scope[key]) for key in ("turned_away", "wrongly_turned_away") if key in scope]
    return [
        LABELS[name],
        f"{100 * row['top1']:.1f}",
        f"{row['mrr']:.3f}",
        "" if row["seconds"] is None else f"{row['seconds']:.1f}",
        _points(over) if over else "",
        f"{over['wins']} / {over['ties']} / {over['losses']}" if over else "",
        f"{scope['auroc']:.3f}" if scope else "",
        percent(scope.get("recall")),
        " / ".join(away),
    ]


def _points(found: Mapping[str, Any]) -> str:
    mean, low, high = (100 * found[key] for key in ("mean", "low", "high"))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def _k(k: int | None) -> str:
    return "all" if k is None else str(k)
