"""Options that several commands share."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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


Out = Annotated[
    Path, typer.Option("--out", metavar="FOLDER", help="Folder for the report and the cache.")
]
EncoderName = Annotated[
    str, typer.Option("--encoder", metavar="NAME", help="Name or folder of the encoder.")
]
Dtype = Annotated[str, typer.Option("--dtype", metavar="DTYPE", help="auto, float32 or bfloat16.")]
Device = Annotated[str, typer.Option("--device", metavar="DEVICE", help="cpu or cuda.")]
Processes = Annotated[
    int | None, typer.Option(min=1, metavar="NUMBER", help="Default: one a core; one on a GPU.")
]
Threads = Annotated[int, typer.Option(min=1, metavar="NUMBER", help="Threads of each side.")]
Cache = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Folder of results by content. Default: in --out."),
]
TimeLimit = Annotated[
    float | None,
    typer.Option(
        "--time-limit-s", min=1, metavar="SECONDS", help="Start no more work after this time."
    ),
]
Output = Annotated[Format, typer.Option("--format", help="Tables for people or JSON.")]


def show(report: "Report", output: Format) -> None:
    """Print a report in the format that was asked for."""
    figures = output is Format.json
    typer.echo(json.dumps(report.figures, indent=1, sort_keys=True) if figures else report.text)


def numbers(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers with commas between, sorted. Raises ConfigError: one is none, or below 1."""
    try:
        found = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise ConfigError(f"{option} takes whole numbers with commas between") from None
    if found[0] < 1:
        raise ConfigError(f"{option} must be 1 or more, got {found[0]}")
    return found


def names(text: str) -> list[str]:
    """Names with commas between; empty ones are left out."""
    return [name.strip() for name in text.split(",") if name.strip()]
