"""`adapterdistill submit`: sends an onboarding to a Ray cluster, with a package of code alone."""

import shlex
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from adapterdistill.cli.options import InsecureCluster, Promote
from adapterdistill.files import write_file

_PACKAGE = Path("~/.adapterdistill/package.zip")


def register(app: typer.Typer) -> None:
    """Add `submit` to the root command."""
    app.command(name="submit")(submit)


def submit(
    config: Annotated[Path, typer.Option(help="The run's TOML file; it travels with the code.")],
    address: Annotated[
        str,
        typer.Option(envvar="RAY_API_SERVER_ADDRESS", metavar="URL", help="Ray's dashboard."),
    ] = "http://127.0.0.1:8265",
    submission_id: Annotated[
        str | None, typer.Option(metavar="ID", help="The job's id. Default: Ray draws one.")
    ] = None,
    package: Annotated[
        Path, typer.Option(metavar="FILE", help="The zip that is written and sent.")
    ] = _PACKAGE,
    wait: Annotated[
        bool, typer.Option(help="Show the job's log and end as the job ends, or return at once.")
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write the package and send nothing.")
    ] = False,
    promote: Promote = False,
    insecure_cluster: InsecureCluster = False,
) -> None:
    """Submit an onboarding to a Ray cluster: code and run file travel, and nothing else.

    Prints the `ray job submit` line that does the same. A folder of the run that is below the
    code's is refused.
    """
    from adapterdistill.actors import submission
    from adapterdistill.config import load_toml

    submission.require_outside(load_toml(config))
    package = package.expanduser().absolute()
    write_file(package, submission.package(submission.ROOT, config))
    named = [] if submission_id is None else [f"--submission-id={submission_id}"]
    line = ["ray", "job", "submit", f"--address={address}", *named]
    line += [f"--working-dir={package}"] + ([] if wait else ["--no-wait"])
    command = submission.entrypoint(insecure=insecure_cluster, promote=promote)
    typer.echo(f"$ {shlex.join(line)} -- {command}")
    if dry_run:
        return
    job = submission.submit(
        package,
        address=address,
        submission_id=submission_id,
        insecure=insecure_cluster,
        promote=promote,
    )
    if not wait:
        typer.echo(f"job {job} was submitted")
        return
    emit = partial(typer.echo, nl=False)
    exit_code = submission.follow(job, address=address, emit=emit)
    typer.echo(f"job {job} ended with exit code {exit_code}")
    raise typer.Exit(exit_code)
