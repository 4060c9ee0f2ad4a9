"""`adapterdistill bench ...`: measure what the adapters of others bring, and what it costs."""

import json
import os
from dataclasses import replace
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from adapterdistill.cli.output import Format
from adapterdistill.errors import ConfigError, RegistryError, ServingError

app = typer.Typer(help="Measure transfer and cost.", no_args_is_help=True)

# Texts in the data are short: longer ones are cut, the same for every method.
_MAX_TOKENS = 48
# Where skipping tokens is measured, long texts are the point.
_MAX_TOKENS_LONG = 256
# What a server cuts at by default.
_MAX_TOKENS_SERVED = 128


class SizeName(StrEnum):
    quick = "quick"
    standard = "standard"
    full = "full"


class ServingSizeName(StrEnum):
    tiny = "tiny"
    quick = "quick"
    standard = "standard"


Out = Annotated[Path, typer.Option("--out", help="Folder for the report and the cache.")]
Dtype = Annotated[str, typer.Option(help="auto, float32 or bfloat16.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Processes = Annotated[int | None, typer.Option(min=1, help="Default: one a core; one on a GPU.")]
Cache = Annotated[
    Path | None, typer.Option(help="Folder of results by content. Default: in --out.")
]
Output = Annotated[Format, typer.Option("--format", help="Tables for people or JSON.")]


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
    from adapterdistill.bench.training_report import training_command

    try:
        counts = tuple(sorted({int(part) for part in teachers.split(",")}))
    except ValueError:
        raise ConfigError("--teachers takes whole numbers with commas between") from None
    if counts[0] < 1:
        raise ConfigError(f"--teachers must be 1 or more, got {counts[0]}")
    report = training_command(
        data=data or Path(str(files("adapterdistill"))) / "samples",
        out=out,
        dtype=dtype,
        device=device,
        threads=threads,
        counts=counts,
        rounds=rounds,
        peer_env=peer_env,
        max_tokens=_MAX_TOKENS,
    )
    typer.echo(report)


@app.command()
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
    size: Annotated[ServingSizeName, typer.Option()] = ServingSizeName.quick,
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
    output: Output = Format.table,
) -> None:
    """How fast many tenants are served, beside the bare encoder and sentence-transformers.

    With --http: how fast over HTTP, and whether any answer is wrong; then it fails.
    """
    folder = data or Path(str(files("adapterdistill"))) / "samples"
    if (folder / "faqbanks").is_dir():
        folder /= "faqbanks"
    if http:
        from adapterdistill.bench import serving_http

        chosen = serving_http.SIZES[size.value]
        found = serving_http.http_command(
            data=folder,
            out=out,
            size=chosen if requests is None else replace(chosen, requests=requests),
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
    from adapterdistill.bench.serving_report import markdown, serving_command

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
    from adapterdistill.bench.selection_report import selection_command
    from adapterdistill.bench.workers import Crew

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
    from adapterdistill.bench.multitask import Shape
    from adapterdistill.bench.multitask_report import multitask_command

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
    from adapterdistill.bench.meta import Shape
    from adapterdistill.bench.meta_report import meta_command

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
    from adapterdistill.bench.conditional_report import conditional_command
    from adapterdistill.bench.workers import Crew

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


class RegistrySize(StrEnum):
    tiny = "tiny"
    quick = "quick"
    standard = "standard"


@app.command()
def registry(
    out: Out,
    size: Annotated[RegistrySize, typer.Option(help="How much of everything.")] = (
        RegistrySize.quick
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
    output: Annotated[
        Format, typer.Option("--format", help="A table for people or JSON.")
    ] = Format.table,
) -> None:
    """A registry under load, under mutated calls and under kill -9. Fails if it shows a fault."""
    from dataclasses import replace

    from adapterdistill.bench.registry import SIZES, registry_command

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
