"""`adapterdistill bench serving|calibration|registry`: how fast services are, and how they err.

Checks that were part of these commands are drills now. Their options, and `bench soak`, are aliases
for one release.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from adapterdistill.cli.options import (
    Data,
    Device,
    Dtype,
    EncoderName,
    Format,
    Out,
    Output,
    Peer,
    Size,
    SizeOption,
    Threads,
    number,
    show,
)
from adapterdistill.errors import ConfigError, RegistryError, ServingError
from adapterdistill.testbed.encoder_options import EncoderOptions

if TYPE_CHECKING:  # they import torch
    from adapterdistill.testbed.endpoint import Endpoint
    from adapterdistill.testbed.reporting import Part

# What a server cuts at by default.
_MAX_TOKENS_SERVED = 128
# By size: requests of `drill isolation` and seconds of `drill kill-serve-replica`.
_ENDPOINT_CHECKS = {
    Size.tiny: (0, 8.0),
    Size.quick: (20_000, 40.0),
    Size.standard: (100_000, 120.0),
}
# By size: calls of `drill fuzz-registry` and kills of `drill kill-registry`.
_REGISTRY_CHECKS = {Size.tiny: (300, 1), Size.quick: (5_000, 5), Size.standard: (100_000, 100)}


def register(app: typer.Typer) -> None:
    """Add the commands to `adapterdistill bench`."""
    for command in (serving, calibration, registry):
        app.command()(command)
    app.command(hidden=True)(soak)


def _moved(new: str) -> None:
    print(f"note: this is a drill now: adapterdistill {new}", file=sys.stderr)


def serving(
    out: Out,
    data: Data = None,
    size: SizeOption = Size.quick,
    threads: Threads = 1,
    peer_env: Peer = None,
    http: Annotated[
        bool,
        typer.Option(
            "--http", help="Instead of the engine: `adapterdistill serve` over HTTP, on the CPU."
        ),
    ] = False,
    requests: Annotated[int | None, typer.Option(min=0, hidden=True)] = None,
    encoder: EncoderName = "minilm-l6",
    dtype: Dtype = "auto",
    device: Device = "cpu",
    paging_only: Annotated[bool, typer.Option(help="Only more tenants than slots.")] = False,
    isolation_only: Annotated[bool, typer.Option(hidden=True)] = False,
    fairness_only: Annotated[bool, typer.Option(help="Over HTTP: only a flood.")] = False,
    output: Output = Format.table,
) -> None:
    """Measure how fast many tenants are served, beside the bare encoder and sentence-transformers.

    --data holds a faqs.jsonl of many tenants, itself or in `faqbanks`; without it the samples are
    served again and again. With --http it fails if an answer is wrong.
    """
    from adapterdistill.testbed.endpoint import banks_folder

    if not http:
        from adapterdistill.bench.engine.report import serving_command

        report = serving_command(
            data=banks_folder(data),
            out=out,
            size=size,
            encoder=EncoderOptions(encoder, dtype, device, _MAX_TOKENS_SERVED),
            threads=threads,
            peer_env=peer_env,
            paging_only=paging_only,
        )
        show(report, output)
        return
    from adapterdistill.bench.endpoint import command
    from adapterdistill.bench.sizes import named_size

    chosen = named_size(command.SIZES, size)
    if isolation_only or fairness_only:
        flood_rounds = 0 if isolation_only else chosen.flood_rounds
        chosen = replace(chosen, rounds=0, flood_rounds=flood_rounds)
    report = command.http_command(
        data=data,
        out=out,
        size=chosen,
        encoder=EncoderOptions(encoder, dtype, max_tokens=_MAX_TOKENS_SERVED),
        threads=threads,
        more=_endpoint_checks(size, requests, isolation_only, fairness_only),
    )
    show(report, output)
    if faults := report.figures["faults"]:
        raise ServingError(f"{len(faults)} faults over HTTP: see the report")


def _endpoint_checks(
    size: Size, requests: int | None, isolation_only: bool, fairness_only: bool
) -> list[Callable[["Endpoint"], "Part"]]:
    """Makers of the checks for which the size or an old option asks."""
    from adapterdistill.drills.endpoint.isolation import isolation_part
    from adapterdistill.drills.endpoint.kill import kill_part

    default, seconds = _ENDPOINT_CHECKS[size]
    checked = 0 if fairness_only else default if requests is None else requests
    checks: list[Callable[[Endpoint], Part]] = []
    if checked:
        _moved(f"drill isolation --requests {checked}")
        checks.append(lambda endpoint: isolation_part(endpoint, checked))
    if not (isolation_only or fairness_only):
        _moved(f"drill kill-serve-replica --seconds {seconds:g}")
        checks.append(lambda endpoint: kill_part(endpoint, seconds))
    return checks


def calibration(
    out: Out,
    data: Data = None,
    size: SizeOption = Size.quick,
    encoder: EncoderName = "minilm-l6",
    dtype: Dtype = "auto",
    device: Device = "cpu",
    output: Output = Format.table,
) -> None:
    """Check stated confidence, expected error and drift alarms on test rows.

    --data holds tenant folders, itself or in `tenants`; without it the samples are taken.
    """
    from adapterdistill.bench.calibration.report import calibration_command
    from adapterdistill.testbed.endpoint import SAMPLES

    report = calibration_command(
        data=data or SAMPLES,
        out=out,
        size=size,
        encoder=EncoderOptions(encoder, dtype, device, _MAX_TOKENS_SERVED),
    )
    show(report, output)


def registry(
    out: Out,
    size: SizeOption = Size.quick,
    adapters: Annotated[
        int | None, number("Adapters to hold. Default: the size's; 0: none.", low=0)
    ] = None,
    fuzz: Annotated[int | None, typer.Option(min=0, hidden=True)] = None,
    kills: Annotated[int | None, typer.Option(min=0, hidden=True)] = None,
    seed: Annotated[int, typer.Option(min=0, hidden=True)] = 0,
    output: Output = Format.table,
) -> None:
    """Measure a registry that holds many adapters, under load. It fails if it shows a fault."""
    from adapterdistill.bench.registry.command import SIZES, registry_command
    from adapterdistill.bench.sizes import named_size
    from adapterdistill.drills.registry.fuzz import fuzz_part
    from adapterdistill.drills.registry.kills import kills_part

    chosen = named_size(SIZES, size)
    chosen = replace(chosen, adapters=chosen.adapters if adapters is None else adapters)
    calls, killed = (
        default if given is None else given
        for default, given in zip(_REGISTRY_CHECKS[size], (fuzz, kills), strict=True)
    )
    if not (chosen.adapters or calls or killed):
        raise ConfigError("nothing to measure: --adapters, --fuzz and --kills are all 0")
    with TemporaryDirectory() as folder:
        checks = []
        if calls:
            _moved(f"drill fuzz-registry --calls {calls}")
            checks.append(fuzz_part(calls, seed))
        if killed:
            _moved(f"drill kill-registry --kills {killed}")
            checks.append(kills_part(Path(folder), killed, seed))
        report = registry_command(out=out, size=chosen, more=checks)
    show(report, output)
    if faults := report.figures["faults"]:
        raise RegistryError(f"the registry showed {len(faults)} faults: see the report")


def soak(
    out: Out,
    minutes: Annotated[float, typer.Option(min=0.05)] = 30.0,
    rate: Annotated[float, typer.Option(min=0.1)] = 20.0,
    output: Output = Format.table,
) -> None:
    """The former name of `adapterdistill drill soak`."""
    from adapterdistill.cli.drill import end_orderly
    from adapterdistill.drills.soak.command import soak_command

    _moved(f"drill soak --minutes {minutes:g} --rate {rate:g} --out {out}")
    end_orderly()
    report = soak_command(out=out, minutes=minutes, rate_per_s=rate)
    show(report, output)
    missed = sum(not aim["met"] for aim in report.figures["aims"])
    if missed:
        raise ServingError(f"{missed} aims of the soak are missed: see the report")
