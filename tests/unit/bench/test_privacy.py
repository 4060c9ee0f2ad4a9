"""`bench privacy`: every way is measured, and a public order is confirmed exactly."""

import json
from pathlib import Path

import pytest

from adapterdistill.bench.privacy import study
from adapterdistill.bench.privacy.command import privacy_command
from adapterdistill.bench.privacy.study import EPSILONS, Rows, Size
from adapterdistill.bench.tenants import BenchTenant
from adapterdistill.errors import ConfigError
from adapterdistill.testbed.encoder_options import EncoderOptions
from tests.tiny_encoders import random_adapter
from tests.unit.bench.conftest import SAMPLES

TINY = Size(queries=2, own_steps=2, mixing_steps=1, decoys=2, draws=1)


@pytest.fixture(autouse=True)
def _random_teachers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        study,
        "teachers_of",
        lambda bench, tenant: [random_adapter(bench.encoder, seed=n, scale=0.2) for n in range(2)],
    )


def test_rows_that_train_are_apart_from_those_that_do_not(tenants: dict[str, BenchTenant]) -> None:
    tenant = next(iter(tenants.values()))
    rows = Rows.of(tenant, 2, seed=0)
    ids = [tuple(one) for one in rows.all.ids]
    assert rows.questions == tenant.num_faqs and rows.trained == 3 * tenant.num_faqs
    assert not set(ids[: rows.trained]) & set(ids[rows.trained :])
    assert len(ids) == 5 * tenant.num_faqs


def test_every_way_is_in_the_report(
    tiny_encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(study.SIZES, "quick", TINY)
    report = privacy_command(
        data=SAMPLES,
        out=tmp_path,
        cache=tmp_path / "cache",
        size="quick",
        tenants=("larkhill-vets",),
        seeds=1,
        encoder=EncoderOptions(str(tiny_encoder_folder), "float32", "cpu"),
    )
    for epsilon in EPSILONS:
        assert f"| mixed, epsilon {epsilon:g} |" in report.text
    assert "| public | 1 of 1 | 1 of 1 |" in report.text
    assert "| 0 of 1 |" in report.text.splitlines()[-1]  # a secret order repeats no weights
    figures = json.loads((tmp_path / "report.json").read_bytes())
    bare = next(one for one in figures["made"] if one["way"] == "bare encoder")
    assert 0 <= bare["top1"] <= 1 and bare["membership"]["low"] <= 0.5


def test_a_tenant_that_is_not_there_is_named(tiny_encoder_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--tenants names nobody"):
        privacy_command(
            data=SAMPLES,
            out=tmp_path,
            cache=tmp_path / "cache",
            size="quick",
            tenants=("nobody",),
            seeds=1,
            encoder=EncoderOptions(str(tiny_encoder_folder), "float32", "cpu"),
        )
