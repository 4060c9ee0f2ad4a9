"""How commands find and name what is in a registry: shared options, and connecting by them."""

import re
from pathlib import Path
from typing import Annotated

import typer

from adapterdistill.errors import ConfigError, NotFoundError
from adapterdistill.files import read_file
from adapterdistill.manifest import VersionRef
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.wire import parse_alias_name

_SHORT_NAME = re.compile(r"tenants/([^/]+)/adapters/[^/]+/versions/[0-9a-f]{8,63}")

Address = Annotated[
    str | None,
    typer.Option("--address", envvar="ADAPTERDISTILL_REGISTRY", help="The registry's HOST:PORT."),
]
AddressFile = Annotated[
    Path | None, typer.Option("--address-file", help="A file that holds HOST:PORT.")
]
CredentialsFolder = Annotated[
    Path | None,
    typer.Option(
        "--credentials",
        envvar="ADAPTERDISTILL_CREDENTIALS",
        help="Folder of your keys and certificates; none: plain text.",
    ),
]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds a call may take.")]
Name = Annotated[
    str,
    typer.Argument(
        help="tenants/T/adapters/A/versions/SHA256 (8 digits of it will do),"
        " or tenants/T/adapters/A/aliases/X."
    ),
]


def connect(
    address: str | None, address_file: Path | None, timeout_s: float, credentials: Path | None
) -> RegistryClient:
    if address_file is not None:
        address = read_file(address_file).decode("utf-8", "replace").strip()
    if not address:
        raise ConfigError("which registry? Give --address HOST:PORT or --address-file FILE")
    return RegistryClient(address, timeout_s=timeout_s, credentials=credentials)


def resolve(client: RegistryClient, name: str) -> VersionRef:
    if "/aliases/" in name:
        return client.resolve_alias(*parse_alias_name(name))[0]
    short = _SHORT_NAME.fullmatch(name)
    if short is None:
        return VersionRef.parse(name)
    versions = client.list(tenant=short[1], latest_only=False)
    found = [one.ref for one in versions if one.ref.name.startswith(name)]
    if len(found) > 1:
        raise ConfigError(f"{len(found)} versions begin with {name}; give more of the digest")
    if not found:
        raise NotFoundError(f"no version {name}")
    return found[0]
