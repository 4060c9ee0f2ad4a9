"""`adapterdistill bench serving|calibration|registry|soak`: what services bear, how they err."""

import json
from dataclasses import replace
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from adapterdistill.cli.options import Device, Dtype, Format, Out, Output
from adapterdistill.errors import ConfigError, RegistryError, ServingError

# What a server cuts at by default.
_MAX_TOKENS_SERVED = 128


class ServiceSize(StrEnum):
    tiny = "tiny"
    quick = "quick"
    standard = "standard"


def register(app: typer.Typer) -> None:
    """Add the commands to `adapterdistill bench`."""
    for command in (serving, calibration, registry, soak):
        app.command()(command)


def serving(
    out: Out,
    data: Annotated[
        Path | None,
        typer.Option(
            envvar="ADAPTERDISTILL_DATA",
            help="Folder of a faqs.jsonl of many tenants, or with it in `faqbanks`. "
            "Default: the samples, again and again.",
        ),
    ] = None,
    size: Annotated[ServiceSize, typer.Option()] = ServiceSize.quick,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each side.")] = 1,
    peer_env: Annotated[
        Path | None, typer.Option(help="Folder for sentence-transformers' own environment.")
    ] = None,
    http: Annotated[
        bool,
        typer.Option(
            "--http",
            help="Instead of the engine: `adapterdistill serve` over HTTP, its speed, isolation "
            "and a killed replica, on the CPU.",
        ),
    ] = False,
    requests: Annotated[
        int | None,
        typer.Option(min=0, help="Checked for isolation over HTTP. Default: the size's."),
    ] = None,
    encoder: Annotated[str, typer.Option(help="Name or folder of the encoder.")] = "minilm-l6",
    dtype: Dtype = "auto",
    device: Device = "cpu",
    paging_only: Annotated[bool, typer.Option(help="Only more tenants than slots.")] = False,
    isolation_only: Annotated[bool, typer.Option(help="Over HTTP: only isolation.")] = False,
    fairness_only: Annotated[bool, typer.Option(help="Over HTTP: only a flood.")] = False,
    output: Output = Format.table,
) -> None:
    """How fast many tenants are served, beside the bare encoder and sentence-transformers.

    With --http: how fast over HTTP, and whether any answer is wrong; then it fails.
    """
    folder = data or Path(str(files("adapterdistill"))) / "samples"
    if (folder / "faqbanks").is_dir():
        folder /= "faqbanks"
    if http:
        from adapterdistill.bench.endpoint import command

        chosen = command.SIZES[size.value]
        if requests is not None:
            chosen = replace(chosen, requests=requests)
        if isolation_only:
            chosen = replace(chosen, rounds=0, kill_s=0.0, flood_rounds=0)
        if fairness_only:
            chosen = replace(chosen, rounds=0, kill_s=0.0, requests=0)
        found = command.http_command(
            data=folder,
            out=out,
            size=chosen,
            encoder=encoder,
            dtype=dtype,
            threads=threads,
            max_tokens=_MAX_TOKENS_SERVED,
        )
        name = "http.json" if output is Format.json else "http.md"
        typer.echo((out / name).read_text())
        if found["faults"]:
            raise ServingError(f"{len(found['faults'])} faults over HTTP: see the report")
        return
    from adapterdistill.bench.engine.report import markdown, serving_command

    found = serving_command(
        data=folder,
        out=out,
        size=size.value,
        encoder=encoder,
        dtype=dtype,
        device=device,
        threads=threads,
        peer_env=peer_env,
        max_tokens=_MAX_TOKENS_SERVED,
        paging_only=paging_only,
    )
    typer.echo(json.dumps(found, indent=1) if output is Format.json else markdown(found))


def calibration(
    out: Out,
    data: Annotated[
        Path | None,
        typer.Option(
            envvar="ADAPTERDISTILL_DATA",
            help="Folder of tenant folders, or with it in `tenants`. Default: the samples.",
        ),
    ] = None,
    size: Annotated[ServiceSize, typer.Option(help="How much is run.")] = ServiceSize.quick,
    encoder: Annotated[str, typer.Option(help="Name or folder of the encoder.")] = "minilm-l6",
    dtype: Dtype = "auto",
    device: Device = "cpu",
    output: Output = Format.table,
) -> None:
    """Whether stated confidence, expected error and drift alarms hold on test rows."""
    from adapterdistill.bench.calibration.report import calibration_command, markdown
    from adapterdistill.bench.encoder_options import Crew

    found = calibration_command(
        data=data or Path(str(files("adapterdistill"))) / "samples",
        out=out,
        size=size.value,
        crew=Crew(1, encoder, dtype, device, _MAX_TOKENS_SERVED),
    )
    typer.echo(json.dumps(found, indent=1) if output is Format.json else markdown(found))


def registry(
    out: Out,
    size: Annotated[ServiceSize, typer.Option(help="How much of everything.")] = (
        ServiceSize.quick
    ),
    adapters: Annotated[
        int | None, typer.Option(min=0, help="Adapters to hold. Default: the size's; 0: none.")
    ] = None,
    fuzz: Annotated[
        int | None, typer.Option(min=0, help="Mutated calls. Default: the size's; 0: none.")
    ] = None,
    kills: Annotated[
        int | None, typer.Option(min=0, help="Times to kill it. Default: the size's; 0: never.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of mutated calls and kills.")] = 0,
    output: Output = Format.table,
) -> None:
    """A registry under load, under mutated calls and under kill -9. Fails if it shows a fault."""
    from adapterdistill.bench.registry.command import SIZES, registry_command

    chosen = SIZES[size.value]
    chosen = replace(
        chosen,
        adapters=chosen.adapters if adapters is None else adapters,
        fuzz=chosen.fuzz if fuzz is None else fuzz,
        kills=chosen.kills if kills is None else kills,
    )
    if not (chosen.adapters or chosen.fuzz or chosen.kills):
        raise ConfigError("nothing to measure: --adapters, --fuzz and --kills are all 0")
    found = registry_command(out=out, size=chosen, seed=seed)
    text = (out / "report.json").read_text() if output is Format.json else None
    typer.echo(text or (out / "report.md").read_text())
    if found["faults"]:
        raise RegistryError(f"the registry showed {len(found['faults'])} faults: see the report")


def soak(
    out: Out,
    minutes: Annotated[
        float, typer.Option(min=0.05, help="For how long it is asked and onboards.")
    ] = 30.0,
    rate: Annotated[float, typer.Option(min=0.1, help="Queries a second, of all tenants.")] = 20.0,
    output: Output = Format.table,
) -> None:
    """Onboard and answer at once for a long time: what grows, and what is left over. Fails if
    memory grows, an answer is wrong, or a process, actor, descriptor or file stays.
    """
    from adapterdistill.cli.drill import end_orderly
    from adapterdistill.drills.soak.command import soak_command

    end_orderly()
    found = soak_command(out=out, minutes=minutes, rate_per_s=rate)
    typer.echo((out / ("soak.json" if output is Format.json else "soak.md")).read_text())
    missed = sum(not aim["met"] for aim in found["aims"])
    if missed:
        raise ServingError(f"{missed} aims of the soak are missed: see the report")
