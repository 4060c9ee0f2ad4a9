"""`adapterdistill console ...`: pages in a browser, for an owner or for an operator."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapterdistill.cli.options import option, without_brackets
from adapterdistill.errors import ConfigError

if TYPE_CHECKING:
    from adapterdistill.console.listening import Listening

app = typer.Typer(
    help="Open pages in a browser: runs, releases and questions of an owner; tenants, versions and "
    "audit log of an operator. It prints an address with a token, and serves until it is "
    "interrupted.",
    no_args_is_help=True,
)
Serving = Annotated[
    str | None,
    option("Address of the search endpoint, for its figures.", "URL", "--serving"),
]
Host = Annotated[str, typer.Option(help="Interface to listen on; beyond loopback with TLS alone.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")]
Certificate = Annotated[
    Path | None, option("Certificates of the console, in PEM, for TLS.", "FILE", "--certificate")
]
Key = Annotated[Path | None, option("Private key of the certificate.", "FILE", "--key")]
ClientCa = Annotated[
    Path | None,
    option("Also ask each browser for a certificate of this authority.", "FILE", "--client-ca"),
]


@app.command()
def owner(
    config: Annotated[
        Path | None, option("The TOML of a run: its tenant and folders.", "FILE", "--config")
    ] = None,
    workspace: Annotated[
        Path | None, option("Folder of runs, instead of --config.", "FOLDER", "--workspace")
    ] = None,
    store: Annotated[
        Path | None, option("Folder of bundles, instead of --config.", "FOLDER", "--store")
    ] = None,
    runs: Annotated[
        Path | None, option("A folder of TOMLs whose runs may be started.", "FOLDER", "--runs")
    ] = None,
    cluster: Annotated[
        str | None,
        option("Ray's dashboard: runs are sent there. Default: they run here.", "URL", "--cluster"),
    ] = None,
    serving: Serving = None,
    token_file: Annotated[
        Path | None, option("The tenant's token for the endpoint.", "FILE", "--token-file")
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = 8765,
    certificate: Certificate = None,
    key: Key = None,
    client_ca: ClientCa = None,
) -> None:
    """Show a data owner its runs, reports, releases and questions, and answer questions.

    It also starts the run of --config, and those of --runs. The pages hold the owner's texts:
    they are for the owner alone.
    """
    listening = _listening(host, port, certificate, key, client_ca)
    if (config is None) != (workspace is not None and store is not None) or (
        config is not None and (workspace or store)
    ):
        raise ConfigError("give --config FILE, or both --workspace FOLDER and --store FOLDER")
    token = _token(token_file)
    from fastapi import APIRouter

    from adapterdistill.console.app import build
    from adapterdistill.console.owner import LINKS, Owner, add_runs
    from adapterdistill.console.pages import Pages
    from adapterdistill.console.questions import add_questions
    from adapterdistill.console.releases import add_releases
    from adapterdistill.console.starting import add_starting

    if runs is not None and not runs.is_dir():
        raise ConfigError(f"--runs {runs}: there is no such folder")
    if config is not None:
        from adapterdistill.config import load_toml

        run = load_toml(config)
        places = Owner(
            Path(run.workspace),
            run.serving_store,
            tenant=run.tenant,
            data=Path(run.data),
            serving=serving,
            token=token,
            encoder=run.encoder.name,
            dtype=run.encoder.dtype,
            config=config,
            runs=runs,
            cluster=cluster,
        )
    else:
        assert workspace is not None and store is not None
        for name, folder in (("--workspace", workspace), ("--store", store)):
            if not folder.is_dir():
                raise ConfigError(f"{name} {folder}: there is no such folder")
        places = Owner(workspace, store, serving=serving, token=token, runs=runs, cluster=cluster)
    access = listening.access()
    pages, router = Pages("Owner", LINKS, access), APIRouter()
    for add in (add_runs, add_starting, add_releases, add_questions):
        add(router, places, pages)
    typer.echo(f"console: {listening.url(access)}")
    listening.run(build(pages, router, access))


@app.command()
def operator(
    registry: Annotated[
        str | None, option("The registry's address.", "HOST:PORT", "--registry")
    ] = None,
    credentials: Annotated[
        Path | None, option("An operator's keys and certificates.", "FOLDER", "--credentials")
    ] = None,
    root: Annotated[
        Path | None, option("The registry's folder, for its audit log.", "FOLDER", "--root")
    ] = None,
    public_key: Annotated[
        list[Path] | None,
        option("A copy of audit/public.pem, kept elsewhere; may be repeated.", "FILE"),
    ] = None,
    metrics: Annotated[
        str | None, option("Address of the registry's metrics.", "URL", "--metrics")
    ] = None,
    serving: Serving = None,
    token_file: Annotated[
        Path | None, option("The operator's token for the endpoint.", "FILE", "--token-file")
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = 8765,
    certificate: Certificate = None,
    key: Key = None,
    client_ca: ClientCa = None,
) -> None:
    """Show an operator tenants, versions, quarantine, audit log and metrics.

    No page holds a text of a tenant.
    """
    listening = _listening(host, port, certificate, key, client_ca)
    if registry is None and root is None and serving is None:
        raise ConfigError("give --registry HOST:PORT, --root FOLDER or --serving URL")
    if root is not None and not root.is_dir():
        raise ConfigError(f"--root {root}: there is no such folder")
    token = _token(token_file)
    from fastapi import APIRouter

    from adapterdistill.console.app import build
    from adapterdistill.console.operator import LINKS, Operator, add_operator
    from adapterdistill.console.pages import Pages

    address = registry and registry.removeprefix("http://").rstrip("/")
    keys = tuple(public_key or ())
    places = Operator(address, credentials, root, keys, metrics, serving, token)
    doubt = places.doubt()
    if doubt:
        typer.echo(f"warning: {doubt}; the pages ask it again", err=True)
    access = listening.access()
    pages, router = Pages("Operator", LINKS, access), APIRouter()
    add_operator(router, places, pages)
    typer.echo(f"console: {listening.url(access)}")
    listening.run(build(pages, router, access))


def _listening(
    host: str, port: int, certificate: Path | None, key: Path | None, client_ca: Path | None
) -> "Listening":
    """Check where to listen, and return it.

    Raises:
        ConfigError: it would not be safe to listen there, or not possible.
    """
    from adapterdistill.console.listening import Listening
    from adapterdistill.registry.server.server import is_loopback
    from adapterdistill.serve.local_ray import check_port

    listening = Listening(without_brackets(host), port, certificate, key, client_ca)
    listening.check(is_loopback=is_loopback(listening.host))
    check_port(listening.host, port)
    return listening


def _token(path: Path | None) -> str | None:
    """The token in a file, which only its owner may read."""
    from adapterdistill.files import read_secret

    return None if path is None else read_secret(path).decode("ascii", "replace").strip()
