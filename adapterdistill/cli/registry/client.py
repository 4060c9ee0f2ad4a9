"""Shared options of the registry's commands, and how these connect and resolve names."""

import re
from pathlib import Path
from typing import Annotated

import typer

from adapterdistill.errors import ConfigError, NotFoundError
from adapterdistill.files import read_file
from adapterdistill.manifest import VersionRef
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.wire import parse_alias_name

_START_TIMEOUT_S = 1.0
_SHORT_NAME = re.compile(r"tenants/([^/]+)/adapters/[^/]+/versions/[0-9a-f]{8,63}")

Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        envvar="ADAPTERDISTILL_REGISTRY",
        metavar="HOST:PORT",
        help="The registry's address.",
    ),
]
AddressFile = Annotated[
    Path | None, typer.Option("--address-file", metavar="FILE", help="A file that holds HOST:PORT.")
]
CredentialsFolder = Annotated[
    Path | None,
    typer.Option(
        "--credentials",
        envvar="ADAPTERDISTILL_CREDENTIALS",
        metavar="FOLDER",
        help="Folder of your keys and certificates; without it, plain text.",
    ),
]
Timeout = Annotated[
    float, typer.Option("--timeout", min=0.1, metavar="SECONDS", help="Time limit of a call.")
]
Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="tenants/T/adapters/A/versions/SHA256 (its first 8 digits are enough),"
        " or tenants/T/adapters/A/aliases/X.",
    ),
]


def connect(
    address: str | None, address_file: Path | None, timeout_s: float, credentials: Path | None
) -> RegistryClient:
    """Connect by the options; raises ConfigError if they name no registry."""
    if address_file is not None:
        address = read_file(address_file).decode("utf-8", "replace").strip()
    if not address:
        raise ConfigError("which registry? Give --address HOST:PORT or --address-file FILE")
    address = address.removeprefix("http://").rstrip("/")
    return RegistryClient(
        address, timeout_s=timeout_s, credentials=credentials, start_timeout_s=_START_TIMEOUT_S
    )


def resolve(client: RegistryClient, name: str) -> VersionRef:
    """Find the version that a name, a shortened name or an alias means.

    Raises:
        ConfigError: more than one version begins with the name.
        NotFoundError: there is none.
    """
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
