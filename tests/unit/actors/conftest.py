"""Tenants configured against real registries on loopback."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapterdistill.backbone import Encoder
from adapterdistill.config import OnboardConfig
from tests.contract.running_registry import Running
from tests.owner_runs import HELD, Configured, run_of, with_teachers, write_shop


@pytest.fixture
def registry(tmp_path: Path, tiny_encoder: Encoder) -> Iterator[Running]:
    """Two teachers are published in it."""
    running = with_teachers(tmp_path / "registry-with-teachers", tiny_encoder)
    yield running
    running.close()


@pytest.fixture
def empty_registry(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path / "registry")
    yield running
    running.close()


@pytest.fixture
def configured(tmp_path: Path, tiny_encoder_folder: Path, registry: Running) -> Configured:
    """Writes a tenant's data and gives the config of its run."""

    def make(
        tenant: str = "fletcher",
        *,
        home: Path = tmp_path,
        address: str = registry.address,
        run: dict[str, Any] | None = None,
        **data: Any,
    ) -> OnboardConfig:
        write_shop(home / "data" / tenant, **({"splits": HELD} | data))
        return run_of(home, tenant, encoder=tiny_encoder_folder, registry=address, **(run or {}))

    return make
