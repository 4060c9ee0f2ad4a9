"""`adapterdistill bench ...`: measure what the adapters of others bring, and what it costs."""

import os
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from adapterdistill.cli.bench import services
from adapterdistill.cli.options import (
    Cache,
    Data,
    Device,
    Dtype,
    EncoderName,
    Format,
    Out,
    Output,
    Peer,
    Processes,
    Size,
    SizeOption,
    Threads,
    TimeLimit,
    names,
    number,
    numbers,
    option,
    show,
)
from adapterdistill.errors import ConfigError
from adapterdistill.testbed.encoder_options import EncoderOptions

app = typer.Typer(help="Measure transfer and cost.", no_args_is_help=True)
services.register(app)

_Measured = Annotated[str, option("Those measured, commas between. Default: three.", "NAMES")]
# Where skipping tokens is measured, long texts are the point.
_MAX_TOKENS_LONG = 256


def _samples() -> Path:
    return Path(str(files("adapterdistill"))) / "samples"


def _tenants(data: Path | None) -> Path:
    if data is None:
        raise ConfigError("name the folder of tenants with --data or ADAPTERDISTILL_DATA")
    return data


@app.command()
def transfer(
    out: Out,
    data: Data = None,
    size: SizeOption = Size.quick,
    studies: Annotated[
        bool,
        typer.Option("--studies", help="Compare methods of training instead, run by themselves."),
    ] = False,
    tenants: Annotated[
        str, option("Those that arrive, commas between. Default: all of the size.", "NAMES")
    ] = "",
    k: Annotated[
        str, option("Queries an FAQ, commas between. Default: the size's.", "NUMBERS", "--k")
    ] = "",
    seeds: Annotated[int | None, number("Default: the size's.", low=1)] = None,
    alone: Annotated[
        bool,
        typer.Option("--alone", help="Also onboard each tenant where there is no other: a row."),
    ] = False,
    method: Annotated[
        str, option("The runs' `training.method`. Default: averaged_teachers.", "NAME")
    ] = "",
    setfit: Annotated[
        Path | None, option("Python of an environment that has SetFit: adds its row.", "FILE")
    ] = None,
    time_limit_s: TimeLimit = None,
    processes: Processes = None,
    cache: Cache = None,
    encoder: EncoderName = "minilm-l6",
    dtype: Dtype = "auto",
    device: Device = "cpu",
    plots: Annotated[
        bool, typer.Option(help="Draw PNG plots of the studies (needs matplotlib).")
    ] = True,
    output: Output = Format.table,
) -> None:
    """Does a new tenant gain from the others' adapters? Onboards tenants and asks what is served.

    Needs --data. Run it again to go on.
    """
    folder = _tenants(data)
    if studies and (tenants or k or setfit or alone or method):
        raise ConfigError(
            "--studies takes all tenants, k and methods of its size: remove --tenants, --k, "
            "--alone, --method and --setfit"
        )
    cache = cache or out / "cache"
    options = EncoderOptions(encoder, dtype, device)
    count = processes or (1 if device != "cpu" else os.cpu_count() or 1)
    if studies:
        from adapterdistill.bench.transfer.command import transfer_command

        report = transfer_command(
            data=folder,
            out=out,
            cache=cache,
            size=size,
            encoder=options,
            processes=count,
            seeds=seeds,
            time_limit_s=time_limit_s,
            draw=plots,
        )
    else:
        from adapterdistill.bench.arrivals.command import Chosen, arrivals_command

        report = arrivals_command(
            data=folder,
            out=out,
            cache=cache,
            size=size,
            chosen=Chosen(numbers(k, "--k", low=0) if k else None, names(tenants), seeds),
            encoder=options,
            processes=count,
            time_limit_s=time_limit_s,
            alone=alone,
            setfit=setfit,
            training={"method": method} if method else None,
        )
    show(report, output)


@app.command()
def feedback(
    out: Out,
    data: Data = None,
    size: SizeOption = Size.quick,
    tenants: _Measured = "",
    seeds: Annotated[int, number("Seeds of rows and of what is asked.", low=1)] = 1,
    k: Annotated[int, number("Queries an FAQ at the start.", "--k", low=0)] = 1,
    months: Annotated[int, number("Months of the year.", low=1)] = 12,
    questions: Annotated[int, number("Questions of a month at most.", low=1)] = 100,
    labels: Annotated[int, number("Labels of a month.", low=1)] = 10,
    cache: Cache = None,
    processes: Processes = None,
    encoder: EncoderName = "minilm-l6",
    dtype: Dtype = "auto",
    output: Output = Format.table,
) -> None:
    """What do labels of live questions bring in a year, chosen by `feedback` or at random?

    Needs --data. Run it again to go on.
    """
    from adapterdistill.bench.feedback.command import Loop, feedback_command

    report = feedback_command(
        data=_tenants(data),
        out=out,
        cache=cache or out / "cache",
        size=size,
        tenants=names(tenants),
        seeds=seeds,
        loop=Loop(k, months, questions, labels),
        encoder=EncoderOptions(encoder, dtype, "cpu"),
        processes=processes or os.cpu_count() or 1,
    )
    show(report, output)


@app.command()
def privacy(
    out: Out,
    data: Data = None,
    size: SizeOption = Size.quick,
    tenants: _Measured = "",
    seeds: Annotated[int, number("Seeds of rows, orders and noise.", low=1)] = 3,
    cache: Cache = None,
    encoder: EncoderName = "minilm-l6",
    dtype: Dtype = "auto",
    output: Output = Format.table,
) -> None:
    """What does an adapter give away of its rows, and what does hiding them cost? Needs --data."""
    from adapterdistill.bench.privacy.command import privacy_command

    report = privacy_command(
        data=_tenants(data),
        out=out,
        cache=cache or out / "cache",
        size=size,
        tenants=names(tenants),
        seeds=seeds,
        encoder=EncoderOptions(encoder, dtype, "cpu"),
    )
    show(report, output)


@app.command()
def training(
    out: Out,
    data: Data = None,
    teachers: Annotated[
        str, option("Numbers of teachers, commas between.", "NUMBERS")
    ] = "1,8,16,64",
    rounds: Annotated[int, number("Timed steps of each kind.", low=7)] = 9,
    threads: Threads = 1,
    peer_env: Peer = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    output: Output = Format.table,
) -> None:
    """Measure a training step against the number of teachers, on the samples or --data."""
    from adapterdistill.bench.training.report import training_command

    report = training_command(
        data=data or _samples(),
        out=out,
        encoder=EncoderOptions(dtype=dtype, device=device),
        threads=threads,
        counts=numbers(teachers, "--teachers"),
        rounds=rounds,
        peer_env=peer_env,
    )
    show(report, output)


@app.command()
def scaling(
    out: Out,
    workers: Annotated[
        str, option("Numbers of Ray Train workers, commas between.", "NUMBERS")
    ] = "1,2",
    steps: Annotated[int, number("Steps of each training.", low=1)] = 40,
    rounds: Annotated[int, number("Trainings of each kind.", low=1)] = 3,
    dtype: Dtype = "auto",
    output: Output = Format.table,
) -> None:
    """Measure what further Ray Train workers bring to a training, and what starting them costs."""
    from adapterdistill.bench.training.scaling import scaling_command

    report = scaling_command(
        out=out,
        encoder=EncoderOptions(dtype=dtype),
        counts=numbers(workers, "--workers"),
        steps=steps,
        rounds=rounds,
    )
    show(report, output)


@app.command()
def selection(
    out: Out,
    data: Data = None,
    size: SizeOption = Size.quick,
    cache: Cache = None,
    encoder: EncoderName = "minilm-l6",
    dtype: Dtype = "auto",
    device: Device = "cpu",
    output: Output = Format.table,
) -> None:
    """Measure what choosing 16 teachers out of thousands costs, and with --data how well it
    chooses. Run it again to go on.
    """
    from adapterdistill.bench.selection.report import selection_command

    report = selection_command(
        data=data,
        out=out,
        cache=cache or out / "cache",
        size=size,
        encoder=EncoderOptions(encoder, dtype, device),
    )
    show(report, output)


@app.command()
def multitask(
    out: Out,
    data: Annotated[
        Path, option("Folder of tasks: *.jsonl, also in its `domains` and `pairs`.", "FOLDER")
    ],
    tenants: Annotated[
        str, option("Retrieval tasks: folders of `tenants` there, commas between.", "NAMES")
    ] = "",
    size: SizeOption = Size.quick,
    layers: Annotated[int, number("The Transformer student's layers.")] = 2,
    heads: Annotated[int, number("Its attention heads a layer; its FFNs shrink alike.")] = 3,
    lstm_size: Annotated[
        int, number("The BiLSTM student's units each way.", "--lstm-size", low=1)
    ] = 64,
    threads: Threads = 1,
    seed: Annotated[int, number("Seed of weights and of batches.", low=0)] = 0,
    encoder: EncoderName = "minilm-l6",
    dtype: Dtype = "auto",
    device: Device = "cpu",
    output: Output = Format.table,
) -> None:
    """Measure what light students keep of several tasks' teachers, and how much faster they are."""
    from adapterdistill.bench.multitask.report import multitask_command
    from adapterdistill.bench.multitask.study import StudentShape

    report = multitask_command(
        data=data,
        tenants=names(tenants),
        out=out,
        size=size,
        shape=StudentShape(layers, heads, lstm_size),
        encoder=EncoderOptions(encoder, dtype, device),
        threads=threads,
        seed=seed,
    )
    show(report, output)


@app.command()
def meta(
    out: Out,
    data: Annotated[Path, option("JSON Lines: a task of single texts with domains.", "FILE")],
    leave_out: Annotated[
        str, option("Domains that take no part, commas between.", "NAMES", "--leave-out")
    ] = "",
    size: SizeOption = Size.quick,
    seeds: Annotated[int, number("Seeds of weights and of batches.", low=1)] = 1,
    time_limit_s: TimeLimit = None,
    layers: Annotated[int, number("The students' layers.")] = 2,
    heads: Annotated[int, number("Their attention heads a layer; their FFNs shrink alike.")] = 6,
    cache: Cache = None,
    encoder: EncoderName = "minilm-l6",
    dtype: Dtype = "auto",
    device: Device = "cpu",
    output: Output = Format.table,
) -> None:
    """Measure what a light student of a late domain gains from the other domains. Run it again to
    go on.
    """
    from adapterdistill.bench.meta.report import meta_command
    from adapterdistill.bench.meta.study import StudentShape

    report = meta_command(
        data=data,
        leave_out=names(leave_out),
        out=out,
        cache=cache or out / "cache",
        size=size,
        shape=StudentShape(layers, heads),
        seeds=seeds,
        time_limit_s=time_limit_s,
        encoder=EncoderOptions(encoder, dtype, device),
    )
    show(report, output)


@app.command()
def conditional(
    out: Out,
    data: Data = None,
    size: SizeOption = Size.quick,
    cache: Cache = None,
    encoder: EncoderName = "minilm-l6",
    dtype: Dtype = "auto",
    device: Device = "cpu",
    output: Output = Format.table,
) -> None:
    """Measure what running fewer tokens saves and loses, beside the dense adapter.

    --data holds tenant folders, or `tenants` and `pairs`; without it the samples are taken. Run it
    again to go on.
    """
    from adapterdistill.bench.conditional.report import conditional_command

    report = conditional_command(
        data=data or _samples(),
        out=out,
        cache=cache or out / "cache",
        size=size,
        encoder=EncoderOptions(encoder, dtype, device, _MAX_TOKENS_LONG),
    )
    show(report, output)


@app.command()
def languages(
    out: Out,
    encoders: Annotated[
        str, option("Encoders to compare, commas between.", "NAMES", "--encoders")
    ] = "minilm-l6,multilingual-e5-small",
    dtype: Dtype = "auto",
    device: Device = "cpu",
    output: Output = Format.table,
) -> None:
    """Ask English FAQs in Swedish: top-1 of each encoder, untrained.

    Needs the package zaragoza-construction-faq, which does not come with the project.
    """
    from adapterdistill.bench.languages import languages_command

    show(languages_command(out=out, encoders=names(encoders), dtype=dtype, device=device), output)
