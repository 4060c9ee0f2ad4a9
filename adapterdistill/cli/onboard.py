"""`adapterdistill onboard`: the entrypoint of an onboarding job."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from adapterdistill.cli.options import Format, InsecureCluster, Output, Promote
from adapterdistill.cli.tables import table
from adapterdistill.errors import ConfigError, error_classes

if TYPE_CHECKING:  # they import torch, which `--help` does without
    from adapterdistill.actors.estimate import Estimate
    from adapterdistill.actors.onboarding import OnboardReport
    from adapterdistill.actors.preflight import Preflight
    from adapterdistill.actors.records import Distilled
    from adapterdistill.config import OnboardConfig


def register(app: typer.Typer) -> None:
    """Add `onboard` to the root command."""
    app.command(name="onboard")(onboard)


def onboard(
    config: Annotated[Path, typer.Option(help="The run's TOML file.")],
    local: Annotated[
        bool, typer.Option("--local", help="Run in this process, without a Ray cluster.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only say what would happen, and how long it would take."),
    ] = False,
    promote: Promote = False,
    insecure_cluster: InsecureCluster = False,
    output: Output = Format.table,
) -> None:
    """Take a tenant from private Parquet to a serving bundle.

    `adapterdistill submit` sends it to a Ray cluster. A stage that an earlier submission finished
    is not repeated.
    """
    from adapterdistill.actors import onboarding
    from adapterdistill.actors.submission import require_outside
    from adapterdistill.config import load_toml

    settings = load_toml(config)
    workers = settings.training.num_workers
    if local and workers:
        raise ConfigError(
            f"{config}: training.num_workers = {workers} needs a Ray cluster: leave out --local, "
            "or set it to 0"
        )
    if not local:
        require_outside(settings)
    if dry_run:
        _look_ahead(settings, local=local, insecure=insecure_cluster, as_json=output is Format.json)
        return
    runner = (
        onboarding.in_process(settings, promote=promote)
        if local
        else onboarding.on_cluster(settings, insecure=insecure_cluster, promote=promote)
    )
    as_json = output is Format.json
    report = onboarding.onboard(
        settings,
        runner,
        submission_id=onboarding.submission_id(),
        emit=lambda line: typer.echo(line, err=as_json),
    )
    onboarding.write_report(settings, report)
    if as_json:
        typer.echo(json.dumps(report.model_dump(mode="json")))
    else:
        console = Console()
        console.print(Text(f"{report.tenant}: {report.decide.choice} ({report.decide.reason})"))
        console.print(_stages(report))
        if report.distil.trained:
            console.print(_teachers(report.distil))
        page = Path(settings.workspace) / settings.tenant / "report.html"
        console.print(Text(f"report: {page}"), soft_wrap=True)


def _look_ahead(settings: "OnboardConfig", *, local: bool, insecure: bool, as_json: bool) -> None:
    """Print what a dry run found, and raise the first error in it."""
    from adapterdistill.actors import preflight

    found = (
        preflight.preflight(settings)
        if local
        else preflight.on_cluster(settings, insecure=insecure)
    )
    if as_json:
        typer.echo(json.dumps(found.model_dump(mode="json")))
    else:
        estimate = [] if found.estimate is None else _estimate(found.estimate)
        Console().print(_checks(found), *estimate, _disclosed(found), sep="\n")
    error = found.first_error
    if error is not None:
        by_reason = {error_class.reason: error_class for error_class in error_classes()}
        raise by_reason[str(error.reason)](error.said)


def _stages(report: "OnboardReport") -> Table:
    columns = ("stage", "seconds", "peak MB")
    shown = table(*columns, right=columns[1:])
    for stage, seconds in report.stage_seconds().items():
        shown.add_row(stage, f"{seconds:.1f}", f"{report.result_of(stage).peak_rss_mb:.0f}")
    return shown


def _teachers(distil: "Distilled") -> Table:
    """Show how much each teacher helped: those with the largest share of the teaching first."""
    from adapterdistill.manifest import VersionRef

    caption = "left out: the composition's held-out score without it, minus the score with all"
    columns = ("teacher", "share", "left out")
    shown = table(
        *columns,
        right=columns[1:],
        title="Teachers",
        caption=caption if distil.leave_one_out else None,
    )
    for name, share in sorted(distil.weights.items(), key=lambda item: -item[1]):
        ref, change = VersionRef.parse(name), distil.leave_one_out.get(name)
        shown.add_row(
            f"{ref.tenant}/{ref.adapter} {ref.version[:12]}",
            f"{share:.3f}",
            "" if change is None else f"{change:+.4f}",
        )
    return shown


_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}


def _checks(found: "Preflight") -> Table:
    title = f"{found.tenant}: dry run, nothing was changed"
    shown = table("check", "", "found", title=title)
    for check in found.checks:
        # Text: paths and names are no rich markup.
        shown.add_row(check.name, Text(check.status, _STYLES[check.status]), Text(check.said))
    return shown


def _estimate(estimate: "Estimate") -> list[str | Table]:
    about = (
        f"About {estimate.seconds:.0f} s: one training step, timed here just now, times rows and "
        "steps. Training may end earlier, and takes longer beside other work."
    )
    shown = table(
        "stage",
        "seconds",
        right=("seconds",),
    )
    for stage, seconds in estimate.stage_seconds.items():
        shown.add_row(stage, f"{seconds:.1f}")
    return [about, shown]


def _disclosed(found: "Preflight") -> Table:
    """Show what leaves the owner, what comes in, and who will see it."""
    from adapterdistill.actors.preflight_checks import mebibytes

    shown = table("what", "value", show_header=False)
    estimate = found.estimate
    if estimate is not None:
        out, into = mebibytes(estimate.bytes_out), mebibytes(estimate.bytes_in)
        shown.add_row("to the registry", Text(f"{out}: adapter, manifest"))
        shown.add_row("from the registry", Text(f"{into}: list, teachers"))
    if found.teachers_visible is not None:
        more = found.teachers_visible - len(found.teachers)
        names = ", ".join(found.teachers) + (f" and {more} more" if more else "")
        shown.add_row("teachers visible", Text(f"{found.teachers_visible}: {names or 'none'}"))
    everyone = found.share_with == ("*",)
    readers = "everyone" if everyone else ", ".join(found.share_with) or "nobody"
    shown.add_row("may learn from it", Text(readers))
    shown.add_row("labels", Text(", ".join(found.labels) or "none"))
    shown.add_row("privacy", Text(found.privacy))
    return shown
