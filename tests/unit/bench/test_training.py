from pathlib import Path

import pytest
import torch

from adapterdistill.backbone import Encoder
from adapterdistill.bench.tenants import BenchTenant, open_dataset, read_tenant, tenant_names
from adapterdistill.bench.training import stages
from adapterdistill.bench.training.measure import measure_training
from adapterdistill.bench.training.peer import ADAPTERS, PeerUnavailableError, set_up
from adapterdistill.bench.training.report import _small_tenant, batch_rows, markdown
from adapterdistill.bench.training.steps import (
    ATTENTION,
    FUSION,
    OWN,
    PLAIN,
    STAGE_2,
    STUDENT,
)
from adapterdistill.checkpoint import state_digest
from adapterdistill.distill.batches import TrainingRows
from adapterdistill.sections import TrainingConfig
from adapterdistill.testbed.random_adapters import random_adapters
from tests.unit.bench.conftest import SAMPLES

KINDS = {OWN, FUSION, STUDENT, ATTENTION, STAGE_2, PLAIN}


@pytest.fixture(scope="module")
def tenants(tiny_encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> list[BenchTenant]:
    workspace = tmp_path_factory.mktemp("tenants")
    return [
        read_tenant(open_dataset(SAMPLES / n, workspace), n, tiny_encoder, max_test=1, max_valid=1)
        for n in tenant_names(SAMPLES)
    ]


@pytest.fixture(scope="module")
def rows(tenants: list[BenchTenant]) -> TrainingRows:
    return batch_rows(tenants)


def test_every_step_is_timed_in_every_round_and_reported(
    tiny_encoder: Encoder, rows: TrainingRows
) -> None:
    found = measure_training(
        tiny_encoder, tiny_encoder, rows, counts=(1, 3), rounds=7, peer_env=None
    )
    timed = {(t["kind"], t["teachers"]) for t in found["timings"]}
    assert timed == {(OWN, 0), *((kind, n) for kind in KINDS - {OWN} for n in (1, 3))}
    assert found["equal_to_plain_formula"]["outputs"] < 1e-5
    facts = {
        "dtype": "float32", "device": "cpu", "threads_in_this_process": 1,
        "load_1_5_15_min": [0.0, 0.0, 0.0],
    }  # fmt: skip
    small = {"faqs": 1, "queries": 2, "teachers": 3, "dtype": "float32", "stages": []}
    text = markdown({**found, "environment": facts, "small_tenant": small})
    assert all(kind in text for kind in KINDS) and "skipped" in text


def test_the_batch_has_positives_from_every_tenant(rows: TrainingRows) -> None:
    assert len(rows.ids) == 32
    counts = torch.unique(rows.labels, return_counts=True)[1]
    assert (counts > 1).sum() >= 6


def test_teachers_for_timing_differ_from_each_other(tiny_encoder: Encoder) -> None:
    first, second = random_adapters(tiny_encoder, 2, bottleneck_size=4)
    assert state_digest(first) != state_digest(second)


def test_a_peer_that_cannot_be_installed_is_skipped_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_the_way = tmp_path / "env"
    in_the_way.write_text("not a folder")
    with pytest.raises(PeerUnavailableError, match="could not be installed"):
        set_up(in_the_way, ADAPTERS)


def test_both_stages_of_a_small_tenant_are_timed_and_profiled(
    tiny_encoder: Encoder,
    tenants: list[BenchTenant],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short = TrainingConfig(extract_steps=2, distil_steps=3, bottleneck_size=4)
    monkeypatch.setattr(stages, "TrainingConfig", lambda: short)
    for name, few in (("FAQS", 5), ("TEACHERS", 2), ("_PROFILED_STEPS", 1)):
        monkeypatch.setattr(stages, name, few)
    rows = stages.small_rows(tenants)
    found = stages.measure_stages(tiny_encoder, rows, tmp_path)
    assert found["faqs"] == int(rows.labels.max()) + 1 <= stages.FAQS
    assert found["queries"] == len(rows) - found["faqs"] > found["faqs"]
    assert [(s["stage"], s["steps"]) for s in found["stages"]] == [
        ("own adapter", 2),
        ("distillation", 3),
    ]
    for stage in found["stages"]:
        assert stage["seconds"] >= 0
        assert sum(stage["shares"].values()) == pytest.approx(1, abs=0.01)
        assert stage["shares"]["matrix products"] > 0
    assert "where the time goes" in _small_tenant(found)
