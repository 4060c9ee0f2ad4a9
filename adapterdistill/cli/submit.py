"""`adapterdistill submit`: sends an onboarding to a Ray cluster, with a package of code alone."""

import json
import shlex
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from adapterdistill.cli.options import InsecureCluster, Promote
from adapterdistill.errors import ConfigError
from adapterdistill.files import write_file
from adapterdistill.manifest import is_name

_PACKAGE = Path("~/.adapterdistill/package.zip")


def register(app: typer.Typer) -> None:
    """Add `submit` to the root command."""
    app.command(name="submit")(submit)


def submit(
    config: Annotated[Path, typer.Option(help="The run's TOML file; it travels with the code.")],
    owner: Annotated[
        str | None,
        typer.Option(
            metavar="TENANT",
            help="Run what is installed on this tenant's node, with the TOML of that path there: "
            "nothing travels.",
        ),
    ] = None,
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

    Prints the `ray job submit` line that does the same, and ends with the run's own exit code. A
    folder of the run that is below the code's is refused.
    """
    from adapterdistill.actors import submission
    from adapterdistill.config import load_toml

    options = [] if submission_id is None else [f"--submission-id={submission_id}"]
    package_file = None
    if owner is None:
        submission.require_outside(load_toml(config))
        package_file = package.expanduser().absolute()
        write_file(package_file, submission.package(submission.ROOT, config))
        options.append(f"--working-dir={package_file}")
        command = submission.entrypoint(insecure=insecure_cluster, promote=promote)
    else:
        if not is_name(owner):
            raise ConfigError("--owner: not a tenant name: lower-case letters, digits, . _ and -")
        if not config.is_absolute():
            raise ConfigError(f"--config {config}: with --owner, give its absolute path there")
        options.append(f"--entrypoint-resources={json.dumps(submission.driver_resources(owner))}")
        command = submission.entrypoint(
            config=str(config), insecure=insecure_cluster, promote=promote
        )
    options += [] if wait else ["--no-wait"]
    line = ["ray", "job", "submit", f"--address={address}", *options]
    typer.echo(f"$ {shlex.join(line)} -- {command}")
    if dry_run:
        return
    job = submission.submit(
        command,
        address=address,
        submission_id=submission_id,
        insecure=insecure_cluster,
        package_file=package_file,
        owner=owner,
    )
    if not wait:
        typer.echo(f"job {job} was submitted")
        return
    emit = partial(typer.echo, nl=False)
    exit_code = submission.follow(job, address=address, emit=emit)
    typer.echo(f"job {job} ended with exit code {exit_code}")
    raise typer.Exit(exit_code)
