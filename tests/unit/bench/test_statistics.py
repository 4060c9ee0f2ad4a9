import math
from typing import Any

import pytest
import torch

from adapterdistill.bench.transfer.cells import Cell
from adapterdistill.bench.transfer.choices import choose, choose_scoring
from adapterdistill.bench.transfer.sizes import Planned
from adapterdistill.bench.transfer.statistics import (
    Scored,
    curve_area,
    gain,
    metrics,
    out_of_scope,
    reaches_at,
    with_verdict,
)


def _scored(
    tenant: str, ranks: list[int], *, seed: int = 0, valid: list[int] | None = None, **extra: Any
) -> Scored:
    scores = {"best": {"test": ranks, "valid": valid or [], **extra}}
    planned = Planned(Cell("own", tenant, 3, seed), 0)
    return Scored(planned, "best", {"scores": scores})


def test_metrics_weigh_tenants_alike_however_many_queries_and_seeds_they_have() -> None:
    cells = [
        _scored("a", [1, 1, 2, 4]),
        _scored("b", [1, 6]),
        _scored("b", [6, 6], seed=1),
    ]
    found = metrics(cells)
    # a: top-1 1/2; b: (1/2 + 0) / 2.
    assert found["top1"] == pytest.approx((0.5 + 0.25) / 2)
    assert found["mrr"] == pytest.approx(((1 + 1 + 1 / 2 + 1 / 4) / 4 + (7 / 12 + 1 / 6) / 2) / 2)
    assert found["recall_at_5"] == pytest.approx((1 + 0.25) / 2)


def test_gain_equals_brute_force_over_the_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, own = [], []
    expected: dict[str, list[float]] = {}
    for tenant in "abc":
        for seed in (0, 1):
            mine = torch.randint(1, 4, (30,), generator=generator).tolist()
            theirs = torch.randint(1, 4, (30,), generator=generator).tolist()
            ours.append(_scored(tenant, mine, seed=seed))
            own.append(_scored(tenant, theirs, seed=seed))
            hits = sum((m == 1) - (t == 1) for m, t in zip(mine, theirs, strict=True))
            expected.setdefault(tenant, []).append(hits / 30)
    found = gain(ours, list(reversed(own)))
    assert found is not None
    means = {tenant: sum(values) / 2 for tenant, values in expected.items()}
    assert found.by_tenant == pytest.approx(means)
    assert found.interval.mean == pytest.approx(sum(means.values()) / 3)
    assert found.interval.low < found.interval.mean < found.interval.high
    assert found.wins == sum(m > 0 for m in means.values())
    assert found.wins + found.ties + found.losses == 3


def test_gain_leaves_out_what_has_no_pair() -> None:
    found = gain([_scored("a", [1]), _scored("b", [2])], [_scored("a", [2])])
    assert found is not None and found.by_tenant == {"a": 1.0}
    assert gain([_scored("a", [1])], [_scored("b", [1])]) is None


def test_the_verdict_takes_what_ranks_held_out_rows_better() -> None:
    ours = [_scored("a", [1], valid=[1]), _scored("b", [1], valid=[2]), _scored("c", [1])]
    own = [_scored("a", [2], valid=[2]), _scored("b", [2], valid=[1]), _scored("c", [2])]
    assert with_verdict(ours, own) == [ours[0], own[1], ours[2]]


def test_out_of_scope_figures_equal_counting() -> None:
    cell = _scored(
        "a", [1, 1, 1, 1], best=[0.9, 0.8, 0.7, 0.4],
        best_out_of_scope=[0.5, 0.3], threshold=0.6,
    )  # fmt: skip
    found = out_of_scope([cell, _scored("b", [1])])
    assert found == pytest.approx({"auroc": 7 / 8, "recall": 1.0, "false_rejection": 0.25})
    assert out_of_scope([_scored("b", [1])]) is None


def test_area_and_reach_equal_hand_computation() -> None:
    points = {1: 0.5, 3: 0.7, 5: 0.8}
    assert curve_area(points) == pytest.approx((2 * 0.6 + 2 * 0.75) / 4)
    assert curve_area({1: 0.5}) is None
    assert reaches_at(points, 0.6) == pytest.approx(2)
    assert reaches_at(points, 0.4) == 1
    assert reaches_at(points, 0.9) is None


def _top1(best: float, centroid: float = 0.0) -> dict[str, float]:
    return {"question": 0.0, "best": best, "centroid": centroid}


def test_a_choice_is_the_best_mean_of_the_other_tenants() -> None:
    watched = {
        ("a", 1e-3): [_top1(0.9), _top1(0.9)],
        ("b", 1e-3): [_top1(0.1), _top1(0.3)],
        ("c", 1e-3): [_top1(0.1), _top1(0.2)],
        ("a", 2e-3): [_top1(0.9), _top1(0.0)],
        ("b", 2e-3): [_top1(0.1), _top1(0.2, 0.4)],
        ("c", 2e-3): [_top1(0.1), _top1(0.2, 0.4)],
    }
    found = choose(watched, but="a")
    assert (found.setting.learning_rate, found.setting.steps) == (2e-3, 10)
    assert (found.scoring, found.valid_top1) == ("centroid", pytest.approx(0.4))
    # All tenants: the first tenant's 0.9 counts then.
    found = choose(watched, but="nobody")
    assert (found.setting.learning_rate, found.setting.steps, found.scoring) == (1e-3, 10, "best")


def test_a_tied_choice_takes_fewer_steps() -> None:
    found = choose({("b", 1e-3): [_top1(0.5), _top1(0.5)]}, but="a")
    assert found.setting.steps == 0


def test_scoring_is_chosen_without_the_tenant_itself() -> None:
    def cell(tenant: str, best: list[int], centroid: list[int]) -> dict[str, Any]:
        scores = {"question": [9], "best": best, "centroid": centroid}
        return {
            "cell": {"tenant": tenant},
            "scores": {name: {"valid": ranks} for name, ranks in scores.items()},
        }

    cells = [cell("a", [1, 1], [2, 2]), cell("b", [2, 1], [1, 1])]
    assert choose_scoring(cells, but="a") == "centroid"
    assert choose_scoring(cells, but="b") == "best"
    assert choose_scoring([], but="a") == "centroid"


def test_macro_without_any_row_is_not_a_number() -> None:
    assert math.isnan(metrics([])["top1"])
