"""The `adapterdistill` command: finds the subcommand, and turns errors into exit codes.

Each subcommand's module is imported when it is called, not before: `--help` answers at once, and
the registry's process stays free of torch and Ray.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

from adapterdistill import __version__
from adapterdistill.errors import AdapterDistillError, FileError, error_classes


class Subcommand(NamedTuple):
    """`module` has a typer `app` (a noun with verbs) or `register(app)` (plain commands)."""

    module: str
    summary: str


SUBCOMMANDS = {
    "demo": Subcommand("adapterdistill.cli.demo", "Run the whole story on the sample tenants."),
    "federation": Subcommand(
        "adapterdistill.cli.federation", "Show three owners' clusters and what keeps them apart."
    ),
    "data": Subcommand("adapterdistill.cli.data", "Import, check and describe a tenant's data."),
    "onboard": Subcommand("adapterdistill.cli.onboard", "Train, distil and publish for a tenant."),
    "owner": Subcommand("adapterdistill.cli.owner", "Make and show credentials for a registry."),
    "registry": Subcommand("adapterdistill.cli.registry", "Run and read the adapter registry."),
    "serve": Subcommand("adapterdistill.cli.serve", "Deploy the search endpoint on Ray Serve."),
    "query": Subcommand("adapterdistill.cli.query", "Ask a deployed tenant a question."),
    "release": Subcommand(
        "adapterdistill.cli.release", "Try, promote and roll back what a tenant is served by."
    ),
    "token": Subcommand("adapterdistill.cli.token", "Make and revoke tokens for the endpoint."),
    "drill": Subcommand("adapterdistill.cli.drill", "Break something and see that it recovers."),
    "bench": Subcommand("adapterdistill.cli.bench", "Measure transfer and cost."),
}


class LazyGroup(TyperGroup):
    """Lists every subcommand from the table; imports only the one that is called."""

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        for name, subcommand in SUBCOMMANDS.items():
            self.add_command(TyperCommand(name=name, help=subcommand.summary))

    # Typer's own context class is private, hence Any.
    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        if args and args[0] in SUBCOMMANDS:
            self.add_command(_load(args[0]), args[0])
        return super().resolve_command(ctx, args)


def _load(name: str) -> Any:
    module = importlib.import_module(SUBCOMMANDS[name].module)
    if hasattr(module, "app"):
        return get_group(module.app)
    plain = typer.Typer(callback=lambda: None)
    module.register(plain)
    return get_group(plain).commands[name]


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
    """Runs the command and exits: an expected fault is one line on stderr and its exit code."""
    try:
        exit_code = _run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader went away (`... | head`). Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        exit_code = 1
    sys.exit(exit_code)


def _run(args: Sequence[str] | None) -> int:
    try:
        app(args=args, prog_name="adapterdistill")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except AdapterDistillError as error:
        # What an actor raised comes wrapped by Ray, with the plain error as its cause.
        return _refused(error, getattr(error, "cause", error))
    except OSError as error:
        if error.filename is None:  # not about a file: nobody foresaw it
            raise
        return _refused(FileError(), f"{error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        return 130
    return 0


def _refused(error: AdapterDistillError, told: object) -> int:
    print(f"error [{error.reason}]: {_shown(str(told))}", file=sys.stderr)
    return error.exit_code


def _shown(message: str) -> str:
    """One line; a list, whose further lines are indented, keeps them."""
    first, *further = message.splitlines() or [""]
    if all(line.startswith("  ") for line in further):
        return "\n  ".join(" ".join(line.split()) for line in (first, *further))
    return " ".join(message.split())
