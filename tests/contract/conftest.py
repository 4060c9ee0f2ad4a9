"""A registry that asks for certificates, and clients that have some."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adapterdistill.registry.access import Caller
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.trust.authority import create
from tests.contract.running_registry import Running
from tests.enrolment import ACME, enrolled


@pytest.fixture(scope="module")
def private_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("registry")
    create(root, ["localhost", "127.0.0.1"])
    running = Running(root)
    yield running
    running.close()


@pytest.fixture
def connect(private_registry: Running, tmp_path: Path) -> Iterator[Callable[..., RegistryClient]]:
    """A client by a folder of credentials, made for the caller if there is none."""
    clients: list[RegistryClient] = []

    def one(caller: Caller = ACME, *, timeout_s: float = 10.0, **how: object) -> RegistryClient:
        folder = tmp_path / str(caller)
        if not folder.exists():
            enrolled(private_registry.root, folder, caller, new_keys=True, **how)  # type: ignore[arg-type]
        clients.append(
            RegistryClient(private_registry.address, timeout_s=timeout_s, credentials=folder)
        )
        return clients[-1]

    yield one
    for client in clients:
        client.close()
