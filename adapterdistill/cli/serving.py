"""`adapterdistill serve` deploys the search endpoint; `adapterdistill query` asks it."""

import json
import os
import secrets
import signal
import threading
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from adapterdistill.cli.output import Format
from adapterdistill.errors import (
    AdapterDistillError,
    ConfigError,
    DeadlineExceededError,
    OverloadedError,
    ServingError,
    UnauthenticatedError,
    UnknownTenantError,
    WithdrawnError,
)
from adapterdistill.manifest import is_name

LOCAL = "local"
DEFAULT_ADDRESS = "http://127.0.0.1:8000"
_TIMEOUT_S = 30.0


def register(app: typer.Typer) -> None:
    """Add `serve` and `query` to the root command."""
    app.command("serve")(serve)
    app.command("query")(query)


def serve(
    store: Annotated[Path, typer.Option(help="Folder of serving bundles; made if absent.")],
    encoder: Annotated[str, typer.Option(help="Encoder's name or folder.")] = "minilm-l6",
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    threads: Annotated[int, typer.Option(help="torch threads of a replica.")] = 1,
    host: Annotated[str, typer.Option(help="Interface that HTTP listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port that HTTP listens on.")] = 8000,
    registry: Annotated[
        str | None,
        typer.Option(help="HOST:PORT of a registry: what is withdrawn there is served no more."),
    ] = None,
    registry_credentials: Annotated[
        Path | None, typer.Option(help="Folder of an auditor's keys and certificates for it.")
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option(
            help="File of `adapterdistill token`: only who has a tenant's token may ask for it. "
            "Needed to listen beyond loopback."
        ),
    ] = None,
    ray_address: Annotated[
        str,
        typer.Option(
            envvar="RAY_ADDRESS",
            help="A running Ray cluster (host:port or auto), or `local` to start one and stay.",
        ),
    ] = LOCAL,
    haproxy: Annotated[
        bool,
        typer.Option(
            help="Local Ray only: HAProxy instead of Ray's own proxy. Twice the requests "
            "a second, but its statistics ports 8404 and 9101 listen on all interfaces."
        ),
    ] = False,
) -> None:
    """Deploy the search endpoint on Ray Serve.

    On a Ray of its own (the default) it serves until it is interrupted. On a running cluster it
    deploys and returns.
    """
    from adapterdistill.registry.server import is_loopback
    from serve.settings import ServeSettings
    from serve.tokens import read_tokens

    if tokens is not None:
        read_tokens(tokens)
    elif not is_loopback(host):
        raise ConfigError(
            f"--host {host} is open to others, who could ask for every tenant: give --tokens FILE "
            "(see `adapterdistill token new`)"
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
        "registry": registry,
        "registry_credentials": registry_credentials and str(registry_credentials.resolve()),
        "tokens": tokens and str(tokens.expanduser().resolve()),
    }
    ServeSettings.of(settings)  # before Ray starts, which takes seconds
    is_local = ray_address == LOCAL
    if is_local:
        _prepare_local_ray(haproxy=haproxy)
    import ray

    from serve.app import deploy

    console = Console(stderr=True)
    with console.status("starting Ray Serve ..."):
        _connect(ray, ray_address)
        try:
            address = deploy(settings, host=host, port=port)
        except RuntimeError as error:
            last = (str(error).strip().splitlines() or ["no reason given"])[-1]
            raise ServingError(f"Ray Serve could not deploy: {last[:300]}") from error
    print(f"serving {store} at {address} (documentation at {address}/docs)", flush=True)
    if is_local:
        _wait_for_a_signal()
        with console.status("stopping ..."):
            from ray import serve as ray_serve

            ray_serve.shutdown()
            ray.shutdown()


def query(
    tenant: Annotated[str, typer.Argument(help="The tenant whose FAQs are searched.")],
    text: Annotated[str, typer.Argument(help="The question.")],
    address: Annotated[
        str, typer.Option(help="Where `adapterdistill serve` listens.")
    ] = DEFAULT_ADDRESS,
    top_k: Annotated[int, typer.Option(help="FAQs to show.", min=1, max=50)] = 5,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the tenant's token, where the server asks for one."),
    ] = None,
    output: Annotated[
        Format, typer.Option("--format", help="A table for people or JSON.")
    ] = Format.table,
) -> None:
    """Ask a deployed tenant a question and show its ranked FAQs."""
    token = None if token_file is None else _token_in(token_file)
    answer = ask(address, tenant, text, top_k=top_k, token=token)
    if output is Format.json:
        print(json.dumps(answer, ensure_ascii=False, indent=2))
    else:
        Console().print(_table(answer))


def _token_in(path: Path) -> str:
    """Read from a file, as whoever lists a machine's processes sees their arguments."""
    from serve.tokens import PREFIX, read_secret

    token = read_secret(path).decode("ascii", "replace").strip()
    if not token.startswith(PREFIX) or len(token.split()) != 1:
        raise ConfigError(f"{path}: holds no token, as `adapterdistill token new` prints it")
    return token


def ask(
    address: str, tenant: str, text: str, *, top_k: int = 5, token: str | None = None
) -> dict[str, Any]:
    """The server's answer to one question.

    Raises:
        ConfigError: the address, the tenant's name or the question is malformed.
        UnauthenticatedError: the server takes no such token for this tenant.
        UnknownTenantError, WithdrawnError, OverloadedError, DeadlineExceededError: the server
            said so.
        ServingError: the server does not answer, or fails.
    """
    import httpx

    if not is_name(tenant):
        raise ConfigError("not a tenant name: expected lower-case letters, digits, . _ and -")
    url = f"{address.rstrip('/')}/v1/tenants/{tenant}/search"
    try:
        response = httpx.post(
            url,
            json={"query": text, "top_k": top_k},
            headers={} if token is None else {"Authorization": f"Bearer {token}"},
            timeout=_TIMEOUT_S,
        )
    except (httpx.InvalidURL, httpx.UnsupportedProtocol):
        raise ConfigError(f"not an address: {address}") from None
    except httpx.HTTPError as error:
        raise ServingError(f"no answer from {address} ({type(error).__name__})") from None
    try:
        body: dict[str, Any] = response.json()
    except ValueError:
        raise ServingError(f"{address} is not an AdapterDistill server") from None
    if response.status_code == 200:
        return body
    raise _error_of(response.status_code, str(body.get("message", "")))


def _error_of(status: int, message: str) -> AdapterDistillError:
    classes: dict[int, type[AdapterDistillError]] = {
        401: UnauthenticatedError,
        404: UnknownTenantError,
        410: WithdrawnError,
        422: ConfigError,
        503: OverloadedError,
        504: DeadlineExceededError,
    }
    return classes.get(status, ServingError)(message or f"the server answered with status {status}")


def _table(answer: dict[str, Any]) -> Table:
    [result] = answer["results"]
    adapter = f"adapter {answer['adapter']['name']} {answer['adapter']['version'][:12]}"
    form = answer["adapter"]["form"]
    table = Table(
        title=Text(f"{answer['tenant']}: {adapter}{'' if form == 'adapter' else f', {form} form'}"),
        caption=Text("abstained: no FAQ is close enough") if result["abstained"] else None,
    )
    table.add_column("#", justify="right")
    table.add_column("score", justify="right")
    for name in ("question", "answer", "faq_id"):
        table.add_column(name, overflow="fold")
    for place, faq in enumerate(result["ranked"], start=1):
        # Text, not str: a tenant's brackets are not markup.
        cells = [Text(faq[name] or "-") for name in ("question", "answer", "faq_id")]
        table.add_row(str(place), f"{faq['score']:.3f}", *cells)
    return table


def _prepare_local_ray(*, haproxy: bool) -> None:
    """Set what Ray reads when it is imported; what the user has set stays."""
    if "RAY_AUTH_MODE" not in os.environ:
        # Others on the machine can reach a local Ray's ports and would run code in it. The token
        # lives in this process and its children only: no file that would change other clusters.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    # Otherwise Ray on Linux listens on all interfaces.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_SERVE_ENABLE_HA_PROXY", "1" if haproxy else "0")
    # A replica behind HAProxy drains for 30 s by default, which is how long stopping would take.
    os.environ.setdefault("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "2")


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
        object_store_memory=100_000_000,  # nothing big passes through it; the default takes 30%
    )


def _wait_for_a_signal() -> None:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
