"""`adapterdistill federation`: three owners who share nothing but a registry, on one machine."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from adapterdistill.cli.options import Format, Output, option
from adapterdistill.errors import ConfigError


def register(app: typer.Typer) -> None:
    app.command(name="federation")(federation)


def federation(
    canary: Annotated[
        bool,
        typer.Option(
            "--canary",
            help="Plant words in every private text, and search all that left its owner for them.",
        ),
    ] = False,
    root: Annotated[
        Path | None,
        option(
            "A new folder to work in, which stays; a short path. Default: a temporary one.",
            "FOLDER",
        ),
    ] = None,
    runs: Annotated[Path, option("Folder of the owners' TOML files.", "FOLDER")] = Path(
        "cluster/federation"
    ),
    output: Output = Format.table,
) -> None:
    """Start a registry and three owners' Ray clusters, onboard the owners one after another over
    mutual TLS, show who is refused and why, and stop everything.

    Exit code 1 if a step did not end as expected.
    """
    from adapterdistill.backbone import load_encoder
    from adapterdistill.demo.federation import TENANTS, Federation
    from adapterdistill.demo.parties import own_cluster

    missing = [name for name in TENANTS if not (runs / f"{name}.toml").is_file()]
    if missing:
        raise ConfigError(f"no {missing[0]}.toml in {runs}: run this from the project's folder")
    console = Console(stderr=output is Format.json)

    def emit(line: str) -> None:
        console.print(line, markup=False, highlight=False)

    with Federation(
        lambda owner: own_cluster(owner, emit),
        runs=runs,
        root=root,
        searched_with=load_encoder() if canary else None,
        emit=emit,
    ) as running:
        try:
            running.run()
        finally:
            if output is Format.json:
                typer.echo(json.dumps(running.steps.as_json(), indent=2))
            else:
                console.print(running.steps.table("A federation of three owners"))
    if not running.steps.passed:
        raise typer.Exit(1)
