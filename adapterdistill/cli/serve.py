"""`adapterdistill serve` deploys the search endpoint."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from adapterdistill.cli.options import Dtype, InsecureCluster, without_brackets
from adapterdistill.errors import ConfigError, ServingError

LOCAL = "local"


def register(app: typer.Typer) -> None:
    """Add `serve` to the root command."""
    app.command("serve")(serve)


def serve(
    store: Annotated[
        str,
        typer.Option(
            metavar="FOLDER|URI",
            help="Where the serving bundles are: a folder, or file:// or s3:// where it lies on "
            "other machines.",
        ),
    ],
    create: Annotated[
        bool, typer.Option("--create", help="Make the store if it is absent.")
    ] = False,
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            help="Name or folder of an encoder. Repeat it for encoders that other bundles need: "
            "each of them is loaded when a bundle first needs it.",
            show_default="minilm-l6",
        ),
    ] = None,
    dtype: Dtype = "auto",
    threads: Annotated[int, typer.Option(help="torch threads of a replica.")] = 1,
    replicas: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes that answer. On a Ray of its own, one for each core that `--threads` "
            "leaves and that the memory allows; on a running cluster, one.",
            show_default="by the machine",
        ),
    ] = None,
    encoder_mib: Annotated[
        float,
        typer.Option(
            help="Memory of a replica for the weights of encoders, in MiB; an encoder that does "
            "not fit is refused.",
        ),
    ] = 2048,
    bank_mib: Annotated[
        float,
        typer.Option(
            help="Memory of a replica for adapters, in MiB, in equal parts for its encoders; "
            "tenants that do not fit are loaded when they are asked for.",
        ),
    ] = 1024,
    host: Annotated[str, typer.Option(help="Interface that HTTP listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port that HTTP listens on.")] = 8000,
    grpc_port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65535,
            help="Also answer over gRPC, on this port of all interfaces and without TLS (behind "
            "HAProxy also on ports from 40000): close these ports to others and put a TLS proxy "
            "in front (cluster/tls/haproxy.cfg). Needs --tokens.",
        ),
    ] = None,
    registry: Annotated[
        str | None,
        typer.Option(help="A registry: a version that is withdrawn there is no longer served."),
    ] = None,
    registry_credentials: Annotated[
        Path | None, typer.Option(help="An auditor's keys and certificates for the registry.")
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option(
            help="File of `adapterdistill token`: only a holder of a tenant's token may ask for "
            "the tenant. Needed to listen beyond loopback.",
        ),
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(help="Folder of the tenants' keys (TENANT.key), for encrypted bundles."),
    ] = None,
    push: Annotated[
        bool,
        typer.Option(
            "--push",
            help="Take bundles over HTTP with a tenant's token (`adapterdistill bundle push`).",
        ),
    ] = False,
    feedback: Annotated[
        bool,
        typer.Option(
            "--feedback",
            help="Keep questions that are turned away or answered uncertainly in the store, each "
            "beside its tenant's bundles, for `adapterdistill feedback`.",
        ),
    ] = False,
    traces: Annotated[
        bool,
        typer.Option(
            help="Send OpenTelemetry spans of every request where the OTEL_* variables say. "
            "Needs the extra `tracing`."
        ),
    ] = False,
    ray_address: Annotated[
        str,
        typer.Option(
            envvar="RAY_ADDRESS",
            metavar="HOST:PORT|auto|local",
            help="A running Ray cluster, or `local` to start one and stay.",
        ),
    ] = LOCAL,
    insecure_cluster: InsecureCluster = False,
    haproxy: Annotated[
        bool,
        typer.Option(
            help="Local Ray only: put HAProxy in front of the replicas, or Ray's own proxy, "
            "which answers half as many requests a second."
        ),
    ] = True,
) -> None:
    """Deploy the search endpoint on Ray Serve.

    On a Ray of its own (the default) it serves until it is interrupted. On a running cluster it
    deploys and returns.
    """
    from adapterdistill.registry.server.server import is_loopback
    from adapterdistill.serve import local_ray
    from adapterdistill.serve.settings import ServeSettings
    from adapterdistill.serve.tokens import read_tokens
    from adapterdistill.store.release import tenants_in

    host = without_brackets(host)
    if tokens is not None:
        read_tokens(tokens)
    elif not is_loopback(host):
        raise ConfigError(
            f"--host {host} is open to others, who could ask for every tenant: give --tokens FILE "
            "(see `adapterdistill token new`)"
        )
    elif grpc_port is not None:
        raise ConfigError(
            "--grpc-port is open on every interface, whatever --host says: give --tokens FILE (see "
            "`adapterdistill token new`)"
        )
    if replicas is None:
        replicas = 1
        if ray_address == LOCAL:
            replicas = local_ray.fitting_replicas(threads=threads, bank_mib=bank_mib)
    first, *others = map(_encoder, encoder or ["minilm-l6"])
    settings = {
        "store": store if "://" in store else str(Path(store).expanduser().resolve()),
        "create_store": create,
        "encoder": first,
        "other_encoders": others,
        "encoder_mib": encoder_mib,
        "dtype": dtype,
        "threads": threads,
        "num_replicas": replicas,
        "bank_mib": bank_mib,
        "registry": registry,
        "registry_credentials": registry_credentials and str(registry_credentials.resolve()),
        "keys": keys and str(keys.expanduser().resolve()),
        "push": push,
        "tokens": tokens and str(tokens.expanduser().resolve()),
        "open_to_all": tokens is None,
        "feedback": feedback,
        "traces": traces,
        "insecure_cluster": insecure_cluster,
    }
    checked = ServeSettings.of(settings)  # before Ray starts, which takes seconds
    if ray_address != LOCAL:
        import ray

        _connect(ray, ray_address)
        _deploy(settings, host=host, port=port, grpc_port=grpc_port)
        return
    if not any(tenants_in(checked.open_store())):
        typer.echo(f"warning: {checked.store} has no tenant yet", err=True)
    local_ray.check_port(host, port)
    if grpc_port is not None:
        local_ray.check_port("", grpc_port)
    from adapterdistill.backbone import load_encoder  # torch: what is above answers at once

    # What a replica refuses, it writes into its log; here it is this command's own error.
    load_encoder(checked.encoder, dtype=checked.dtype, max_tokens=checked.max_tokens)
    serve_host = local_ray.prepare(host, haproxy=haproxy)

    def deploy_on_ray() -> None:
        _deploy(settings, host=host, port=port, grpc_port=grpc_port, serve_host=serve_host)

    local_ray.run(deploy_on_ray)


def _encoder(name: str) -> str:
    """The encoder as replicas find it: they have another working folder.

    Raises:
        ConfigError: there is no such folder.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return str(folder.resolve())
    if name.startswith((".", "/", "~")):
        raise ConfigError(f"encoder folder does not exist: {name}")
    return name


def _deploy(settings: dict[str, Any], *, grpc_port: int | None, **listening: Any) -> None:
    from adapterdistill.serve.app import deploy

    with Console(stderr=True).status("starting Ray Serve ..."):
        address = deploy(settings, grpc_port=grpc_port, **listening)
    over_grpc = "" if grpc_port is None else f", over gRPC on port {grpc_port}, without TLS"
    print(
        f"serving {settings['store']} at {address} (documentation at {address}/docs){over_grpc}",
        flush=True,
    )


def _connect(ray: Any, ray_address: str) -> None:
    try:
        ray.init(address=ray_address, log_to_driver=False)
    except (ConnectionError, ValueError) as error:
        raise ServingError(f"no Ray cluster at {ray_address}") from error
