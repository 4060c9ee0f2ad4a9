"""A simulated year of labels on the sample tenants, with a tiny random encoder and few steps."""

from pathlib import Path
from typing import Any

import pytest
import torch

from adapterdistill.bench.arrivals import arriving
from adapterdistill.bench.arrivals.arriving import Arriving
from adapterdistill.bench.feedback.command import Loop, feedback_command
from adapterdistill.bench.feedback.year import Year, asked
from adapterdistill.bench.tenants import BenchTenant, TextRows
from adapterdistill.bench.transfer.methods import Setting
from adapterdistill.testbed.encoder_options import EncoderOptions
from tests.unit.bench.conftest import SAMPLES

TENANT = "ashgrove-housing"
SHORT = {"extract_steps": 2, "distil_steps": 2, "bottleneck_size": 24}
LOOP = Loop(k=1, months=1, questions=6, labels=2)


@pytest.fixture
def run(
    tmp_path: Path, tiny_encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    monkeypatch.setattr(arriving, "TEACHER", Setting(1e-3, 2))
    return feedback_command(
        data=SAMPLES,
        out=tmp_path / "out",
        cache=tmp_path / "cache",
        size="quick",
        tenants=(TENANT,),
        seeds=1,
        loop=LOOP,
        encoder=EncoderOptions(str(tiny_encoder_folder), "float32"),
        processes=1,
        training=SHORT,
    ).figures


def test_a_year_counts_labels_month_by_month_and_compares_choosing_with_chance(
    run: dict[str, Any],
) -> None:
    assert [month["month"] for month in run["months"]] == [0, 1]
    first, *later = run["months"]
    assert first["chosen"] == first["random"]
    assert first["over_random"]["mean"] == first["over_start"]["mean"] == 0
    for number, month in enumerate(later, 1):
        assert month["random"]["labels"] == 2 * number
        assert 0 < month["chosen"]["labels"] <= 2 * number
        gain = month["chosen"]["top1"] - month["random"]["top1"]
        assert month["over_random"]["mean"] == pytest.approx(gain)


def rows(*texts: str, label: int = 0) -> TextRows:
    return TextRows(texts, ((1,),) * len(texts), torch.full((len(texts),), label))


def test_what_is_asked_in_the_year_is_neither_known_at_its_start_nor_tested() -> None:
    train = rows(*(f"train {number}" for number in range(40)))
    outside = rows(*(f"outside {number}" for number in range(9)), label=-1)
    tenant = BenchTenant("t", "0", rows("question"), train, rows(), rows("test"), outside)
    year = Year(Arriving("t", 3, 0, 0, ()), chosen=True, months=4, questions=5, labels=1)
    months, tested = asked(tenant, year)
    log = [text for month in months for text in month.texts]
    assert [len(month) for month in months] == [5, 5, 5, 5]
    assert len(set(log)) == 20 and "test" not in log
    assert not set(log) & set(tenant.first(3, seed=0).texts)
    assert sum(text.startswith("outside") for text in log) == 4
    assert not set(log) & set(tested.out_of_scope.texts) and len(tested.out_of_scope) == 5
