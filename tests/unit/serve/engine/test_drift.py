"""Drift counters: the index against its formula, and the rate of alarms by chance."""

import math
import random
import statistics
import threading

import pytest
import torch

from adapterdistill.confidence import Calibration
from adapterdistill.evaluation.calibration import reference_bins
from adapterdistill.serve.engine.drift import (
    RECENT,
    Drift,
    DriftOfTenants,
    chance,
    kept_drifts,
    stability_index,
)


def calibration(scores: list[float]) -> Calibration:
    edges, counts = reference_bins(torch.tensor(scores, dtype=torch.float64))
    return Calibration(
        slope=1.0,
        intercept=0.0,
        rows=len(scores),
        answered=len(scores),
        wrong=0,
        error_bound=0.1,
        edges=edges,
        counts=counts,
    )


def drawn(draw: random.Random, count: int, mean: float = 0.7) -> list[float]:
    return [draw.gauss(mean, 0.1) for _ in range(count)]


def counted(reference: list[float], live: list[float]) -> Drift:
    drift = Drift(calibration(reference))
    drift.count((score, False) for score in live)
    return drift


def test_the_index_is_its_formula() -> None:
    expected = 0.0
    for before, now in ((10.5 / 21, 5.5 / 41), (10.5 / 21, 35.5 / 41)):
        expected += (now - before) * math.log(now / before)
    assert stability_index((10, 10), (5, 35)) == pytest.approx(expected)
    assert stability_index((10, 10), (20, 20)) == pytest.approx(0)


def test_scores_are_counted_in_the_bins_of_the_reference() -> None:
    drift = Drift(calibration([n / 20 for n in range(20)]))  # 4 bins of 5
    drift.count([(0.0, True), (0.99, False), (0.98, False), *[(0.3, False)] * 20])
    shift = drift.read()
    assert (shift.queries, shift.abstained) == (23, 1)
    assert shift.psi == pytest.approx(stability_index((5,) * 4, (1, 20, 0, 2)))
    assert shift.expected_psi == pytest.approx(3 * (1 / 20 + 1 / 23))


@pytest.mark.parametrize("rows", [22, 100, 300])
@pytest.mark.parametrize("live", [50, 400])
def test_unchanged_queries_have_the_expected_index_and_hardly_ever_an_alarm(
    rows: int, live: int
) -> None:
    draw = random.Random(rows * live)
    shifts = [counted(drawn(draw, rows), drawn(draw, live)).read() for _ in range(200)]
    indexes = [shift.psi for shift in shifts if shift.psi is not None]
    assert len(indexes) == 200
    expected = shifts[0].expected_psi
    assert expected is not None
    assert statistics.mean(indexes) == pytest.approx(expected, rel=0.3)
    assert sum(shift.drifted for shift in shifts) <= 2


@pytest.mark.parametrize("rows", [22, 100, 300])
def test_queries_that_score_a_deviation_lower_are_told_after_some_hundred(rows: int) -> None:
    draw = random.Random(rows)
    shifts = [counted(drawn(draw, rows), drawn(draw, 300, 0.6)).read() for _ in range(100)]
    assert sum(shift.drifted for shift in shifts) >= (90 if rows >= 100 else 30)


def test_nothing_is_said_of_few_queries_or_without_a_reference() -> None:
    few = counted([n / 100 for n in range(100)], [0.0] * 49).read()
    assert (few.queries, few.psi, few.expected_psi, few.drifted) == (49, None, None, False)
    for without in (Drift(None), Drift(calibration([0.5] * 30))):
        without.count([(0.1, True)] * 60 + [(0.9, False)] * 40)
        shift = without.read()
        assert (shift.queries, shift.abstained, shift.psi) == (100, 60, None)
    assert Drift(None).read().queries == 0


def test_old_queries_are_forgotten() -> None:
    draw = random.Random(0)
    reference = drawn(draw, 200)
    drift = counted(reference, drawn(draw, 5 * RECENT))
    assert not drift.read().drifted
    for score in drawn(draw, RECENT, 0.4):
        drift.count([(score, True)])
    assert drift.read().drifted
    for score in drawn(draw, 6 * RECENT):
        drift.count([(score, False)])
    shift = drift.read()
    assert not shift.drifted and RECENT <= shift.queries < 2 * RECENT
    assert shift.abstained < 0.05 * shift.queries


def test_threads_that_count_at_once_lose_nothing() -> None:
    drift = Drift(calibration([n / 100 for n in range(100)]))

    def count() -> None:
        for _ in range(RECENT // 5):
            drift.count([(0.5, True)])

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (drift.read().queries, drift.read().abstained) == (4 * RECENT // 5,) * 2


def test_the_chance_quantile_is_chi_squareds() -> None:
    # 99.9% quantiles of chi-squared by its tables: 1, 3 and 9 degrees of freedom.
    for degrees, quantile in ((1, 10.828), (3, 16.266), (9, 27.877)):
        found = chance((2,) * (degrees + 1), 10.0, deviate=3.09)
        scale = 1 / (2 * (degrees + 1)) + 1 / 10
        assert found / scale == pytest.approx(quantile, rel=0.04)


def test_a_bundle_that_comes_back_finds_its_counts_and_another_bundle_does_not() -> None:
    drift_of = kept_drifts()
    known = calibration([n / 100 for n in range(100)])
    drift_of("a", known).count([(0.5, False)])
    same = Calibration.model_validate_json(known.canonical_json())
    assert drift_of("a", same).read().queries == 1
    assert drift_of("b", known).read().queries == 0


def test_only_named_tenants_that_are_in_memory_have_a_series() -> None:
    busy = counted([n / 100 for n in range(100)], [0.5] * 100)
    young = Drift(None)
    young.count([(0.5, True)])
    in_memory = {"busy": busy, "young": young, "silent": Drift(None), "unnamed": busy}
    collector = DriftOfTenants(lambda: ["busy", "young", "silent", "paged-out"], in_memory.get)
    found = {
        (sample.name.removeprefix("adapterdistill_tenant_"), sample.labels["tenant"]): sample.value
        for family in collector.collect()
        for sample in family.samples
    }
    assert found == {
        ("abstained_ratio", "busy"): 0,
        ("abstained_ratio", "young"): 1,
        ("drift_psi", "busy"): busy.read().psi,
        ("drift_expected_psi", "busy"): pytest.approx(9 * (1 / 100 + 1 / 100)),
        ("drifted", "busy"): 1,
    }
