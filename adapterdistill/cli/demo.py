"""`adapterdistill demo`: the main job on the sample tenants, on a cluster of its own."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from adapterdistill.cli.options import Format, Output, names, option
from adapterdistill.cli.tables import table
from adapterdistill.data import sample_names
from adapterdistill.data.importing import GERMAN_SAMPLE
from adapterdistill.errors import ConfigError

if TYPE_CHECKING:  # it imports torch, which `--help` does without
    from adapterdistill.demo.one_cluster import DemoResult

_SHOWN = ("extract", "fetch_teachers", "distil", "evaluate")
"""The stages that take longest, and the one that brings teachers."""
_MULTILINGUAL = "multilingual-e5-small"


def register(app: typer.Typer) -> None:
    app.command(name="demo")(demo)


def demo(
    tenants: Annotated[
        str, option("Sample tenants in order of arrival, commas between.", "NAMES")
    ] = ",".join(sample_names()),
    multilingual: Annotated[
        bool,
        typer.Option(
            "--multilingual", help="Onboard a German tenant, on multilingual-e5-small, instead."
        ),
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave everything running and print the addresses.")
    ] = False,
    stop: Annotated[
        Path | None, option("Stop what an earlier `demo --keep` left here.", "FOLDER")
    ] = None,
    runs: Annotated[Path, option("Folder of the tenants' TOML files.", "FOLDER")] = Path(
        "cluster/runs"
    ),
    output: Annotated[Path | None, option("Write the result as JSON to this file.", "FILE")] = None,
    form: Output = Format.table,
) -> None:
    """Start a cluster and a registry, onboard the sample tenants one after another through
    `ray job submit`, serve them, ask questions over HTTP, and stop everything.
    """
    from adapterdistill.backbone.packaged import DEFAULT_ENCODER, PACKAGED
    from adapterdistill.demo.one_cluster import Demo, stop_cluster

    console = Console(stderr=form is Format.json)
    if stop is not None:
        stop_cluster(stop)
        console.print(f"stopped what ran in {stop}")
        return
    chosen = names(tenants) if not multilingual else [GERMAN_SAMPLE]
    unknown = [] if multilingual else sorted(set(chosen) - set(sample_names()))
    if unknown or not chosen:
        raise ConfigError(
            f"no such sample tenant: {', '.join(unknown) or '(none named)'}; there are "
            f"{', '.join(sample_names())}"
        )
    missing = [name for name in chosen if not (runs / f"{name}.toml").is_file()]
    if missing:
        raise ConfigError(f"no {missing[0]}.toml in {runs}: run the demo from the project's folder")
    encoder = _MULTILINGUAL if multilingual else DEFAULT_ENCODER
    PACKAGED[encoder].folder()  # made before anything starts, or refused
    with Demo(chosen, runs=runs, emit=console.print, keep=keep, encoder=encoder) as running:
        result = running.run()
        for one in _tables(result):
            console.print(one)
        if form is Format.json:
            typer.echo(json.dumps(result.as_json(), indent=2))
        if output is not None:
            output.write_text(json.dumps(result.as_json(), indent=2), "utf-8")
        if keep:
            console.print(
                f"search   {result.serve_address}/docs\nregistry {result.registry_address}\n"
                f"Ray      {result.ray_address} (dashboard {result.dashboard_address})\n"
                f"stop     adapterdistill demo --stop {running.home}",
                markup=False,
            )


def _tables(result: "DemoResult") -> Iterator[Table | str]:
    """The result within 80 columns; `--format json` and `--output` have all of it."""
    shown = _table("Right answers to test queries, %", "teachers", "untrained", "served", "gain")
    shown.add_column("by", no_wrap=True)
    for report in result.reports:
        candidates, choice = report.evaluate.candidates, report.decide.choice
        bare = 100 * report.evaluate.questions_alone["top1"].value
        served = 100 * candidates[choice].test["top1"].value
        right = (f"{bare:.0f}", f"{served:.0f}", f"{served - bare:+.0f}")
        shown.add_row(report.tenant, str(len(report.fetch_teachers.teachers)), *right, choice)
    yield shown
    shown = _table("Seconds by stage", *(stage.replace("_teachers", "") for stage in _SHOWN), "all")
    for report in result.reports:
        seconds = report.stage_seconds()
        cells = [f"{seconds[stage]:.1f}" for stage in _SHOWN]
        shown.add_row(report.tenant, *cells, f"{sum(seconds.values()):.1f}")
    yield shown
    shown = _table("Answers over HTTP", "score", "ms")
    shown.add_column("question asked")
    shown.add_column("first FAQ")
    for answer in result.answers:
        found = Text("abstained", style="yellow") if answer.abstained else Text(answer.first)
        figures = (f"{answer.score:.3f}", f"{answer.milliseconds:.0f}")
        shown.add_row(answer.tenant, *figures, Text(answer.asked), found)
    yield shown
    outside = [answer for answer in result.answers if not answer.answerable]
    refused = sum(answer.abstained for answer in outside)
    yield f"Questions that no FAQ answers: {refused} of {len(outside)} turned away"
    peaks = ", ".join(f"{name} {mb:.0f} MB" for name, mb in result.peak_rss_mb.items())
    yield f"Peak memory: {peaks}"
    yield "Time: " + ", ".join(f"{name} {taken:.0f} s" for name, taken in result.seconds.items())


def _table(title: str, *figures: str) -> Table:
    """A table of tenants, whose names are whole, with columns of figures."""
    made = table(Column("tenant", no_wrap=True), title=title)
    for name in figures:
        made.add_column(name, justify="right", no_wrap=True)
    return made
