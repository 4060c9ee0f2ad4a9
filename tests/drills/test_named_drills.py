"""Drills on a registry that somebody runs, over mutual TLS, by the file that names it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from adapterdistill.drills.catalogue import DRILLS, ON_NAMED
from adapterdistill.drills.drill import Outcome, run_drill
from adapterdistill.drills.named import load_named, on_named
from adapterdistill.drills.registry import calls
from adapterdistill.registry.client import client as registry_client
from adapterdistill.registry.trust.authority import create
from tests.contract.running_registry import Running
from tests.enrolment import ACME, enrolled
from tests.unit.registry.samples import large_sample

DRILLED = ("drop-rpc", "slow-rpc")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Its certificate is not for the address of a proxy."""
    root = tmp_path_factory.mktemp("registry")
    create(root, ["localhost"])
    running = Running(root, host="127.0.0.1")
    running.address = running.address.replace("127.0.0.1", "localhost")
    yield running
    running.close()


@pytest.fixture
def file(registry: Running, tmp_path: Path) -> Path:
    enrolled(registry.root, tmp_path / "acme", ACME, new_keys=True)
    file = tmp_path / "day.toml"
    named = f'[registry]\naddress = "{registry.address}"\ncredentials = "{tmp_path / "acme"}"\n'
    file.write_text(named, "utf-8")
    return file


def drilled(name: str, file: Path) -> Outcome:
    return run_drill(on_named(DRILLS[name], ON_NAMED, load_named(file), file), seed=1)


def test_a_registry_that_has_nothing_to_fetch_shows_nothing(file: Path) -> None:
    assert "NOT_FOUND: the registry has no adapter" in drilled("drop-rpc", file).findings[0]


@pytest.fixture
def published(registry: Running, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_STANDSTILL_S", 1.0)
    credentials = file.parent / "acme"
    with registry_client.RegistryClient(registry.address, credentials=credentials) as client:
        client.publish(*large_sample(1))


@pytest.mark.parametrize("name", DRILLED)
@pytest.mark.usefixtures("published")
def test_it_passes_and_the_registry_is_as_it_was(name: str, file: Path, registry: Running) -> None:
    files = registry.files()
    found = drilled(name, file)
    assert found.findings == ()
    assert found.recovery_s is not None and found.recovery_s > 0
    assert registry.files() == files


@pytest.mark.usefixtures("published")
def test_a_client_that_gives_up_is_found_out(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def once(call: Callable[[float], Any], *, timeout_s: float, explain: Any) -> Any:
        try:
            return call(timeout_s)
        except grpc.RpcError as error:
            raise explain(error) from None

    monkeypatch.setattr(registry_client, "retried", once)
    assert "REGISTRY_UNAVAILABLE" in drilled("drop-rpc", file).findings[0]
