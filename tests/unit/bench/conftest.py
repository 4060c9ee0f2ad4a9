"""A run of the smallest benchmark over the sample tenants, with a tiny random encoder."""

from pathlib import Path

import pytest

from adapterdistill.backbone import Encoder
from adapterdistill.bench.cache import ResultCache
from adapterdistill.bench.tenants import BenchTenant
from adapterdistill.bench.transfer.cells import Workbench
from adapterdistill.bench.transfer.sizes import Size
from adapterdistill.bench.transfer.study import TransferRun, read_tenants, run_transfer
from adapterdistill.bench.transfer.workers import run_here

SAMPLES = Path(__file__).parents[3] / "adapterdistill" / "samples"

TINY = Size(
    "tiny",
    tenants=3,
    seeds=1,
    ks=(0, 2),
    teacher_counts=(1, 2),
    reference_ks=(2,),
    control_ks=(2,),
    unrelated_ks=(),
    tuning_tenants=2,
    tuning_ks=(0, 2),
    tuning_rates=1,
    tuning_steps=2,
    max_test=12,
    max_valid=6,
)


@pytest.fixture(autouse=True)
def _short_teachers(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)


def shorten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps for every training whose length is fixed."""
    from adapterdistill.bench.transfer import cells
    from adapterdistill.bench.transfer.methods import Setting

    monkeypatch.setattr(cells, "TEACHER_SETTING", Setting(1e-3, 2))
    monkeypatch.setattr(cells, "POOL_STEPS_PER_TENANT", 1)


@pytest.fixture(scope="session")
def tenants(
    tiny_encoder: Encoder, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, BenchTenant]:
    return read_tenants(SAMPLES, tmp_path_factory.mktemp("tenants"), tiny_encoder, TINY)


@pytest.fixture(scope="session")
def bench(
    tiny_encoder: Encoder,
    tenants: dict[str, BenchTenant],
    tmp_path_factory: pytest.TempPathFactory,
) -> Workbench:
    return Workbench(tiny_encoder, tenants, ResultCache(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def finished(bench: Workbench) -> TransferRun:
    with pytest.MonkeyPatch.context() as monkeypatch:
        shorten(monkeypatch)
        return run_transfer(bench, run_here(bench), TINY, processes=1)
