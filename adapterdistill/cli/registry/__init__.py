"""`adapterdistill registry ...`: run a registry, and read one.

This module imports neither torch nor Ray: `serve` is the registry's process and must stay small.
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

from adapterdistill.cli.options import Format, Output, without_brackets
from adapterdistill.cli.registry import authority, lifecycle, receipt, revocation, upkeep
from adapterdistill.cli.registry.client import (
    Address,
    AddressFile,
    CredentialsFolder,
    Name,
    Timeout,
    connect,
    resolve,
)
from adapterdistill.cli.registry.receipt import software_line
from adapterdistill.cli.tables import print_table, table
from adapterdistill.errors import ConfigError
from adapterdistill.files import write_file
from adapterdistill.manifest import Manifest
from adapterdistill.registry.admission.admission import Limits
from adapterdistill.registry.admission.quotas import Quotas
from adapterdistill.registry.answers import Lineage
from adapterdistill.registry.server import server
from adapterdistill.registry.streams import Progress

app = typer.Typer(help="Run and read the adapter registry.", no_args_is_help=True)
authority.register(app)
revocation.register(app)
lifecycle.register(app)
upkeep.register(app)
receipt.register(app)
MIB, GIB = 1 << 20, 1 << 30
DEFAULT_QUOTAS = Quotas()


@app.command()
def serve(
    root: Annotated[Path, typer.Option(metavar="FOLDER", help="The registry's folder.")],
    create: Annotated[
        bool, typer.Option("--create", help="Begin an empty registry where there is none.")
    ] = False,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="PORT", help="0 takes a free one.")
    ] = 0,
    port_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write HOST:PORT here once the registry is ready."),
    ] = None,
    max_payload_mib: Annotated[
        int, typer.Option(min=1, metavar="MIB", help="Largest payload.")
    ] = 64,
    encoder_weights_sha256: Annotated[
        str | None,
        typer.Option(metavar="SHA256", help="Accept only adapters of this encoder."),
    ] = None,
    refuse_descendants: Annotated[
        bool,
        typer.Option(
            "--refuse-descendants",
            help="Hide descendants of withdrawn versions from other owners.",
        ),
    ] = False,
    max_tenant_gib: Annotated[
        float, typer.Option(min=0.001, metavar="GIB", help="Storage limit of each tenant.")
    ] = DEFAULT_QUOTAS.stored_bytes / GIB,
    max_tenant_versions: Annotated[
        int, typer.Option(min=1, metavar="COUNT", help="Most versions of each tenant.")
    ] = DEFAULT_QUOTAS.versions,
    max_calls_per_s: Annotated[
        float, typer.Option(min=0.1, metavar="RATE", help="Mean rate limit of each caller.")
    ] = DEFAULT_QUOTAS.calls_per_s,
    reflection: Annotated[
        bool, typer.Option("--reflection", help="List the calls to clients (gRPC reflection).")
    ] = False,
    passphrase_file: authority.Passphrase = None,
    record: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write every message here, for an inspection."),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, metavar="PORT", help="Serve metrics for Prometheus here; 0: any."
        ),
    ] = None,
    metrics_host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address of the metrics, in plain text.")
    ] = "127.0.0.1",
) -> None:
    """Run a registry until SIGTERM or Ctrl-C. Prints its address; logs to stderr.

    It uses mutual TLS after `registry init`, and plain text on loopback before.
    """
    if not (create or server.is_registry(root)):
        raise ConfigError(
            f"--root {root}: no registry there: correct its name, make certificates with "
            f"`adapterdistill registry init --root {root}`, or begin one in plain text with "
            "--create"
        )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")

    def announce(address: str) -> None:
        if port_file is not None:
            write_file(port_file, f"{address}\n".encode())
        typer.echo(address)

    registry = server.RegistryServer(
        root,
        host=without_brackets(host),
        port=port,
        limits=Limits(max_payload_mib * MIB, encoder_weights_sha256, refuse_descendants),
        quotas=Quotas(
            stored_bytes=int(max_tenant_gib * GIB),
            versions=max_tenant_versions,
            calls_per_s=max_calls_per_s,
        ),
        reflection=reflection,
        record=record,
        metrics_at=None if metrics_port is None else (without_brackets(metrics_host), metrics_port),
        passphrase=passphrase_file,
    )
    asyncio.run(server.serve(registry, announce))


@app.command("list")
def list_(
    address: Address = None,
    address_file: AddressFile = None,
    credentials: CredentialsFolder = None,
    tenant: Annotated[str | None, typer.Option(metavar="NAME", help="Only of this tenant.")] = None,
    exclude_tenant: Annotated[
        str | None, typer.Option(metavar="NAME", help="Not of this tenant.")
    ] = None,
    task: Annotated[str | None, typer.Option(metavar="NAME", help="Only for this task.")] = None,
    language: Annotated[
        str | None, typer.Option(metavar="CODE", help="Only for this language.")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="LABEL", help="Only with this label; may be repeated."),
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
    manifests = [one.manifest for one in found]
    print_table(
        {
            "tenant": [one.tenant for one in manifests],
            "adapter": [one.adapter for one in manifests],
            "version": [one.version[:12] for one in manifests],
            "state": [one.state for one in found],
            "method": [one.method for one in manifests],
            "encoder": [one.encoder.name for one in manifests],
            "teachers": [str(len(one.teachers)) for one in manifests],
            "KiB": [str(one.payload_bytes // 1024) for one in manifests],
        },
        optional=("KiB", "encoder", "teachers", "method"),
    )


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
    lifecycle = {
        "state": published.state,
        "reason": published.state_reason,
        "withdrawn teacher": published.withdrawn_teacher,
    }
    if output is Format.json:
        shown = {
            "manifest": published.manifest.model_dump(mode="json"),
            **{field.replace(" ", "_"): value for field, value in lifecycle.items()},
            "lineage": relatives,
        }
        typer.echo(json.dumps(shown, indent=2))
        return
    facts = table("field", "value", show_header=False)
    lifecycle = {field: value for field, value in lifecycle.items() if value}
    told = {field: value for field, value in _facts(published.manifest).items() if value}
    for field, value in (told | lifecycle).items():
        facts.add_row(field, Text(value))
    for kind, members in relatives.items():
        lines = [f"{depth}  {relative}" for relative, depth in members.items()]
        facts.add_row(kind, Text("\n".join(lines) or "none"))
    Console().print(facts)


@app.command()
def fetch(
    name: Name,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder to write to; made if absent.")
    ],
    address: Address = None,
    address_file: AddressFile = None,
    credentials: CredentialsFolder = None,
    timeout_s: Timeout = 60.0,
    output: Output = Format.table,
) -> None:
    """Fetch and verify one version; write adapter.safetensors and manifest.json."""
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
    """Show a progress bar on stderr, if that is a terminal."""
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
        "software": "" if manifest.software is None else software_line(manifest.software),
    }


def _relatives(lineage: Lineage) -> Mapping[str, dict[str, int]]:
    """Map the names of teachers and students to their depths."""
    return {
        "teachers": {one.ref.name: one.depth for one in lineage.ancestors},
        "students": {one.ref.name: one.depth for one in lineage.descendants},
    }
