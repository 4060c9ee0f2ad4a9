"""`adapterdistill drill`: break something on purpose and see that it recovers."""

import json
import signal
import statistics
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.table import Column
from rich.text import Text

from adapterdistill.cli.options import Format, Output, number, option
from adapterdistill.cli.tables import table
from adapterdistill.drills.catalogue import DRILLS, ON_NAMED
from adapterdistill.drills.drill import Drill, Outcome, run_drill
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
    runs: Annotated[int, number("Runs of each drill, each a new deployment.", low=1)] = 1,
    seed: Annotated[int, number("Seed of the first run; the next adds 1.", low=0)] = 0,
    on: Annotated[
        Path | None,
        option("TOML file of a deployment to do it on; `list` says what it needs.", "FILE"),
    ] = None,
    out: Annotated[
        Path | None, option("Keep the reports of drills that measure here.", "FOLDER")
    ] = None,
    calls: Annotated[int | None, number("fuzz-registry, history: calls.", low=1)] = None,
    payloads: Annotated[
        int | None, number("poisoned-teacher: mutated payloads for each loader.", low=1)
    ] = None,
    kills: Annotated[
        int | None, number("kill-registry, kill-shared-registry: kills.", low=1)
    ] = None,
    requests: Annotated[int | None, number("isolation, encoders: answers to check.", low=1)] = None,
    tenants: Annotated[int | None, number("isolation, encoders: tenants to serve.", low=2)] = None,
    data: Annotated[
        Path | None, option("isolation, encoders: FAQ banks. Default: the samples.", "FOLDER")
    ] = None,
    seconds: Annotated[
        float | None, number("kill-serve-replica and others: for how long to ask.", low=1)
    ] = None,
    minutes: Annotated[float | None, number("soak: for how long to run.", low=0.05)] = None,
    rate: Annotated[
        float | None, number("soak: queries a second, of all tenants.", low=0.1)
    ] = None,
    output: Output = Format.table,
) -> None:
    """Start a small deployment, break something at a random moment, check what must hold, and
    remove it all. Without a name: list the drills and their sizes.

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
    sizes: dict[str, Any] = {
        "calls": calls,
        "payloads": payloads,
        "kills": kills,
        "requests": requests,
        "tenants": tenants,
        "data": data,
    }
    sizes |= {"seconds": seconds, "minutes": minutes, "rate": rate}
    chosen = [DRILLS[name] for name in (DRILLS if ALL in names else dict.fromkeys(names))]
    chosen = _sized(chosen, {name: size for name, size in sizes.items() if size is not None})
    if on is not None:
        named = load_named(on)
        chosen = [on_named(one, ON_NAMED, named, on) for one in chosen]
    end_orderly()
    console = Console(stderr=True)
    found: list[dict[str, Any]] = []
    for one in chosen:
        outcomes = []
        for run in range(runs):
            keep = out and out / f"{one.name}-{seed + run}"
            outcomes.append(run_drill(one, seed + run, keep=keep))
            _tell(console, f"{one.name} {run + 1}/{runs}", outcomes[-1])
        found.append(_summed(one.name, seed, outcomes))
    if output is Format.json:
        typer.echo(json.dumps(found, indent=2))
    else:
        Console().print(_table(found))
    if not all(row["passed"] for row in found):
        raise typer.Exit(1)


def _sized(drills: list[Drill], given: dict[str, Any]) -> list[Drill]:
    """The drills with the sizes that were given. Raises ConfigError: no drill here has one."""
    for name in given:
        if not any(name in drill.sizes for drill in drills):
            with_it = ", ".join(drill.name for drill in DRILLS.values() if name in drill.sizes)
            raise ConfigError(f"--{name} is a size of {with_it}, which is not run here")
    return [
        replace(drill, sizes={name: given.get(name, size) for name, size in drill.sizes.items()})
        for drill in drills
    ]


def end_orderly() -> None:
    """Make a signal to end raise an error here, so that what was started is ended first."""
    for ending in _ENDINGS:
        signal.signal(ending, _end_orderly)


def _end_orderly(number: int, _frame: object) -> None:
    """Raise the error of a signal; further signals do not interrupt the removal."""
    for one in _ENDINGS:
        signal.signal(one, signal.SIG_IGN)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def _list(output: Format) -> None:
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "sentence": drill.sentence,
            "on_named": _on_named(name),
            "sizes": {name: size for name, size in drill.sizes.items() if size is not None},
        }
        for name, drill in DRILLS.items()
    ]
    if output is Format.json:
        typer.echo(json.dumps(rows, indent=2))
        return
    shown = table(Column("drill", no_wrap=True), "fault, and what must hold", "with --on")
    for row in rows:
        sizes = " ".join(f"--{name} {size:g}" for name, size in row["sizes"].items())
        sentence = f"{row['sentence']} ({sizes})" if sizes else row["sentence"]
        shown.add_row(row["name"], Text(sentence), Text(row["on_named"]))
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
