"""`adapterdistill bench privacy`: from folders of tenants to the written report."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from adapterdistill.bench.privacy.study import SIZES, Guessed, Made, guess, measure
from adapterdistill.bench.sizes import named_size
from adapterdistill.bench.tenants import spread
from adapterdistill.bench.transfer.cells import open_workbench
from adapterdistill.bench.transfer.sizes import SIZES as TENANTS
from adapterdistill.bench.transfer.study import read_tenants
from adapterdistill.errors import ConfigError
from adapterdistill.evaluation.metrics import paired_bootstrap
from adapterdistill.testbed.encoder_options import EncoderOptions
from adapterdistill.testbed.environment import environment
from adapterdistill.testbed.progress import phase
from adapterdistill.testbed.reporting import Report, write_report

_MAX_TOKENS = 64
_BASE = "bare encoder"


def privacy_command(
    *,
    data: Path,
    out: Path,
    cache: Path,
    size: str,
    tenants: Sequence[str],
    seeds: int,
    encoder: EncoderOptions,
) -> Report:
    """Measure on three tenants, or those named, and write the report after each.

    Raises:
        ConfigError: a tenant is none of the data's.
    """
    torch.set_num_threads(1)
    encoder, wanted = replace(encoder, max_tokens=_MAX_TOKENS), named_size(SIZES, size)
    found = read_tenants(data, cache / "tenants", encoder.load(), named_size(TENANTS, size))
    unknown = sorted(set(tenants) - set(found))
    if unknown:
        raise ConfigError(f"--tenants names {', '.join(unknown)}: there are {', '.join(found)}")
    names = tuple(tenants) or spread(sorted(found), 3)
    bench = open_workbench(encoder, found, cache)
    made: list[Made] = []
    guessed: list[Guessed] = []
    with phase("tenants and seeds", len(names) * seeds) as step:
        for seed in range(seeds):
            for name in names:
                made += measure(bench, found[name], seed, wanted)
                guessed += guess(bench, found[name], seed, wanted)
                report = _write(out, made, guessed, environment(bench.encoder))
                step()
    return report


def _write(
    out: Path, made: Sequence[Made], guessed: Sequence[Guessed], facts: dict[str, object]
) -> Report:
    figures = {
        "environment": facts,
        "made": [
            asdict(one) | {"membership": one.membership and one.membership.model_dump()}
            for one in made
        ],
        "guessed": [asdict(one) for one in guessed],
    }
    return write_report(out, figures, "\n".join([*_table(made), "", *_guesses(guessed), ""]))


def _table(made: Sequence[Made]) -> Iterable[str]:
    bare = {(one.tenant, one.seed): one.top1 for one in made if one.way == _BASE}
    tenants = sorted({one.tenant for one in made})
    yield "| made by | top-1, % | over the bare encoder | membership AUC | range of its intervals |"
    yield "|---|---|---|---|---|"
    for way in dict.fromkeys(one.way for one in made):
        of_way = [one for one in made if one.way == way]
        gains = [
            torch.tensor(
                [
                    100 * (one.top1 - bare[one.tenant, one.seed])
                    for one in of_way
                    if one.tenant == tenant
                ]
            )
            for tenant in tenants
        ]
        gain = paired_bootstrap(gains)
        audits = [one.membership for one in of_way if one.membership is not None]
        auc = f"{statistics.fmean(one.auc for one in audits):.3f}" if audits else "-"
        between = (
            f"{min(one.low for one in audits):.2f} to {max(one.high for one in audits):.2f}"
            if audits
            else "-"
        )
        right = 100 * statistics.fmean(one.top1 for one in of_way)
        interval = f"{gain.mean:+.1f} [{gain.low:+.1f}, {gain.high:+.1f}]"
        yield f"| {way} | {right:.1f} | {interval} | {auc} | {between} |"


def _guesses(guessed: Sequence[Guessed]) -> Iterable[str]:
    yield "| order of rows | the right row gives the nearest weights | the same weights |"
    yield "|---|---|---|"
    for order in dict.fromkeys(one.order for one in guessed):
        of_order = [one for one in guessed if one.order == order]
        confirmed = sum(one.confirmed for one in of_order)
        exact = sum(one.exact for one in of_order)
        yield f"| {order} | {confirmed} of {len(of_order)} | {exact} of {len(of_order)} |"
