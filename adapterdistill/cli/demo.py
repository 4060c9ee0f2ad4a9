"""`adapterdistill demo`: the main job on the sample tenants, on a cluster of its own."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from adapterdistill.cli.story import Demo, DemoResult, stop_cluster
from adapterdistill.data import sample_names
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
        console.print(_tenants(result), _answers(result), _memory(result))
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
    table = Table(title="Onboarded tenants (own -> distilled adapter)")
    for name in ("tenant", "FAQs", "queries", "teachers"):
        table.add_column(name, justify="left" if name == "tenant" else "right")
    for name in ("held-out top-1", "held-out MRR", "test top-1", "decision", "seconds by stage"):
        table.add_column(name)
    for report in result.reports:
        counts = report.validate_stage.counts
        held, test = report.evaluate.held_out, report.evaluate.test
        queries = sum(counts[split] for split in ("train", "valid", "test"))
        cells = [report.tenant, str(counts["faqs"]), str(queries)]
        cells.append(str(len(report.fetch_teachers.teachers)))
        for comparison, metric in ((held, "top1"), (held, "mrr"), (test, "top1")):
            if comparison is None or metric not in comparison.own:
                cells.append("-")
                continue
            own, distilled = comparison.own[metric].value, comparison.distilled[metric].value
            after = f" -> {distilled:.3f}" if report.distil.trained else ""
            cells.append(f"{own:.3f}{after}")
        cells.append(report.decide.choice)
        cells.append(
            " ".join(
                f"{stage.split('_')[0]} {seconds:.1f}"
                for stage, seconds in report.stage_seconds().items()
                if seconds >= 0.05
            )
        )
        table.add_row(*cells)
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


def _memory(result: DemoResult) -> Table:
    table = Table(title="Peak memory, MB, and seconds")
    for name in [*result.peak_rss_mb, *result.seconds]:
        table.add_column(name, justify="right")
    table.add_row(
        *(f"{mb:.0f}" for mb in result.peak_rss_mb.values()),
        *(f"{seconds:.0f}" for seconds in result.seconds.values()),
    )
    return table
