"""Options that several commands share."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapterdistill.errors import ConfigError

if TYPE_CHECKING:  # it imports numpy and torch
    from adapterdistill.testbed.reporting import Report


class Format(StrEnum):
    """`--format`: a table for people or JSON for programs."""

    table = "table"
    json = "json"


class Size(StrEnum):
    """`--size`: how much of a benchmark is run. Each benchmark says which it has."""

    tiny = "tiny"
    quick = "quick"
    standard = "standard"
    full = "full"


def option(help: str, metavar: str, *names: str, **more: Any) -> Any:
    """An option with the word that stands for its value in the help."""
    return typer.Option(*names, metavar=metavar, help=help, **more)


def number(help: str, *names: str, low: float | None = None) -> Any:
    """An option that takes a number of at least `low`."""
    return option(help, "NUMBER", *names, min=low)


Out = Annotated[Path, option("Folder for the report and the cache.", "FOLDER", "--out")]
Data = Annotated[
    Path | None, option("Folder of data. See above.", "FOLDER", envvar="ADAPTERDISTILL_DATA")
]
SizeOption = Annotated[Size, typer.Option("--size", help="How much is run.")]
EncoderName = Annotated[str, option("Name or folder of the encoder.", "NAME", "--encoder")]
Dtype = Annotated[str, option("auto, float32, bfloat16 or int8.", "DTYPE", "--dtype")]
Device = Annotated[str, option("cpu or cuda.", "DEVICE", "--device")]
Processes = Annotated[int | None, number("Default: one a core; one on a GPU.", low=1)]
Threads = Annotated[int, number("Threads of each side.", low=1)]
Cache = Annotated[Path | None, option("Folder of results by content. Default: in --out.", "FOLDER")]
Peer = Annotated[
    Path | None, option("Folder for the environment of the library compared with.", "FOLDER")
]
TimeLimit = Annotated[
    float | None, option("Start no more work after this time.", "SECONDS", "--time-limit-s", min=1)
]
InsecureCluster = Annotated[
    bool,
    typer.Option(
        "--insecure-cluster",
        help="Accept a Ray cluster that asks for no token, and so runs anybody's code.",
    ),
]
Promote = Annotated[
    bool,
    typer.Option("--promote", help="Make the run's bundle live, also if it was rolled back."),
]
Output = Annotated[Format, typer.Option("--format", help="Tables for people or JSON.")]


def show(report: "Report", output: Format) -> None:
    """Print a report in the format that was asked for."""
    figures = output is Format.json
    typer.echo(json.dumps(report.figures, indent=1, sort_keys=True) if figures else report.text)


def numbers(text: str, option: str, *, low: int = 1) -> tuple[int, ...]:
    """Whole numbers with commas between, sorted. Raises ConfigError: one is none or below `low`."""
    try:
        found = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise ConfigError(f"{option} takes whole numbers with commas between") from None
    if found[0] < low:
        raise ConfigError(f"{option} must be {low} or more, got {found[0]}")
    return found


def without_brackets(host: str) -> str:
    """A host's address; an IPv6 address may have the brackets that it has in a URL."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def names(text: str) -> list[str]:
    """Names with commas between; empty ones are left out."""
    return [name.strip() for name in text.split(",") if name.strip()]
