from pathlib import Path

import pytest
import torch

from adapterdistill.backbone import Encoder
from adapterdistill.bench.peer import PeerUnavailableError, set_up
from adapterdistill.bench.steps import (
    ATTENTION,
    FUSION,
    OWN,
    PLAIN,
    STAGE_2,
    STUDENT,
    strong_adapters,
)
from adapterdistill.bench.training import measure_training
from adapterdistill.bench.training_report import batch_rows, markdown
from adapterdistill.checkpoint import state_digest
from adapterdistill.distill.batches import TrainingRows
from tests.unit.bench.conftest import SAMPLES

KINDS = {OWN, FUSION, STUDENT, ATTENTION, STAGE_2, PLAIN}


@pytest.fixture(scope="module")
def rows(tiny_encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> TrainingRows:
    return batch_rows(SAMPLES, tmp_path_factory.mktemp("tenants"), tiny_encoder)


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
    text = markdown({**found, "environment": facts})
    assert all(kind in text for kind in KINDS) and "skipped" in text


def test_the_batch_has_positives_from_every_tenant(rows: TrainingRows) -> None:
    assert len(rows.ids) == 32
    counts = torch.unique(rows.labels, return_counts=True)[1]
    assert (counts > 1).sum() >= 6


def test_teachers_for_timing_differ_from_each_other(tiny_encoder: Encoder) -> None:
    first, second = strong_adapters(tiny_encoder, 2, 4)
    assert state_digest(first) != state_digest(second)


def test_a_peer_that_cannot_be_installed_is_skipped_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_the_way = tmp_path / "env"
    in_the_way.write_text("not a folder")
    with pytest.raises(PeerUnavailableError, match="could not be installed"):
        set_up(in_the_way)
