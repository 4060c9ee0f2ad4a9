"""`adapterdistill demo`: the main job on the sample tenants, on a cluster of its own."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from actors.stages import STAGES
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
) -> None:
    """Start a cluster and a registry, onboard the sample tenants one after another through
    `ray job submit`, serve them, ask questions over HTTP, and stop everything.
    """
    console = Console()
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
    table = Table(title="Own adapter -> distilled adapter, on held-out queries")
    for name in ("tenant", "FAQs", "queries", "teachers", "top-1", "MRR", "decision"):
        table.add_column(
            name, justify="right" if name in ("FAQs", "queries", "teachers") else "left"
        )
    for report in result.reports:
        counts, held = report.validate_stage.counts, report.evaluate.held_out
        queries = sum(counts[split] for split in ("train", "valid", "test"))
        cells = [report.tenant, str(counts["faqs"]), str(queries)]
        cells.append(str(len(report.fetch_teachers.teachers)))
        for metric in ("top1", "mrr"):
            if held is None or metric not in held.own:
                cells.append("-")
                continue
            own, distilled = held.own[metric].value, held.distilled[metric].value
            cells.append(f"{own:.3f} -> {distilled:.3f}" if report.distil.trained else f"{own:.3f}")
        table.add_row(*cells, report.decide.choice)
    return table


def _stages(result: DemoResult) -> Table:
    table = Table(title="Seconds by stage")
    table.add_column("tenant")
    for stage in STAGES:
        table.add_column(stage.replace("_teachers", ""), justify="right")
    for report in result.reports:
        seconds = report.stage_seconds()
        table.add_row(report.tenant, *(f"{seconds[stage]:.1f}" for stage in STAGES))
    return table


def _answers(result: DemoResult) -> Table:
    table = Table(title="Answers over HTTP")
    for name in ("tenant", "question asked", "first FAQ", "score", "adapter", "ms"):
        table.add_column(name, justify="right" if name in ("score", "ms") else "left")
    for answer in result.answers:
        found = Text("abstained", style="yellow") if answer.abstained else Text(answer.first)
        cells: list[str | Text] = [answer.tenant, Text(answer.asked), found]
        table.add_row(
            *cells, f"{answer.score:.3f}", answer.version[:12], f"{answer.milliseconds:.0f}"
        )
    return table


def _figures(result: DemoResult) -> list[str]:
    peaks = ", ".join(f"{name} {mb:.0f} MB" for name, mb in result.peak_rss_mb.items())
    seconds = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in result.seconds.items())
    return [f"Peak memory: {peaks}", f"Time: {seconds}"]
