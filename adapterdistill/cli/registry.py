"""`adapterdistill registry ...`: run a registry, and read one.

Imports neither torch nor Ray: `serve` is the registry's process and has little memory.
"""

import asyncio
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich import progress
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TransferSpeedColumn
from rich.text import Text

from adapterdistill.cli import authority, registry_standing, registry_upkeep
from adapterdistill.cli.options import Format, Output
from adapterdistill.cli.registry_client import (
    Address,
    AddressFile,
    CredentialsFolder,
    Name,
    Timeout,
    connect,
    resolve,
)
from adapterdistill.cli.tables import table
from adapterdistill.files import write_file
from adapterdistill.manifest import Manifest
from adapterdistill.registry.admission.admission import Limits
from adapterdistill.registry.admission.quotas import Quotas
from adapterdistill.registry.answers import Lineage
from adapterdistill.registry.server import server
from adapterdistill.registry.streams import Progress

app = typer.Typer(help="Run and read the adapter registry.", no_args_is_help=True)
authority.register(app)
registry_standing.register(app)
registry_upkeep.register(app)
MIB, GIB = 1 << 20, 1 << 30
DEFAULT_QUOTAS = Quotas()


@app.command()
def serve(
    root: Annotated[Path, typer.Option(help="Folder of payloads and index; made if absent.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free port.")] = 0,
    port_file: Annotated[
        Path | None, typer.Option(help="Write HOST:PORT here once the registry is ready.")
    ] = None,
    max_payload_mib: Annotated[int, typer.Option(min=1, help="Largest payload, in MiB.")] = 64,
    encoder_weights_sha256: Annotated[
        str | None, typer.Option(help="Accept adapters of this encoder only.")
    ] = None,
    refuse_descendants: Annotated[
        bool,
        typer.Option(
            "--refuse-descendants",
            help="Show no other owner what learnt from a withdrawn version.",
        ),
    ] = False,
    max_tenant_gib: Annotated[
        float, typer.Option(min=0.001, help="What one tenant may store, in GiB.")
    ] = DEFAULT_QUOTAS.stored_bytes / GIB,
    max_tenant_versions: Annotated[
        int, typer.Option(min=1, help="How many versions one tenant may store.")
    ] = DEFAULT_QUOTAS.versions,
    max_calls_per_s: Annotated[
        float, typer.Option(min=0.1, help="How often each caller may call, on average.")
    ] = DEFAULT_QUOTAS.calls_per_s,
    reflection: Annotated[
        bool, typer.Option("--reflection", help="Tell clients by gRPC what calls there are.")
    ] = False,
    record: Annotated[
        Path | None, typer.Option(help="Keep here every message that passes, for an inspection.")
    ] = None,
) -> None:
    """Run a registry until SIGTERM or Ctrl-C. Prints its address; logs to stderr.

    Over mutual TLS once `registry init` has made certificates; before, plain text on loopback.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")

    def announce(address: str) -> None:
        if port_file is not None:
            write_file(port_file, f"{address}\n".encode())
        typer.echo(address)

    registry = server.RegistryServer(
        root,
        host=host,
        port=port,
        limits=Limits(max_payload_mib * MIB, encoder_weights_sha256, refuse_descendants),
        quotas=Quotas(
            stored_bytes=int(max_tenant_gib * GIB),
            versions=max_tenant_versions,
            calls_per_s=max_calls_per_s,
        ),
        reflection=reflection,
        record=record,
    )
    asyncio.run(server.serve(registry, announce))


@app.command("list")
def list_(
    address: Address = None,
    address_file: AddressFile = None,
    credentials: CredentialsFolder = None,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's adapters.")] = None,
    exclude_tenant: Annotated[str | None, typer.Option(help="None of this tenant's.")] = None,
    task: Annotated[str | None, typer.Option(help="Only adapters for this task.")] = None,
    language: Annotated[str | None, typer.Option(help="Only adapters for this language.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Only adapters with this label; may be repeated.")
    ] = None,
    all_versions: Annotated[
        bool, typer.Option("--all-versions", help="Not only the newest of each adapter.")
    ] = False,
    timeout_s: Timeout = 10.0,
    output: Output = Format.table,
) -> None:
    """List published adapters, newest first."""
    with connect(address, address_file, timeout_s, credentials) as client:
        found = [
            *client.describe_all(
                tenant=tenant,
                exclude_tenant=exclude_tenant,
                latest_only=not all_versions,
                task=task,
                language=language,
                labels=label or (),
            )
        ]
    if output is Format.json:
        shown = [one.manifest.model_dump(mode="json") | {"state": one.state} for one in found]
        typer.echo(json.dumps(shown, indent=2))
        return
    # `show` tells the rest: at 80 columns, more columns would leave no room for the names.
    columns = ("tenant", "adapter", "version", "state", "teachers")
    listed = table(*columns, right=("teachers",))
    for one in found:
        ref, teachers = one.manifest.ref, len(one.manifest.teachers)
        cells = (ref.tenant, ref.adapter, ref.version[:12], one.state, str(teachers))
        listed.add_row(*map(Text, cells))  # Text: names are no rich markup
    Console().print(listed)


@app.command()
def show(
    name: Name,
    address: Address = None,
    address_file: AddressFile = None,
    credentials: CredentialsFolder = None,
    timeout_s: Timeout = 10.0,
    output: Output = Format.table,
) -> None:
    """Show one version: its manifest, its teachers and its students."""
    with connect(address, address_file, timeout_s, credentials) as client:
        ref = resolve(client, name)
        published = client.describe(ref)
        lineage = client.lineage(ref)
    relatives = _relatives(lineage)
    standing = {
        "state": published.state,
        "reason": published.state_reason,
        "withdrawn teacher": published.withdrawn_teacher,
    }
    if output is Format.json:
        shown = {
            "manifest": published.manifest.model_dump(mode="json"),
            **{field.replace(" ", "_"): value for field, value in standing.items()},
            "lineage": relatives,
        }
        typer.echo(json.dumps(shown, indent=2))
        return
    facts = table("field", "value", show_header=False)
    standing = {field: value for field, value in standing.items() if value}
    for field, value in (_facts(published.manifest) | standing).items():
        facts.add_row(field, Text(value))
    for kind, members in relatives.items():
        lines = [f"{depth}  {relative}" for relative, depth in members.items()]
        facts.add_row(kind, Text("\n".join(lines) or "none"))
    Console().print(facts)


@app.command()
def fetch(
    name: Name,
    folder: Annotated[Path, typer.Argument(help="Folder to write to; made if absent.")],
    address: Address = None,
    address_file: AddressFile = None,
    credentials: CredentialsFolder = None,
    timeout_s: Timeout = 60.0,
    output: Output = Format.table,
) -> None:
    """Fetch one version, verified, into adapter.safetensors and manifest.json."""
    with (
        connect(address, address_file, timeout_s, credentials) as client,
        _progress_bar() as on_progress,
    ):
        manifest, payload = client.fetch(resolve(client, name), on_progress=on_progress)
    write_file(folder / "adapter.safetensors", payload)
    write_file(folder / "manifest.json", manifest.canonical_json())
    if output is Format.json:
        typer.echo(json.dumps({"name": manifest.ref.name, "folder": str(folder)}))
    else:
        typer.echo(f"{manifest.ref.name}: {len(payload)} bytes verified, in {folder}")


@contextmanager
def _progress_bar() -> Iterator[Progress]:
    """A bar of bytes on stderr, if a terminal watches."""
    console = Console(stderr=True)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with progress.Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("fetch")
        yield lambda done_bytes, total_bytes: bar.update(
            task, completed=done_bytes, total=total_bytes
        )


def _facts(manifest: Manifest) -> dict[str, str]:
    return {
        "name": manifest.ref.name,
        "kind": manifest.kind,
        "task, language": f"{manifest.task}, {manifest.language}",
        "encoder": f"{manifest.encoder.name} {manifest.encoder.weights_sha256[:12]}",
        "payload": f"{manifest.payload_bytes} bytes",
        "tensors": "\n".join(
            f"{name} {spec.dtype} {list(spec.shape)}" for name, spec in manifest.tensors.items()
        ),
        "method": f"{manifest.method}, seed {manifest.seed}",
        "metrics": "\n".join(
            f"{name} {metric.value:.4f} of {metric.count}"
            for name, metric in manifest.metrics.items()
        ),
        "privacy": manifest.privacy,
    }


def _relatives(lineage: Lineage) -> Mapping[str, dict[str, int]]:
    """Names with their depths."""
    return {
        "teachers": {one.ref.name: one.depth for one in lineage.ancestors},
        "students": {one.ref.name: one.depth for one in lineage.descendants},
    }
