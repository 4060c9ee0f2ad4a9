"""Options that several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):
    """`--format`: a table for people or JSON for programs."""

    table = "table"
    json = "json"


Out = Annotated[Path, typer.Option("--out", help="Folder for the report and the cache.")]
Dtype = Annotated[str, typer.Option(help="auto, float32 or bfloat16.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Processes = Annotated[int | None, typer.Option(min=1, help="Default: one a core; one on a GPU.")]
Cache = Annotated[
    Path | None, typer.Option(help="Folder of results by content. Default: in --out.")
]
Output = Annotated[Format, typer.Option("--format", help="Tables for people or JSON.")]
