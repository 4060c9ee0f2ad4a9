"""`adapterdistill onboard`: the entrypoint of an onboarding job."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from actors.onboarding import (
    OnboardReport,
    in_process,
    on_cluster,
    submission_id,
    write_report,
)
from actors.onboarding import onboard as run_stages
from adapterdistill.cli.output import Format
from adapterdistill.config import load_toml


def register(app: typer.Typer) -> None:
    app.command(name="onboard")(onboard)


def onboard(
    config: Annotated[Path, typer.Option(help="The run's TOML file.")],
    local: Annotated[
        bool, typer.Option("--local", help="Run in this process, without a Ray cluster.")
    ] = False,
    output: Annotated[Format, typer.Option("--format", help="A table or JSON.")] = Format.table,
) -> None:
    """Take a tenant from private Parquet to a serving bundle.

    Submit it to a cluster with `ray job submit --working-dir . -- python -m adapterdistill onboard
    --config cluster/runs/NAME.toml`. Stages that an earlier submission finished are not run again.
    """
    settings = load_toml(config)
    runner = in_process(settings) if local else on_cluster(settings)
    as_json = output is Format.json
    report = run_stages(
        settings,
        runner,
        submission_id=submission_id(),
        emit=lambda line: typer.echo(line, err=as_json),
    )
    write_report(settings, report)
    if as_json:
        typer.echo(json.dumps(report.model_dump(mode="json")))
    else:
        Console().print(_table(report))


def _table(report: OnboardReport) -> Table:
    table = Table(title=f"{report.tenant}: {report.decide.choice} ({report.decide.reason})")
    for column in ("stage", "seconds", "peak MB"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage, seconds in report.stage_seconds().items():
        table.add_row(stage, f"{seconds:.1f}", f"{report.result_of(stage).peak_rss_mb:.0f}")
    return table
