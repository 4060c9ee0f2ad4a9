"""The drill of several encoders at its smallest, and the faults that it must find."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapterdistill.backbone import Encoder, load_encoder
from adapterdistill.drills.endpoint.encoders import (
    Moving,
    encoders_faults,
    encoders_sections,
    measure_encoders,
)
from adapterdistill.testbed.endpoint import SAMPLES
from adapterdistill.testbed.faq_banks import read_banks
from adapterdistill.testbed.tiny_encoder import make_tiny_encoder


@pytest.fixture
def moving(tmp_path: Path) -> Iterator[Moving]:
    pair: list[Encoder] = [
        load_encoder(str(make_tiny_encoder(tmp_path / f"tiny-{seed}", seed=seed)), dtype="float32")
        for seed in range(2)
    ]
    (tmp_path / "store").mkdir()
    yield (made := Moving.of(pair, read_banks(SAMPLES, 10), tmp_path / "store"))
    made.engine.close()


def test_no_answer_is_by_the_wrong_encoder_and_each_forged_one_is_noticed(moving: Moving) -> None:
    found = measure_encoders(moving, 600, random.Random(1))
    figures = {"tenants": 10, "encoders": found}
    assert list(encoders_faults(figures)) == []
    assert found["answers"].total() >= 600 and found["wrong"] == {}
    assert found["forged"]["noticed"] == found["forged"]["made"] == 200
    assert "answers tiny-" in "".join(encoders_sections(figures))


def test_an_engine_that_mixes_its_encoders_up_is_found(moving: Moving) -> None:
    """Control: the encoders are exchanged before the first question."""
    for tenant in moving.bundles:
        moving.engine.admit(tenant)
    first, second = moving.engine.banks.loaded
    first.encoder, second.encoder = second.encoder, first.encoder
    # Bundles in memory are proven, so that nothing but their answers shows the fault.
    found = measure_encoders(moving, 60, random.Random(1))
    assert found["wrong"]["is not what its adapter answers alone"] > 10
    assert any("is not what" in one for one in encoders_faults({"encoders": found}))


def test_a_run_in_which_nothing_happened_proves_nothing() -> None:
    found = {
        "answers": {"tiny-0": 5}, "wrong": {}, "steps": {}, "loads": 0, "evictions": 0,
        "control": {"right": {"made": 1, "noticed": 1}}, "forged": {"made": 0, "noticed": 0},
    }  # fmt: skip
    assert len(list(encoders_faults({"encoders": found}))) == 10
