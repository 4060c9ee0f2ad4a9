"""`adapterdistill drill`: break something on purpose and see that it recovers."""

import json
import signal
import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.table import Column
from rich.text import Text

from adapterdistill.cli.options import Format, Output
from adapterdistill.cli.tables import table
from adapterdistill.drills.catalogue import DRILLS, ON_NAMED
from adapterdistill.drills.drill import Outcome, run_drill
from adapterdistill.drills.named import load_named, on_named
from adapterdistill.errors import ConfigError

LIST, ALL = "list", "all"
_ENDINGS = (signal.SIGINT, signal.SIGTERM)


def register(app: typer.Typer) -> None:
    """Add `drill` to the root command."""
    app.command("drill")(drill)


def drill(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Drills to run, or `all`; `list` shows them."),
    ] = None,
    runs: Annotated[
        int, typer.Option(min=1, help="Of each drill, every one a new deployment.")
    ] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the first run; the next has the next.")] = 0,
    on: Annotated[
        Path | None,
        typer.Option(
            help="TOML file that names a running deployment to do it on, with [registry], "
            "[serving] and [ray]; `list` shows which drills can."
        ),
    ] = None,
    output: Output = Format.table,
) -> None:
    """Start a small deployment, break something at a random moment, check what must hold, and
    remove it all. Without a name: list the drills.

    With --on, the same on a deployment that runs already, whose data stay as they are.

    Exit code 1 if a run found what must not be.
    """
    names = names or [LIST]
    if names == [LIST]:
        _list(output)
        return
    unknown = sorted(set(names) - DRILLS.keys() - {ALL})
    if unknown:
        raise ConfigError(f"no such drill: {', '.join(unknown)}; there are {', '.join(DRILLS)}")
    chosen = [DRILLS[name] for name in (DRILLS if ALL in names else dict.fromkeys(names))]
    if on is not None:
        named = load_named(on)
        chosen = [on_named(one, ON_NAMED, named, on) for one in chosen]
    end_orderly()
    console = Console(stderr=True)
    found: list[dict[str, Any]] = []
    for one in chosen:
        outcomes = []
        for number in range(runs):
            outcomes.append(run_drill(one, seed + number))
            _tell(console, f"{one.name} {number + 1}/{runs}", outcomes[-1])
        found.append(_summed(one.name, seed, outcomes))
    if output is Format.json:
        typer.echo(json.dumps(found, indent=2))
    else:
        Console().print(_table(found))
    if not all(row["passed"] for row in found):
        raise typer.Exit(1)


def end_orderly() -> None:
    """From now on a signal to end raises here, so that what was started is ended first."""
    for ending in _ENDINGS:
        signal.signal(ending, _end_orderly)


def _end_orderly(number: int, _frame: object) -> None:
    """What was started is ended and removed, which no further signal interrupts."""
    for one in _ENDINGS:
        signal.signal(one, signal.SIG_IGN)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def _list(output: Format) -> None:
    rows = [
        {"name": name, "sentence": drill.sentence, "on_named": _on_named(name)}
        for name, drill in DRILLS.items()
    ]
    if output is Format.json:
        typer.echo(json.dumps(rows, indent=2))
        return
    shown = table(Column("drill", no_wrap=True), "fault, and what must hold", "with --on")
    for row in rows:
        shown.add_row(*map(Text, row.values()))
    Console().print(shown)


def _on_named(name: str) -> str:
    way = ON_NAMED[name]
    if isinstance(way, str):
        return f"no: {way}"
    return " and ".join(f"[{section}]" for section in way.needs)


def _tell(console: Console, run: str, outcome: Outcome) -> None:
    recovery = "" if outcome.recovery_s is None else f", recovered in {outcome.recovery_s:.2f} s"
    note = outcome.note and f" ({outcome.note})"
    told = [f"{run}: {'pass' if outcome.passed else 'FAIL'}{recovery}{note}", *outcome.findings]
    console.print("\n   ".join(told), markup=False, highlight=False)


def _summed(name: str, seed: int, outcomes: list[Outcome]) -> dict[str, Any]:
    seconds = [one.recovery_s for one in outcomes if one.recovery_s is not None]
    return {
        "drill": name,
        "passed": all(one.passed for one in outcomes),
        "runs": [
            {"seed": seed + place, "passed": one.passed, **asdict(one)}
            for place, one in enumerate(outcomes)
        ],
        "recovery_s": {
            "median": round(statistics.median(seconds), 3) if seconds else None,
            "max": round(max(seconds), 3) if seconds else None,
        },
    }


def _table(found: list[dict[str, Any]]) -> RenderableType:
    columns = ("passed", "median s", "max s", "found")
    shown = table(Column("drill", no_wrap=True), *columns, right=columns[1:3], title="Drills")
    for row in found:
        runs = row["runs"]
        passed = sum(run["passed"] for run in runs)
        shown.add_row(
            row["drill"],
            Text(f"{passed} of {len(runs)}", "green" if row["passed"] else "bold red"),
            *("-" if value is None else f"{value:.2f}" for value in row["recovery_s"].values()),
            Text("\n".join(dict.fromkeys(f for run in runs for f in run["findings"])) or "nothing"),
        )
    return shown
