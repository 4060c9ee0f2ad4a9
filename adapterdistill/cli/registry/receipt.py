"""`adapterdistill registry receipt`: who published a version, from what, and the proof of it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from adapterdistill.cli.options import Format, Output
from adapterdistill.cli.registry.client import (
    Address,
    AddressFile,
    CredentialsFolder,
    Timeout,
    connect,
    resolve,
)
from adapterdistill.cli.registry.upkeep import PublicKeys, log_in
from adapterdistill.cli.tables import table
from adapterdistill.errors import (
    ConfigError,
    NotPermittedError,
    UnauthenticatedError,
    WithdrawnError,
)
from adapterdistill.files import read_bounded, read_file
from adapterdistill.manifest import Software, VersionRef
from adapterdistill.registry.answers import Evidence
from adapterdistill.registry.trust import pem
from adapterdistill.registry.trust.bundle import Bundle
from adapterdistill.registry.trust.credentials import read_credentials
from adapterdistill.registry.upkeep import receipt as receipts
from adapterdistill.registry.upkeep.audit_verify import Record, read_public_key

MAX_PAYLOAD_BYTES = 1 << 30


def register(app: typer.Typer) -> None:
    """Add the command to `adapterdistill registry`."""
    app.command()(receipt)


def receipt(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Version to ask the registry for; not with --file."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Verify this receipt, without a registry."),
    ] = None,
    address: Address = None,
    address_file: AddressFile = None,
    credentials: CredentialsFolder = None,
    trusted: Annotated[
        Path | None,
        typer.Option(
            "--authority",
            metavar="FILE",
            help="The registry's authorities (server/ca.pem), if not those of --credentials.",
        ),
    ] = None,
    payload: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The adapter's file; by default it is fetched."),
    ] = None,
    audit: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="The audit log, or a folder that holds it."),
    ] = None,
    public_key: PublicKeys = None,
    timeout_s: Timeout = 60.0,
    output: Output = Format.table,
) -> None:
    """Print who published a version, when, from which teachers, and with which software.

    All of it is verified by the trusted authorities, not by the registry's word: signature,
    certificate, payload, teachers, and, with --audit, the line of the audit log. --format json
    prints an in-toto statement with all evidence; --file verifies that again.
    """
    if (name is None) == (file is None):
        raise ConfigError("which receipt? Give either a version's NAME or --file")
    bundle = _bundle(credentials, trusted)
    keys = None if not public_key else [read_public_key(one) for one in public_key]
    checks: dict[str, str] = {}
    content = None if payload is None else read_bounded(payload, MAX_PAYLOAD_BYTES)
    line: Record | None = None
    if file is not None:
        made = receipts.read(read_file(file), bundle)
    else:
        evidence, fetched = _asked(
            str(name), address, address_file, credentials, timeout_s, fetches=content is None
        )
        made = receipts.make(evidence, bundle)
        content = fetched if isinstance(fetched, bytes) else content
        if isinstance(fetched, str):
            checks["payload"] = f"not verified: {fetched}"
    if audit is not None:
        line = receipts.audited(log_in(audit), made.manifest.ref.name, keys)
        receipts.check_audited(made, line)
        if made.predicate["audit"] is None and file is None:
            made = receipts.make(evidence, bundle, line)
    if content is not None:
        receipts.check_payload(made, content)
        checks["payload"] = f"its sha256 is {made.manifest.version}"
    if output is Format.json:
        typer.echo(made.envelope().decode())
        return
    checks.setdefault("payload", "not verified: give --payload")
    checks["audit log"] = (
        "not verified: give --audit"
        if line is None
        else f"line {line['number']}, {_time(line['time_ns'])}, by {line['caller']}"
    )
    _show(made, checks)


def software_line(software: Software) -> str:
    """Describe software in one line."""
    return (
        f"adapterdistill {software.version}, Python {software.python}, {software.distributions}"
        f" distributions, sha256 {software.distributions_sha256}"
    )


def _bundle(credentials: Path | None, trusted: Path | None) -> Bundle:
    if trusted is not None:
        try:
            return Bundle.of(pem.read_certificates(trusted))
        except UnauthenticatedError as error:
            raise ConfigError(f"{trusted}: {error}") from None
    if credentials is None:
        raise ConfigError("whom to trust? Give --credentials FOLDER or --authority FILE")
    return read_credentials(credentials).bundle


def _asked(
    name: str,
    address: str | None,
    address_file: Path | None,
    credentials: Path | None,
    timeout_s: float,
    *,
    fetches: bool,
) -> tuple[Evidence, bytes | str | None]:
    """Ask the registry for the evidence, and for the payload or the reason why there is none."""
    with connect(address, address_file, timeout_s, credentials) as client:
        ref: VersionRef = resolve(client, name)
        evidence = client.evidence(ref)
        if not fetches or evidence.signed is None:
            return evidence, None
        try:
            return evidence, client.fetch(ref)[1]
        except (NotPermittedError, WithdrawnError) as error:
            return evidence, str(error)


def _show(made: receipts.Receipt, checks: Mapping[str, str]) -> None:
    told, manifest = made.predicate, made.manifest
    publisher: dict[str, Any] = told["publisher"]
    metrics = told["privacy"]["metrics"].items()
    facts = {
        "name": manifest.ref.name,
        "signed by": f"{publisher['name']}, at {told['time']}",
        "certificate": f"{publisher['certificate']}, of authority {publisher['authority'][:16]}",
        "registry": told["registry"] or "not named: an earlier release signed it",
        "consent": ", ".join(told["consent"]) or "nobody",
        "method": f"{manifest.method}, encoder {manifest.encoder.name}",
        "teachers": "\n".join(told["teachers"]) or "none",
        "privacy": "\n".join(
            [
                manifest.privacy,
                *(f"{name} {one['value']:.4f} of {one['count']}" for name, one in metrics),
            ]
        ),
        "software": "not recorded"
        if manifest.software is None
        else software_line(manifest.software),
        **checks,
    }
    shown = table("field", "value", show_header=False)
    for field, value in facts.items():
        shown.add_row(field, Text(value))
    Console().print(shown)


def _time(time_ns: int) -> str:
    return f"{datetime.fromtimestamp(time_ns / 1e9, UTC):%F %T}"
