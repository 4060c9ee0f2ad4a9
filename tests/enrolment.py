"""Credentials folders as owners, operators and auditors get them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from adapterdistill.errors import UnauthenticatedError
from adapterdistill.registry.access import Caller
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.trust import pem
from adapterdistill.registry.trust.authority import LIFETIME, opened
from adapterdistill.registry.trust.credentials import Credentials, read_credentials

ACME = Caller("owner", "acme")
BOLT = Caller("owner", "bolt")


def enrolled(
    root: Path,
    folder: Path,
    caller: Caller = ACME,
    *,
    new_keys: bool = False,
    lifetime: timedelta = LIFETIME,
) -> Credentials:
    """What is in `folder` after its keys were made, if there were none, and were enrolled."""
    request = pem.request_credentials(folder, caller)
    with opened(root) as authority:
        given = authority.enrol(caller, request, new_keys=new_keys, lifetime=lifetime)
    pem.write(folder / pem.CERTIFICATES, given)
    return read_credentials(folder)


@contextmanager
def refused_at_once(match: str) -> Iterator[None]:
    """Within seconds, of a client that has ten."""
    started = time.monotonic()
    with pytest.raises(UnauthenticatedError, match=match):
        yield
    assert time.monotonic() - started < 8


def listed(client: RegistryClient) -> list[str]:
    return [manifest.tenant for manifest in client.list()]
