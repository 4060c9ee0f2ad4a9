"""`adapterdistill demo`: the main job on the sample tenants, on a cluster of its own."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from actors.stages import STAGES
from adapterdistill.cli.options import Format, Output
from adapterdistill.cli.tables import table
from adapterdistill.data import sample_names
from adapterdistill.demo.one_cluster import Demo, DemoResult, stop_cluster
from adapterdistill.errors import ConfigError


def register(app: typer.Typer) -> None:
    app.command(name="demo")(demo)


def demo(
    tenants: Annotated[
        str, typer.Option(help="Sample tenants, comma-separated, in order of arrival.")
    ] = ",".join(sample_names()),
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave everything running and print the addresses.")
    ] = False,
    stop: Annotated[
        Path | None, typer.Option(help="Stop what an earlier `demo --keep` left in this folder.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the tenants' TOML files.")] = Path(
        "cluster/runs"
    ),
    output: Annotated[
        Path | None, typer.Option(help="Write the result as JSON to this file.")
    ] = None,
    shape: Output = Format.table,
) -> None:
    """Start a cluster and a registry, onboard the sample tenants one after another through
    `ray job submit`, serve them, ask questions over HTTP, and stop everything.
    """
    console = Console(stderr=shape is Format.json)
    if stop is not None:
        stop_cluster(stop)
        console.print(f"stopped what ran in {stop}")
        return
    names = [name.strip() for name in tenants.split(",") if name.strip()]
    unknown = sorted(set(names) - set(sample_names()))
    if unknown or not names:
        raise ConfigError(
            f"no such sample tenant: {', '.join(unknown) or '(none named)'}; there are "
            f"{', '.join(sample_names())}"
        )
    missing = [name for name in names if not (runs / f"{name}.toml").is_file()]
    if missing:
        raise ConfigError(f"no {missing[0]}.toml in {runs}: run the demo from the project's folder")
    with Demo(names, runs=runs, emit=console.print, keep=keep) as running:
        result = running.run()
        if shape is Format.json:
            typer.echo(json.dumps(result.as_json(), indent=2))
        else:
            console.print(_tenants(result), _stages(result), _answers(result), *_figures(result))
        if output is not None:
            output.write_text(json.dumps(result.as_json(), indent=2), "utf-8")
        if keep:
            console.print(
                f"search   {result.serve_address}/docs\nregistry {result.registry_address}\n"
                f"Ray      {result.ray_address} (dashboard {result.dashboard_address})\n"
                f"stop     adapterdistill demo --stop {running.home}",
                markup=False,
            )


def _tenants(result: DemoResult) -> Table:
    columns = ("tenant", "FAQs", "teachers", "top-1", "decision")
    title = "Own adapter -> distilled adapter, on held-out queries"
    shown = table(*columns, right=columns[1:3], title=title)
    for report in result.reports:
        held, top_1 = report.evaluate.held_out, "-"
        if held is not None and "top1" in held.own:
            own, distilled = held.own["top1"].value, held.distilled["top1"].value
            top_1 = f"{own:.3f} -> {distilled:.3f}" if report.distil.trained else f"{own:.3f}"
        counts = (report.validate_stage.counts["faqs"], len(report.fetch_teachers.teachers))
        shown.add_row(report.tenant, *map(str, counts), top_1, report.decide.choice)
    return shown


def _stages(result: DemoResult) -> Table:
    """Show the seconds of the stages that took longest, and of all others together."""
    seconds = {report.tenant: report.stage_seconds() for report in result.reports}
    slowest = sorted(STAGES, key=lambda stage: sum(one[stage] for one in seconds.values()))[-4:]
    columns = [stage for stage in STAGES if stage in slowest]
    shown = table(
        "tenant", *columns, "others", right=[*columns, "others"], title="Seconds by stage"
    )
    for tenant, one in seconds.items():
        cells = [*(one[stage] for stage in columns), sum(one[s] for s in {*STAGES} - {*columns})]
        shown.add_row(tenant, *(f"{cell:.1f}" for cell in cells))
    return shown


def _answers(result: DemoResult) -> Table:
    columns = ("tenant", "question asked", "first FAQ", "score")
    shown = table(*columns, right=("score",), title="Answers over HTTP")
    for answer in result.answers:
        found = Text("abstained", style="yellow") if answer.abstained else Text(answer.first)
        shown.add_row(answer.tenant, Text(answer.asked), found, f"{answer.score:.3f}")
    return shown


def _figures(result: DemoResult) -> list[str]:
    peaks = ", ".join(f"{name} {mb:.0f} MB" for name, mb in result.peak_rss_mb.items())
    seconds = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in result.seconds.items())
    return [f"Peak memory: {peaks}", f"Time: {seconds}"]
