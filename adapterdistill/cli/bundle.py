"""`adapterdistill bundle ...`: send a tenant's bundles to a deployment, and make keys for them."""

import json
from pathlib import Path
from typing import Annotated

import typer

from adapterdistill.cli.options import Format, Output

app = typer.Typer(
    help="Send a tenant's bundles to a serving deployment, and make the key that encrypts them.",
    no_args_is_help=True,
)


@app.command()
def push(
    tenant: Annotated[str, typer.Argument(help="The tenant.")],
    url: Annotated[str, typer.Argument(help="The deployment: https://HOST:PORT.")],
    store: Annotated[
        str,
        typer.Option(
            metavar="FOLDER|URI",
            help="The store that has the tenant's bundles: a folder, or s3://.",
        ),
    ],
    token_file: Annotated[Path, typer.Option(help="File with the tenant's token.")],
    ca: Annotated[
        Path | None,
        typer.Option(help="Certificates to trust, PEM, if the system does not know them."),
    ] = None,
    output: Output = Format.table,
) -> None:
    """Send the tenant's release, with the bundles that it names, to a deployment.

    The deployment then serves what `release show` shows here. Only files that it lacks travel. A
    push that was cut off leaves what is served as it was; the next one goes on where it ended.
    """
    from adapterdistill.cli.query import token_in
    from adapterdistill.serving.pusher import push as send

    done = send(store, tenant, url, token_in(token_file), ca=ca)
    if output is Format.json:
        typer.echo(json.dumps(done.model_dump(mode="json"), indent=2))
        return
    typer.echo(
        f"{tenant}: {url} serves bundle {done.bundle[:12]}{done.bundle[64:]}; sent "
        f"{done.sent_bytes:,} of {done.bytes:,} bytes"
    )


@app.command()
def key(
    file: Annotated[Path, typer.Argument(help="File to write, mode 0600.")],
) -> None:
    """Make a key that encrypts a tenant's bundles: `serving_key` of its runs.

    Give the deployment a copy as TENANT.key in the folder of `serve --keys`, by a safe way. Whoever
    loses the key makes a new one and onboards again.
    """
    from adapterdistill.store.sealing import key_id, new_key

    typer.echo(f"{file}: key {key_id(new_key(file))}; keep a copy, and give one to the deployment")
