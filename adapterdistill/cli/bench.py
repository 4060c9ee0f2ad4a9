"""`adapterdistill bench ...`: measure what the adapters of others bring, and what it costs."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from adapterdistill.errors import ConfigError

app = typer.Typer(help="Measure transfer and cost.", no_args_is_help=True)

# Texts in the data are short: longer ones are cut, the same for every method.
_MAX_TOKENS = 48


class SizeName(StrEnum):
    quick = "quick"
    standard = "standard"
    full = "full"


Out = Annotated[Path, typer.Option("--out", help="Folder for the report and the cache.")]
Dtype = Annotated[str, typer.Option(help="auto, float32 or bfloat16.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]


@app.command()
def transfer(
    out: Out,
    data: Annotated[
        Path | None,
        typer.Option(envvar="ADAPTERDISTILL_DATA", help="Folder of tenant folders."),
    ] = None,
    size: Annotated[SizeName, typer.Option(help="How much of the protocol.")] = SizeName.quick,
    seeds: Annotated[int | None, typer.Option(min=1, help="Instead of the size's.")] = None,
    time_limit_s: Annotated[
        float | None, typer.Option("--time-limit-s", min=1, help="Stop starting work after this.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Default: one a core; one on a GPU.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of results by content. Default: in --out.")
    ] = None,
    encoder: Annotated[str, typer.Option(help="Name or folder of the encoder.")] = "minilm-l6",
    dtype: Dtype = "auto",
    device: Device = "cpu",
    plots: Annotated[bool, typer.Option(help="Draw PNG plots (needs matplotlib).")] = True,
) -> None:
    """Does a new tenant gain from the others' adapters? Resumable: run it again to go on."""
    if data is None:
        raise ConfigError("name the folder of tenants with --data or ADAPTERDISTILL_DATA")
    from adapterdistill.bench.command import transfer_command
    from adapterdistill.bench.workers import Crew

    crew = Crew(
        processes=processes or (1 if device != "cpu" else os.cpu_count() or 1),
        encoder=encoder,
        dtype=dtype,
        device=device,
        max_tokens=_MAX_TOKENS,
    )
    report = transfer_command(
        data=data,
        out=out,
        cache=cache or out / "cache",
        size=size.value,
        crew=crew,
        seeds=seeds,
        time_limit_s=time_limit_s,
        draw=plots,
    )
    typer.echo(report)
