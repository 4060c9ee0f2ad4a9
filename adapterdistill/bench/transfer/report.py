"""The report of the transfer benchmark."""

from collections.abc import Mapping, Sequence
from typing import Any

from adapterdistill.bench.transfer.method_table import LABELS, OURS, OWN
from adapterdistill.testbed.reporting import document, table


def markdown(found: Mapping[str, Any], plots: Sequence[str]) -> str:
    """The report for people."""
    parts = [
        "Transfer benchmark",
        _verdict(found),
        "## Accuracy\n\nMacro over tenants; top-1 in %, N teachers.",
        _accuracy(found["rows"]),
        "## Gain\n\nTop-1 points over the tuned own adapter (over the frozen encoder at k = 0), "
        "same tenants, seeds and queries; 95% paired bootstrap over tenants, then queries.",
        _gains(found["gains"], over_baseline=True),
        "## AdapterDistillation against each other method",
        _gains([g for g in found["gains"] if g["method"] == OURS], over_baseline=False),
        "## By relation of the teachers",
        _strata(found["strata"]),
        "## Gain by tenant\n\nAdapterDistillation over the own adapter, top-1 points, largest N.",
        _by_tenant(found["gains"]),
        "## Over k",
        _curves(found["curves"]),
        "## Out of scope\n\nTenants with out-of-scope test rows. The threshold keeps 95% of the "
        "training queries, each left out of the index once.",
        _out_of_scope(found["rows"]),
        "## What was chosen, on other tenants' `valid` rows",
        table(
            ("method", "k", "learning rate", "steps", "scoring", "tenants"),
            (
                (LABELS.get(c["method"], c["method"]), _k(c["k"]), f"{c['learning_rate']:g}",
                 c["steps"], c["scoring"], c["tenants"])
                for c in found["choices"]
            ),
        ),
        "## How it was run",
        _setting(found),
        *(f"![{name}]({name})" for name in plots),
    ]  # fmt: skip
    return document(*parts)


def _verdict(found: Mapping[str, Any]) -> str:
    lines = []
    harm = "no earlier tenant's outputs changed by a byte" if found["no_harm"] else "HARM FOUND"
    lines.append(f"- After every arrival: {harm}.")
    if not found["complete"]:
        lines.append(f"- Not all seeds were run; complete ones: {found['seeds']}.")
    aims = table(
        ("aim, at the largest N", "k", "measured (95%)", "met"),
        ((a["text"], _k(a["k"]), _points(a), _met(a)) for a in found["aims"]),
    )
    return "\n".join(["Top-1 points.", "", aims, "", *lines])


def _accuracy(rows: Sequence[Mapping[str, Any]]) -> str:
    return table(
        ("k", "method", "N", "top-1", "MRR", "recall@5", "cells", "median training s"),
        (
            (
                _k(r["k"]),
                r["label"] + (", related kept out" if r["unrelated"] else ""),
                r["teacher_count"] or "",
                f"{100 * r['top1']:.2f}",
                f"{r['mrr']:.4f}",
                f"{r['recall_at_5']:.4f}",
                r["cells"],
                f"{r['train_s_median']:.1f}",
            )
            for r in rows
        ),
    )


def _gains(gains: Sequence[Mapping[str, Any]], *, over_baseline: bool) -> str:
    return table(
        ("k", "N", "method", "over", "points (95%)", "wins / ties / losses"),
        (
            (
                _k(g["k"]),
                g["teacher_count"] or "",
                LABELS[g["method"]],
                LABELS[g["over"]],
                _points(g),
                f"{g['wins']} / {g['ties']} / {g['losses']}",
            )
            for g in gains
            if (g["over"] == ("frozen" if g["k"] == 0 else OWN)) == over_baseline
        ),
    )


def _strata(strata: Sequence[Mapping[str, Any]]) -> str:
    return table(
        ("k", "N", "stratum", "tenants", "points (95%)"),
        (
            (_k(s["k"]), s["teacher_count"], s["stratum"], len(s["by_tenant"]), _points(s))
            for s in strata
        ),
    )


def _by_tenant(gains: Sequence[Mapping[str, Any]]) -> str:
    ours = [g for g in gains if g["method"] == OURS and g["over"] in (OWN, "frozen")]
    ours = [g for g in ours if g["over"] == ("frozen" if g["k"] == 0 else OWN)]
    largest = max((g["teacher_count"] for g in ours), default=0)
    ours = [g for g in ours if g["teacher_count"] == largest]
    names = sorted({name for g in ours for name in g["by_tenant"]})
    return table(
        ("tenant", *(f"k = {_k(g['k'])}" for g in ours)),
        (
            (name, *(f"{100 * g['by_tenant'].get(name, float('nan')):+.2f}" for g in ours))
            for name in names
        ),
    )


def _curves(curves: Mapping[str, Any]) -> str:
    areas = table(
        ("method", "N", "area under top-1 over k > 0"),
        (
            (LABELS[a["method"]], a["teacher_count"] or "", f"{100 * a['area_top1']:.2f}")
            for a in curves["areas"]
        ),
    )
    reach = [
        f"With N = {e['teacher_count']}, the own adapter reaches at k = "
        + (f"{e['own_reaches_at_k']:.1f}" if e["own_reaches_at_k"] is not None else "none measured")
        + f" what ours has at k = {e['k']}."
        for e in curves["data_efficiency"]
    ]
    return "\n\n".join([areas, *reach])


def _out_of_scope(rows: Sequence[Mapping[str, Any]]) -> str:
    return table(
        ("k", "method", "N", "AUROC", "turned away", "wrongly turned away"),
        (
            (
                _k(r["k"]),
                r["label"],
                r["teacher_count"] or "",
                f"{r['out_of_scope']['auroc']:.4f}",
                *(
                    f"{100 * r['out_of_scope'][name]:.1f}%" if name in r["out_of_scope"] else ""
                    for name in ("recall", "false_rejection")
                ),
            )
            for r in rows
            if "out_of_scope" in r and not r["unrelated"]
        ),
    )


def _setting(found: Mapping[str, Any]) -> str:
    env, size = found["environment"], found["size"]
    lines = [
        f"- {key.replace('_', ' ')}: "
        + (
            ", ".join(f"{n} {v}" for n, v in value.items())
            if isinstance(value, dict)
            else str(value)
        )
        for key, value in env.items()
    ]
    lines += [
        f"- size {size['name']}: {len(found['tenants'])} tenants, seeds {found['seeds']}, at most "
        f"{size['max_test']} test and {size['max_valid']} valid queries a tenant, sampled by hash",
        f"- {found['cells']} cells, of which and of whose parts {found['computed_now']} were made "
        f"in this run, in {found['seconds']:.0f} s (estimated {found['estimate_s']:.0f} s)",
    ]
    return "\n".join(lines)


def _met(aim: Mapping[str, Any]) -> str:
    return "yes" if aim["met"] else "NO"


def _points(g: Mapping[str, Any]) -> str:
    mean = g["measured"] if "measured" in g else g["top1"]
    return f"{100 * mean:+.2f} [{100 * g['low']:+.2f}, {100 * g['high']:+.2f}]"


def _k(k: int | None) -> str:
    return "full" if k is None else str(k)
