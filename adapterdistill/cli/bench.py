"""`adapterdistill bench ...`: measure what the adapters of others bring, and what it costs."""

import os
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from adapterdistill.cli import bench_services
from adapterdistill.cli.options import Cache, Device, Dtype, Out, Processes
from adapterdistill.errors import ConfigError

app = typer.Typer(help="Measure transfer and cost.", no_args_is_help=True)
bench_services.register(app)

# Texts in the data are short: longer ones are cut, the same for every method.
_MAX_TOKENS = 48
# Where skipping tokens is measured, long texts are the point.
_MAX_TOKENS_LONG = 256


class SizeName(StrEnum):
    quick = "quick"
    standard = "standard"
    full = "full"


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
    processes: Processes = None,
    cache: Cache = None,
    encoder: Annotated[str, typer.Option(help="Name or folder of the encoder.")] = "minilm-l6",
    dtype: Dtype = "auto",
    device: Device = "cpu",
    plots: Annotated[bool, typer.Option(help="Draw PNG plots (needs matplotlib).")] = True,
) -> None:
    """Does a new tenant gain from the others' adapters? Resumable: run it again to go on."""
    if data is None:
        raise ConfigError("name the folder of tenants with --data or ADAPTERDISTILL_DATA")
    from adapterdistill.bench.encoder_options import Crew
    from adapterdistill.bench.transfer.command import transfer_command

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


@app.command()
def training(
    out: Out,
    data: Annotated[
        Path | None,
        typer.Option(envvar="ADAPTERDISTILL_DATA", help="Tenants. Default: the samples."),
    ] = None,
    teachers: Annotated[str, typer.Option(help="Numbers of teachers.")] = "1,8,16,64",
    rounds: Annotated[int, typer.Option(min=7, help="Timed steps of each kind.")] = 9,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each side.")] = 1,
    peer_env: Annotated[
        Path | None, typer.Option(help="Folder for the adapters library's own environment.")
    ] = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """What a training step costs against the number of teachers."""
    from adapterdistill.bench.training.report import training_command

    report = training_command(
        data=data or Path(str(files("adapterdistill"))) / "samples",
        out=out,
        dtype=dtype,
        device=device,
        threads=threads,
        counts=_counts(teachers, "--teachers"),
        rounds=rounds,
        peer_env=peer_env,
        max_tokens=_MAX_TOKENS,
    )
    typer.echo(report)


@app.command()
def scaling(
    out: Out,
    workers: Annotated[str, typer.Option(help="Numbers of Ray Train workers.")] = "1,2",
    steps: Annotated[int, typer.Option(min=1, help="Steps of each training.")] = 40,
    rounds: Annotated[int, typer.Option(min=1, help="Trainings of each kind.")] = 3,
    dtype: Dtype = "auto",
) -> None:
    """What further Ray Train workers bring to a training, and what starting them costs."""
    from adapterdistill.bench.training.scaling import scaling_command

    report = scaling_command(
        out=out,
        counts=_counts(workers, "--workers"),
        steps=steps,
        rounds=rounds,
        dtype=dtype,
        max_tokens=_MAX_TOKENS,
    )
    typer.echo(report)


def _counts(text: str, option: str) -> tuple[int, ...]:
    try:
        counts = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise ConfigError(f"{option} takes whole numbers with commas between") from None
    if counts[0] < 1:
        raise ConfigError(f"{option} must be 1 or more, got {counts[0]}")
    return counts


@app.command()
def selection(
    out: Out,
    data: Annotated[
        Path | None,
        typer.Option(
            envvar="ADAPTERDISTILL_DATA", help="Folder of tenant folders, to measure accuracy too."
        ),
    ] = None,
    size: Annotated[SizeName, typer.Option(help="How much of the accuracy.")] = SizeName.quick,
    cache: Cache = None,
    encoder: Annotated[str, typer.Option(help="Name or folder of the encoder.")] = "minilm-l6",
    dtype: Dtype = "auto",
    device: Device = "cpu",
) -> None:
    """What choosing 16 teachers out of thousands costs, and how well it chooses. Resumable."""
    from adapterdistill.bench.encoder_options import Crew
    from adapterdistill.bench.selection.report import selection_command

    crew = Crew(processes=1, encoder=encoder, dtype=dtype, device=device, max_tokens=_MAX_TOKENS)
    report = selection_command(
        data=data, out=out, cache=cache or out / "cache", size=size.value, crew=crew
    )
    typer.echo(report)


@app.command()
def multitask(
    out: Out,
    data: Annotated[
        Path, typer.Option(help="Folder of tasks: *.jsonl, also in its `domains` and `pairs`.")
    ],
    tenants: Annotated[
        str, typer.Option(help="Retrieval tasks: folders of `tenants` there, commas between.")
    ] = "",
    size: Annotated[SizeName, typer.Option(help="How many rows and epochs.")] = SizeName.quick,
    layers: Annotated[int, typer.Option(help="The Transformer student's layers.")] = 2,
    heads: Annotated[
        int, typer.Option(help="Its attention heads a layer; its FFNs shrink alike.")
    ] = 3,
    lstm_size: Annotated[
        int, typer.Option("--lstm-size", min=1, help="The BiLSTM student's units each way.")
    ] = 64,
    threads: Annotated[int, typer.Option(min=1, help="Threads to train with.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and of the order of batches.")] = 0,
    encoder: Annotated[str, typer.Option(help="Name or folder of the encoder.")] = "minilm-l6",
    dtype: Dtype = "auto",
    device: Device = "cpu",
) -> None:
    """What light students keep of several tasks' teachers, and how much faster they are."""
    from adapterdistill.bench.multitask.report import multitask_command
    from adapterdistill.bench.multitask.study import Shape

    report = multitask_command(
        data=data,
        tenants=[name for name in tenants.split(",") if name],
        out=out,
        size=size.value,
        shape=Shape(layers, heads, lstm_size),
        encoder=encoder,
        dtype=dtype,
        device=device,
        threads=threads,
        max_tokens=_MAX_TOKENS,
        seed=seed,
    )
    typer.echo(report)


@app.command()
def meta(
    out: Out,
    data: Annotated[
        Path, typer.Option(help="A task of single texts with domains, a JSON Lines file.")
    ],
    leave_out: Annotated[
        str, typer.Option("--leave-out", help="Domains that take no part, commas between.")
    ] = "",
    size: Annotated[SizeName, typer.Option(help="How many newcomers, rows, steps.")] = (
        SizeName.quick
    ),
    seeds: Annotated[int, typer.Option(min=1, help="Of weights and of the order of batches.")] = 1,
    time_limit_s: Annotated[
        float | None, typer.Option("--time-limit-s", min=1, help="Stop starting work after this.")
    ] = None,
    layers: Annotated[int, typer.Option(help="The students' layers.")] = 2,
    heads: Annotated[
        int, typer.Option(help="Their attention heads a layer; their FFNs shrink alike.")
    ] = 6,
    cache: Cache = None,
    encoder: Annotated[str, typer.Option(help="Name or folder of the encoder.")] = "minilm-l6",
    dtype: Dtype = "auto",
    device: Device = "cpu",
) -> None:
    """What a light student of a late domain gains from the other domains. Resumable."""
    from adapterdistill.bench.meta.report import meta_command
    from adapterdistill.bench.meta.study import Shape

    report = meta_command(
        data=data,
        leave_out=[name for name in leave_out.split(",") if name],
        out=out,
        cache=cache or out / "cache",
        size=size.value,
        shape=Shape(layers, heads),
        seeds=seeds,
        time_limit_s=time_limit_s,
        encoder=encoder,
        dtype=dtype,
        device=device,
        max_tokens=_MAX_TOKENS,
    )
    typer.echo(report)


@app.command()
def conditional(
    out: Out,
    data: Annotated[
        Path | None,
        typer.Option(
            envvar="ADAPTERDISTILL_DATA",
            help="Tenants, or `tenants` and `pairs`. Default: samples.",
        ),
    ] = None,
    size: Annotated[SizeName, typer.Option(help="How much is run.")] = SizeName.quick,
    cache: Cache = None,
    encoder: Annotated[str, typer.Option(help="Name or folder of the encoder.")] = "minilm-l6",
    dtype: Dtype = "auto",
    device: Device = "cpu",
) -> None:
    """What running fewer tokens saves and loses, beside the dense adapter. Resumable."""
    from adapterdistill.bench.conditional.report import conditional_command
    from adapterdistill.bench.encoder_options import Crew

    crew = Crew(
        processes=1, encoder=encoder, dtype=dtype, device=device, max_tokens=_MAX_TOKENS_LONG
    )
    report = conditional_command(
        data=data or Path(str(files("adapterdistill"))) / "samples",
        out=out,
        cache=cache or out / "cache",
        size=size.value,
        crew=crew,
    )
    typer.echo(report)
