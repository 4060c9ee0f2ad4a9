"""`adapterdistill report`: the page of a run, read from what the run left in its workspace."""

import json
from pathlib import Path
from typing import Annotated

import typer

from adapterdistill.cli.options import Format, Output, option
from adapterdistill.errors import ConfigError
from adapterdistill.files import write_secret
from adapterdistill.manifest import is_name


def register(app: typer.Typer) -> None:
    """Add `report` to the root command."""
    app.command(name="report")(report)


def report(
    name: Annotated[
        str, typer.Argument(help="A tenant, for its newest run, or TENANT/RUN.", metavar="NAME")
    ],
    workspace: Annotated[Path, option("The runs' `workspace`, a folder.", "FOLDER", "--workspace")],
    compare: Annotated[
        str | None,
        option("Compare with this run. Default: the version before.", "RUN", "--compare"),
    ] = None,
    no_texts: Annotated[
        bool,
        typer.Option("--no-texts", help="Leave out texts and ids of FAQs: to show to others."),
    ] = False,
    out: Annotated[
        Path | None, option("File to write. Default: in the run's folder.", "FILE", "--out")
    ] = None,
    output: Output = Format.table,
) -> None:
    """Write the report of a run as one HTML file, which only you can read, and print its path.

    The page asks nobody for anything: it holds no script and no link to a file elsewhere.
    """
    from adapterdistill.actors.report.differences import difference
    from adapterdistill.actors.report.page import render
    from adapterdistill.actors.report.runs import (
        PAGE_FILE,
        PAGE_WITHOUT_TEXTS_FILE,
        find_run,
        read_runs,
        version_before,
    )

    tenant, slash, wanted = name.partition("/")
    runs = read_runs(workspace, tenant) if is_name(tenant) else []
    if not runs:
        raise ConfigError(f"{workspace}: holds no run of tenant {tenant!r}")
    run = find_run(runs, wanted) if slash else runs[0]
    before = version_before(run, runs) if compare is None else find_run(runs, compare)
    if output is Format.json:
        changes = None if before is None else difference(run, before)
        typer.echo(
            json.dumps(
                run.figures()
                | {"compared": changes and {"with": changes.before, "changes": changes.changed()}},
                indent=2,
            )
        )
        return
    page = render(run, before=before, runs=runs, texts=not no_texts)
    file = out or run.folder / (PAGE_WITHOUT_TEXTS_FILE if no_texts else PAGE_FILE)
    write_secret(file, page.encode())
    typer.echo(str(file))
