"""The report of the training benchmark."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from adapterdistill.backbone import Encoder
from adapterdistill.bench.tenants import BenchTenant, open_dataset, read_tenant, tenant_names
from adapterdistill.bench.training.measure import BATCH_SIZE, measure_training
from adapterdistill.bench.training.stages import measure_stages, small_rows
from adapterdistill.distill.batches import TrainingRows
from adapterdistill.testbed.encoder_options import EncoderOptions
from adapterdistill.testbed.environment import environment
from adapterdistill.testbed.reporting import Report, document, setting, table, write_report


def training_command(
    *,
    data: Path,
    out: Path,
    encoder: EncoderOptions,
    threads: int,
    counts: tuple[int, ...],
    rounds: int,
    peer_env: Path | None,
) -> Report:
    """Measure and write the report."""
    torch.set_num_threads(threads)
    timed, exact = encoder.load(), encoder.load_exact()
    tenants = training_rows_of(data, out / "tenants", exact)
    rows = batch_rows(tenants)
    found = measure_training(timed, exact, rows, counts=counts, rounds=rounds, peer_env=peer_env)
    as_onboarding = replace(encoder, dtype="auto").load()
    with tempfile.TemporaryDirectory() as folder:
        found["small_tenant"] = measure_stages(as_onboarding, small_rows(tenants), Path(folder))
    found = {"benchmark": "training", "environment": environment(timed), **found}
    return write_report(out, found, markdown(found))


def training_rows_of(data: Path, workspace: Path, encoder: Encoder) -> list[BenchTenant]:
    """All tenants in the folder with their training rows, and one other row each."""
    return [
        read_tenant(open_dataset(data / name, workspace), name, encoder, max_test=1, max_valid=1)
        for name in tenant_names(data)
    ]


def batch_rows(tenants: Sequence[BenchTenant], size: int = BATCH_SIZE) -> TrainingRows:
    """One batch of training queries from all tenants in turn: lengths as in the data."""
    ids: list[tuple[int, ...]] = []
    labels: list[int] = []
    for place, tenant in enumerate(tenants):
        share = len(range(place, size, len(tenants)))
        # Two queries an FAQ where there is room, so that the loss has positives.
        rows = tenant.train.select(tenant.train.labels.argsort(stable=True).tolist()[:share])
        ids += rows.ids
        labels += [1000 * place + label for label in rows.labels.tolist()]
    return TrainingRows(ids, torch.tensor(labels))


def markdown(found: Mapping[str, Any]) -> str:
    """The report for people."""
    env, peer = found["environment"], found["peer"]
    equal = found["equal_to_plain_formula"]
    parts = [
        "Cost of a training step",
        f"A batch of {found['batch']['rows']} rows, {found['batch']['tokens']} tokens, lengths as "
        f"in the data; bottleneck {found['bottleneck_size']}; {found['rounds']} rounds, all rows "
        f"in turn; {env['dtype']} on {env['device']}, {env['threads_in_this_process']} thread(s), "
        f"load {env['load_1_5_15_min'][0]} at the end. Relative to the own adapter's step of the "
        "same side. A difference inside the spread is noise.",
        table(
            ("step", "N", "min ms", "median ms", "x own (min)", "x own (median)", "spread"),
            (
                (
                    t["kind"],
                    t["teachers"] or "",
                    f"{1000 * t['min_s']:.1f}",
                    f"{1000 * t['median_s']:.1f}",
                    f"{t['ratio_of_minima']:.2f}",
                    f"{t['ratio_of_medians']:.2f}",
                    f"{100 * t['spread']:.0f}%",
                )
                for t in found["timings"]
            ),
        ),
        "## A small tenant",
        _small_tenant(found["small_tenant"]),
        "## Equality, checked before timing",
        f"Factored against plain formula, float32: outputs differ by at most "
        f"{equal['outputs']:.1e}, gradients by {equal['gradients']:.1e} of the largest.",
        _peer(peer),
        setting(env),
    ]
    return document(*parts)


def _small_tenant(small: Mapping[str, Any]) -> str:
    shape = (
        f"{small['faqs']} FAQs, {small['queries']} queries, {small['teachers']} teachers, "
        f"{small['dtype']}: both stages as onboarding runs them, cross-validation and all steps "
        "included. Shares of the processor time of a step."
    )
    rows = [
        (
            stage["stage"],
            stage["steps"],
            f"{stage['seconds']:.1f}",
            ", ".join(f"{part} {100 * share:.0f}%" for part, share in stage["shares"].items()),
        )
        for stage in small["stages"]
    ]
    return shape + "\n\n" + table(("stage", "steps", "seconds", "where the time goes"), rows)


def _peer(peer: Mapping[str, Any]) -> str:
    if "skipped" in peer:
        return f"The adapters library was skipped: {peer['skipped']}."
    d = peer["largest_difference"]
    return (
        f"With adapters {peer['adapters']} in its own environment, float32, rows padded to the "
        f"longest: our adapter loaded there differs by {d['ours_loaded_there']:.1e}, one trained "
        f"there and loaded here by {d['theirs_loaded_here']:.1e}, a fusion of equal weights by "
        f"{d['fusion']:.1e}; control, another adapter: {d['control_another_adapter']:.1e}."
    )
