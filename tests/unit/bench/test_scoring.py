import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from adapterdistill.bench.tenants import BenchTenant, TextRows, choose_teachers, related, spread
from adapterdistill.bench.transfer.baselines import TfIdf
from adapterdistill.bench.transfer.scoring import score, scores, threshold


def _unit(*values: float) -> Tensor:
    return F.normalize(torch.tensor(values, dtype=torch.float32), dim=-1)


# Two FAQs: their questions, then one query of the first and two of the second.
ENTRIES = torch.stack([_unit(1, 0), _unit(0, 1), _unit(1, 1), _unit(0.2, 1), _unit(0.4, 1)])
LABELS = torch.tensor([0, 1, 0, 1, 1])


def test_scorings_equal_their_definition() -> None:
    query = _unit(0.9, 1.0)[None]
    cosines = (query @ ENTRIES.T)[0].tolist()
    assert scores("question", query, ENTRIES, LABELS, 2)[0].tolist() == pytest.approx(cosines[:2])
    best = [max(cosines[0], cosines[2]), max(cosines[1], cosines[3], cosines[4])]
    assert scores("best", query, ENTRIES, LABELS, 2)[0].tolist() == pytest.approx(best)
    first = F.normalize(ENTRIES[0] + ENTRIES[2], dim=0)
    second = F.normalize(ENTRIES[1] + ENTRIES[3] + ENTRIES[4], dim=0)
    expected = [float(query[0] @ first), float(query[0] @ second)]
    assert scores("centroid", query, ENTRIES, LABELS, 2)[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("scoring", ["best", "centroid"])
def test_the_threshold_leaves_each_query_out_of_its_own_index(scoring: str) -> None:
    tops = []
    for left_out in (2, 3, 4):
        kept = [i for i in range(5) if i != left_out]
        of = scores(scoring, ENTRIES[left_out][None], ENTRIES[kept], LABELS[kept], 2)
        tops.append(float(of.max()))
    expected = float(torch.quantile(torch.tensor(tops).double(), 0.05))
    assert threshold(scoring, ENTRIES, LABELS, 2) == pytest.approx(expected, abs=1e-4)


def test_without_a_training_query_there_is_no_threshold() -> None:
    assert threshold("best", ENTRIES[:2], LABELS[:2], 2) is None


def _rows(texts: list[str], labels: list[int]) -> TextRows:
    return TextRows(tuple(texts), tuple((i + 1,) for i in range(len(texts))), torch.tensor(labels))


def _tenant() -> BenchTenant:
    texts = [f"text {i}" for i in range(12)]
    return BenchTenant(
        "acme",
        "0" * 64,
        questions=_rows(["first", "second"], [0, 1]),
        train=_rows(texts, [i % 2 for i in range(12)]),
        valid=_rows([], []),
        test=_rows(["right", "wrong"], [0, 1]),
        out_of_scope=_rows([], []),
    )


def test_a_tenant_without_valid_rows_is_scored_on_test_alone() -> None:
    def embed(rows: TextRows) -> Tensor:
        return _unit(1, 0).expand(len(rows), 2)

    found = score(embed, _tenant(), _tenant().arrival(0, seed=0))
    # All the same: ties go to the first FAQ.
    assert found["best"] == {"test": [1, 2], "valid": []}


def test_samples_of_k_queries_nest_and_are_balanced() -> None:
    tenant = _tenant()
    previous: set[str] = set()
    for k in (0, 1, 2, 4, None):
        rows = tenant.first(k, seed=3)
        assert previous <= set(rows.texts)
        assert rows.labels.bincount(minlength=2).tolist() == [6 if k is None else k] * 2
        previous = set(rows.texts)
    assert set(tenant.first(3, seed=3).texts) != set(tenant.first(3, seed=4).texts)


def test_teachers_nest_and_never_hold_the_tenant() -> None:
    names = ["banking77.a", "clinc.banking", "clinc.kitchen_and_dining", "hwu.iot", "natcs.banking"]
    all_others = choose_teachers("clinc.banking", names, count=9, seed=1)
    assert sorted(all_others) == [name for name in names if name != "clinc.banking"]
    assert choose_teachers("clinc.banking", names, count=2, seed=1) == all_others[:2]
    apart = choose_teachers("clinc.banking", names, count=9, seed=1, unrelated=True)
    assert set(apart) == {"clinc.kitchen_and_dining", "hwu.iot"}
    assert related("hwu.iot", "clinc.home") and not related("hwu.iot", "clinc.meta")


def test_spread_meets_both_ends_of_the_names() -> None:
    assert spread(list("fedcba"), 3) == ["a", "c", "e"]
    assert spread(list("ba"), 3) == spread(list("ba"), None) == ["a", "b"]


def test_tfidf_equals_hand_computation() -> None:
    vectors = TfIdf(["red apple", "red car car"])
    rare, common = math.log(3 / 2) + 1, math.log(3 / 3) + 1
    # Columns in order: apple, car, red. "a" is too short, "boat" unknown.
    weights = torch.tensor([rare, 2 * rare, common])
    expected = F.normalize(weights, dim=0)
    torch.testing.assert_close(vectors(["A boat: apple, red CAR car"])[0], expected)
    assert vectors(["boat"]).abs().sum() == 0
