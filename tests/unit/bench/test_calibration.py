"""The study of calibration on the samples, with a tiny random encoder, and its formulas."""

import json
from pathlib import Path

import pytest
import torch

from adapterdistill.backbone import Encoder
from adapterdistill.bench.calibration import report
from adapterdistill.bench.calibration.report import brier, expected_calibration_error, summary
from adapterdistill.bench.calibration.study import (
    CALIBRATED,
    CONSTANT,
    COSINE,
    Arrival,
    Case,
    Size,
    arrive,
    measure_calibration,
)
from adapterdistill.bench.tenants import open_dataset
from adapterdistill.errors import DataError
from adapterdistill.testbed.encoder_options import EncoderOptions
from tests.unit.bench.conftest import SAMPLES

TINY = Size(2, (Arrival(2, 0),), seeds=1, steps=1, max_test=12, known_out_of_scope=2)


@pytest.fixture(scope="module")
def cases(tiny_encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    return measure_calibration(tiny_encoder, SAMPLES, tmp_path_factory.mktemp("study"), TINY)


def test_every_tenant_is_calibrated_and_judged_on_its_test_rows(cases: list[Case]) -> None:
    without = [case for case in cases if not case.knows_out_of_scope]
    assert len({case.tenant for case in cases}) == len(without) == 2
    for case in cases:
        held = case.calibration
        for values in case.confidence.values():
            assert len(values) == len(case.right)
            assert bool(((values >= 0) & (values <= 1)).all())
        cosine = case.confidence[COSINE]
        assert case.answered.tolist() == [c >= case.threshold for c in cosine.tolist()]
        assert case.confidence[CONSTANT].unique().numel() == 1
        expected = [held.confidence(score) for score in cosine.tolist()]
        assert case.confidence[CALIBRATED].tolist() == pytest.approx(expected)
        assert case.own.queries == len(case.right)


def test_what_a_tenant_arrives_with_shares_no_row_with_what_it_is_judged_on(
    tmp_path: Path,
) -> None:
    name = sorted(path.name for path in SAMPLES.iterdir() if path.is_dir())[0]
    source = open_dataset(SAMPLES / name, tmp_path / "whole")
    found = arrive(source, name, tmp_path, Arrival(2, 0), TINY, seed=0)
    by_id = {query.query_id: query for query in source.queries()}
    arrived = list(found.queries())
    assert len({query.query_id for query in arrived}) == len(arrived)
    per_faq = [q.faq_id for q in arrived if q.split == "train"]
    assert max(map(per_faq.count, per_faq)) == 2
    known = [q for q in arrived if q.split == "valid"]
    assert 0 < len(known) <= 2 and all(query.out_of_scope for query in known)
    assert all(by_id[query.query_id].split == "test" for query in known)
    assert sum(q.split == "test" and not q.out_of_scope for q in arrived) <= 12
    again = arrive(source, name, tmp_path, Arrival(2, 0), TINY, seed=0)
    assert again.digest() == found.digest()


def test_the_scores_of_confidence_are_their_formulas() -> None:
    confidence = torch.tensor([0.05, 0.02, 0.95, 1.0, 0.55])
    right = torch.tensor([False, True, True, True, False])
    squares = [0.05**2, 0.98**2, 0.05**2, 0.0, 0.55**2]
    assert brier(confidence, right) == pytest.approx(sum(squares) / 5)
    gaps = [abs(0.05 + 0.02 - 1), abs(0.95 + 1.0 - 2), 0.55]
    assert expected_calibration_error(confidence, right) == pytest.approx(sum(gaps) / 5)


def test_a_summary_counts_who_lies_under_the_bound(cases: list[Case]) -> None:
    found = summary([case for case in cases if not case.knows_out_of_scope])
    assert found["cases"] == found["judged"] == 2 and 0 <= found["under_bound"] <= 2
    assert 0 <= found["expected_error"] <= found["error_bound"] <= 1


def test_the_command_writes_what_it_returns(
    tiny_encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(report.SIZES, "tiny", TINY)
    encoder = EncoderOptions(str(tiny_encoder_folder), "float32", max_tokens=32)
    found, _ = report.calibration_command(data=SAMPLES, out=tmp_path, size="tiny", encoder=encoder)
    kept = json.loads((tmp_path / "report.json").read_text())
    assert [case["tenant"] for case in kept["cases"]] == [c["tenant"] for c in found["cases"]]
    assert "2 queries an FAQ" in (tmp_path / "report.md").read_text()


def test_a_folder_without_tenants_is_refused(tiny_encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected 2 or more tenants, found 0"):
        measure_calibration(tiny_encoder, tmp_path, tmp_path, TINY)
