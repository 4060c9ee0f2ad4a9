"""The `adapterdistill` command: one module a noun; this one finds it and sets exit codes.

Each subcommand's module is imported when it is called, not before: `--help` answers at once, and
the registry's process stays free of torch and Ray.
"""

import atexit
import importlib
import os
import sys
import threading
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

from adapterdistill import __version__
from adapterdistill.cli.metavars import name_values
from adapterdistill.errors import LISTED, AdapterDistillError, FileError, error_classes
from adapterdistill.files import keep_private
from adapterdistill.standard_output import NO_SPACE, drop_output, prepare_output

_EXIT_S = 20.0
"""Longest time that leaving Ray may take after all is done."""


class Subcommand(NamedTuple):
    """A command of the root: `module` has a typer `app` (a noun with verbs) or `register(app)`."""

    module: str
    reader: str
    """Who uses it: the heading that `--help` lists it under."""
    summary: str


_READERS = {
    "Newcomer": {
        "demo": "Run the whole story on the sample tenants.",
        "federation": "Show three owners' clusters and what keeps them apart.",
    },
    "Data owner": {
        "init": "Write a run's TOML and examples of the files.",
        "up": "Do all of it on defaults: import, onboard, serve.",
        "data": "Import, check and describe a tenant's data.",
        "onboard": "Train, distil and publish for a tenant.",
        "encoder": "List the encoders that are known by name, and fetch one.",
        "report": "Write the report of a run as an HTML page.",
        "feedback": "Label what the endpoint answered badly, and train on it.",
        "submit": "Send an onboarding to a Ray cluster, and no data with it.",
        "owner": "Make and show credentials for a registry.",
        "console": "Open pages in a browser, for an owner or an operator.",
    },
    "Operator": {
        "registry": "Run and read the adapter registry.",
        "serve": "Deploy the search endpoint on Ray Serve.",
        "adapter": "Export, import and describe an adapter.",
        "release": "Try, promote and roll back what a tenant is served by.",
        "bundle": "Send bundles to an endpoint, and encrypt them.",
        "token": "Make and revoke tokens for the endpoint.",
        "drill": "Break something and see that it recovers.",
    },
    "Application developer": {"query": "Ask a deployed tenant a question."},
    "Researcher": {"bench": "Measure transfer and cost."},
}
_MODULES = {"init": "runs.begin", "up": "runs.begin", "report": "runs.report"}
SUBCOMMANDS = {
    name: Subcommand(f"adapterdistill.cli.{_MODULES.get(name, name)}", reader, summary)
    for reader, commands in _READERS.items()
    for name, summary in commands.items()
}


class LazyGroup(TyperGroup):
    """Lists every subcommand from the table; imports only the one that is called."""

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        for name, subcommand in SUBCOMMANDS.items():
            self.add_command(
                TyperCommand(name=name, help=subcommand.summary, rich_help_panel=subcommand.reader)
            )
        name_values(self)

    # Typer's own context class is private, hence Any.
    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        if args and args[0] in SUBCOMMANDS:
            self.add_command(load(args[0]), args[0])
        return super().resolve_command(ctx, args)


def load(name: str) -> Any:
    """Import a subcommand and make its command or group."""
    module = importlib.import_module(SUBCOMMANDS[name].module)
    if hasattr(module, "app"):
        return name_values(get_group(module.app))
    plain = typer.Typer(callback=lambda: None)
    module.register(plain)
    return name_values(get_group(plain).commands[name])


def _exit_codes() -> str:
    reasons: dict[int, list[str]] = {}
    for error_class in error_classes():
        reasons.setdefault(error_class.exit_code, []).append(error_class.reason)
    reasons[2].insert(0, "wrong usage")
    lines = ["Exit codes", "0  success"]
    lines += [f"{code}  {', '.join(reasons[code])}" for code in sorted(reasons)]
    lines += ["130  interrupted"]
    return "\n".join(lines)


app = typer.Typer(
    cls=LazyGroup,
    name="adapterdistill",
    help="One small adapter per tenant on a shared frozen encoder.",
    epilog=_exit_codes(),
    no_args_is_help=True,
    add_completion=False,
    # Typer's own traceback prints local variables, which may hold a tenant's text.
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"adapterdistill {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    pass


def main(args: Sequence[str] | None = None) -> None:
    """Run the command and exit; an expected error is printed on stderr and sets the exit code."""
    prepare_output()
    keep_private()
    # gRPC would print a line of its own, in OpenSSL's words, beside each error that is told here.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        exit_code = _run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader went away (`... | head`)
        exit_code = 1
        drop_output()
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        exit_code = _refused(FileError(), f"output cannot be written: {error.strerror}")
        drop_output()
    if "ray" in sys.modules:
        _limit_exit(exit_code)
    sys.exit(exit_code)


def _limit_exit(exit_code: int) -> None:
    """End the process even if Ray does not: its disconnecting makes calls that have no deadline.

    Then a run whose network failed for a while would be reported, and its job would run for ever.
    """
    limit = threading.Timer(_EXIT_S, os._exit, (exit_code,))
    limit.daemon = True
    atexit.register(limit.start)  # called before Ray's own, which was registered earlier


def _run(args: Sequence[str] | None) -> int:
    try:
        app(args=args, prog_name="adapterdistill")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except AdapterDistillError as error:
        # Ray wraps what an actor raised; the plain error is its cause.
        return _refused(error, getattr(error, "cause", error))
    except OSError as error:
        if error.filename is None:  # not about a file: a bug
            raise
        return _refused(FileError(), f"{error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        return 130
    return 0


def _refused(error: AdapterDistillError, told: object) -> int:
    """Print the error as one line, and the faults that it lists as one line each."""
    lines = (" ".join(part.split()) for part in str(told).split(LISTED))
    print(f"error [{error.reason}]: {LISTED.join(lines)}", file=sys.stderr)
    return error.exit_code
