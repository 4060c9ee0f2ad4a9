"""`adapterdistill onboard`: the entrypoint of an onboarding job."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from actors.estimate import Estimate
from actors.onboarding import (
    OnboardReport,
    in_process,
    on_cluster,
    submission_id,
    write_report,
)
from actors.onboarding import onboard as run_stages
from actors.preflight import Preflight
from actors.preflight_checks import mebibytes
from actors.records import Distilled
from adapterdistill.cli.options import Format
from adapterdistill.config import OnboardConfig, load_toml
from adapterdistill.manifest import VersionRef


def register(app: typer.Typer) -> None:
    app.command(name="onboard")(onboard)


def onboard(
    config: Annotated[Path, typer.Option(help="The run's TOML file.")],
    local: Annotated[
        bool, typer.Option("--local", help="Run in this process, without a Ray cluster.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what would happen and how long it would take, only."),
    ] = False,
    output: Annotated[Format, typer.Option("--format", help="A table or JSON.")] = Format.table,
) -> None:
    """Take a tenant from private Parquet to a serving bundle.

    Submit it to a cluster with `ray job submit --working-dir . -- python -m adapterdistill onboard
    --config cluster/runs/NAME.toml`. Stages that an earlier submission finished are not run again.
    """
    settings = load_toml(config)
    if dry_run:
        _look_ahead(settings, local=local, as_json=output is Format.json)
        return
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
        console = Console()
        console.print(_table(report))
        if report.distil.trained:
            console.print(_teachers(report.distil))


def _look_ahead(settings: OnboardConfig, *, local: bool, as_json: bool) -> None:
    """Prints what a dry run found, and raises the first error in it."""
    from actors import preflight
    from adapterdistill.cli.onboard import shown
    from adapterdistill.errors import error_classes

    found = preflight.preflight(settings) if local else preflight.on_cluster(settings)
    if as_json:
        typer.echo(json.dumps(found.model_dump(mode="json")))
    else:
        Console().print(*shown(found), sep="\n")
    error = found.first_error
    if error is not None:
        by_reason = {error_class.reason: error_class for error_class in error_classes()}
        raise by_reason[str(error.reason)](error.said)


def _table(report: OnboardReport) -> Table:
    table = Table(title=f"{report.tenant}: {report.decide.choice} ({report.decide.reason})")
    for column in ("stage", "seconds", "peak MB"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage, seconds in report.stage_seconds().items():
        table.add_row(stage, f"{seconds:.1f}", f"{report.result_of(stage).peak_rss_mb:.0f}")
    return table


def _teachers(distil: Distilled) -> Table:
    """Which teachers helped: those with the largest share of the teaching first."""
    caption = "left out: the composition's held-out score without it, minus that with all"
    table = Table(title="Teachers", caption=caption if distil.leave_one_out else None)
    for column in ("teacher", "share", "left out"):
        table.add_column(column, justify="left" if column == "teacher" else "right")
    for name, share in sorted(distil.weights.items(), key=lambda item: -item[1]):
        ref, change = VersionRef.parse(name), distil.leave_one_out.get(name)
        table.add_row(
            f"{ref.tenant}/{ref.adapter} {ref.version[:12]}",
            f"{share:.3f}",
            "" if change is None else f"{change:+.4f}",
        )
    return table


_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}


def shown(found: Preflight) -> list[RenderableType]:
    """Checks, estimate, and what others will see, for people."""
    parts: list[RenderableType] = [_checks(found)]
    if found.estimate is not None:
        parts.append(_estimate(found.estimate))
    parts.append(_told(found))
    return parts


def _checks(found: Preflight) -> Table:
    table = Table(title=f"{found.tenant}: dry run, nothing was changed")
    table.add_column("check")
    table.add_column("")
    table.add_column("found", overflow="fold")
    for check in found.checks:
        # Text: paths and names are no rich markup.
        table.add_row(check.name, Text(check.status, _STYLES[check.status]), Text(check.said))
    return table


def _estimate(taken: Estimate) -> Table:
    table = Table(
        title=f"About {taken.seconds:.0f} s",
        caption="one training step, timed here just now, times rows and steps; training may end"
        " earlier, and takes longer beside other work",
    )
    table.add_column("stage")
    table.add_column("seconds", justify="right")
    for stage, seconds in taken.stage_seconds.items():
        table.add_row(stage, f"{seconds:.1f}")
    return table


def _told(found: Preflight) -> Table:
    table = Table("what", show_header=False)
    table.add_column(overflow="fold")
    taken = found.estimate
    if taken is not None:
        table.add_row("to the registry", Text(f"{mebibytes(taken.bytes_out)}: adapter, manifest"))
        table.add_row("from the registry", Text(f"{mebibytes(taken.bytes_in)}: list, teachers"))
    if found.teachers_visible is not None:
        more = found.teachers_visible - len(found.teachers)
        names = ", ".join(found.teachers) + (f" and {more} more" if more else "")
        table.add_row("teachers visible", Text(f"{found.teachers_visible}: {names or 'none'}"))
    everyone = found.share_with == ("*",)
    readers = "everyone" if everyone else ", ".join(found.share_with) or "nobody"
    table.add_row("may learn from it", Text(readers))
    table.add_row("labels", Text(", ".join(found.labels) or "none"))
    table.add_row("privacy", Text(found.privacy))
    return table
