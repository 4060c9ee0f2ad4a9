import json
from pathlib import Path

import pytest
import torch

from adapterdistill.bench.selection import accuracy, report
from adapterdistill.bench.selection.accuracy import (
    UNSEEN_BEYOND,
    Size,
    Trial,
    akin,
    halves,
    judged_rows,
    measure_accuracy,
)
from adapterdistill.bench.tenants import BenchTenant
from adapterdistill.bench.transfer.cells import Workbench
from adapterdistill.bench.transfer.method_table import OURS
from adapterdistill.bench.transfer.methods import Setting

TINY = Size(
    None,
    (Trial("mean", 0, (1, 2), 2), Trial(OURS, 3, (1, 2), 1)),
    (Trial("mean", 3, (1, 9), 2),),
)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    short = {name: Setting(s.learning_rate, 1) for name, s in accuracy.SETTINGS.items()}
    monkeypatch.setattr(accuracy, "SETTINGS", short)


def test_halves_share_no_faq_and_lose_no_row(tenants: dict[str, BenchTenant]) -> None:
    for tenant in tenants.values():
        first, second = halves(tenant)
        assert abs(first.num_faqs - second.num_faqs) <= 1
        for part in ("questions", "train", "valid", "test"):
            whole = getattr(tenant, part)
            of_first, of_second = getattr(first, part), getattr(second, part)
            assert sorted(of_first.texts + of_second.texts) == sorted(whole.texts)
            for half in (first, second):
                rows = getattr(half, part)
                for text, label in zip(rows.texts, rows.labels.tolist(), strict=True):
                    question = tenant.questions.texts[int(whole.labels[whole.texts.index(text)])]
                    assert half.questions.texts[label] == question
        assert akin(first.name, second.name) and not akin(first.name, "other/1")
        assert len({first.digest, second.digest, tenant.digest}) == 3


def test_judged_rows_are_neither_test_rows_nor_an_arrivals(
    tenants: dict[str, BenchTenant],
) -> None:
    for tenant in tenants.values():
        judged = set(judged_rows(tenant).texts)
        assert judged <= set(tenant.train.texts) | set(tenant.valid.texts)
        assert not judged & set(tenant.arrival(UNSEEN_BEYOND, seed=0).texts)


def test_the_accuracy_of_the_chosen_is_paired_with_chance_and_all(bench: Workbench) -> None:
    found = measure_accuracy(bench, TINY)
    again = measure_accuracy(bench, TINY)  # from the cache
    assert found == again
    whole, cut = found["collections"]
    assert (whole["tenants"], cut["tenants"]) == (3, 6)
    assert {(r["method"], r["k"], r["teachers"]) for r in whole["table"]} == {
        (method, k, m) for method, k in (("mean", 0), (OURS, 3)) for m in (1, 2)
    }
    for row in whole["table"]:
        for part in ("judged", "test"):
            figures = row[part]
            lowest, highest = figures["random_lowest"], figures["random_highest"]
            assert lowest - 1e-9 <= figures["random"] <= highest + 1e-9
            difference = figures["chosen"] - figures["all"]
            assert figures["over_all"]["mean"] == pytest.approx(difference)
            if row["teachers"] == 2:  # there are two others: all are chosen, and drawn
                assert figures["chosen"] == figures["all"] == pytest.approx(figures["random"])
    assert whole["related"][0]["arrivals"] == 0
    assert [row["teachers"] for row in cut["table"]] == [1, 5]
    (of_halves,) = cut["related"]
    assert of_halves["arrivals"] == 6 and of_halves["listed"] == 5


def test_figures_are_those_reckoned_by_hand() -> None:
    sets: dict[str, accuracy.Sets] = {
        "a": {(0, -1): ("x", "y"), (1, -1): ("x",), (1, 0): ("x",), (1, 1): ("y",)},
        "b": {(0, -1): ("x", "y"), (1, -1): ("y",), (1, 0): ("x",), (1, 1): ("x",)},
    }
    rows = {
        ("a", ("x", "y")): [1, 1, 0, 0], ("a", ("x",)): [1, 0, 0, 0], ("a", ("y",)): [1, 1, 1, 0],
        ("b", ("x", "y")): [1, 1], ("b", ("x",)): [0, 0], ("b", ("y",)): [1, 0],
    }  # fmt: skip
    correct = {place: {"judged": found, "test": found} for place, found in rows.items()}
    figures = accuracy._figures(sets, correct, 1, 2)["test"]
    assert figures["chosen"] == (25 + 50) / 2
    assert figures["all"] == (50 + 100) / 2
    assert figures["random"] == ((25 + 75) / 2 + 0) / 2
    assert (figures["random_lowest"], figures["random_highest"]) == (12.5, 37.5)
    assert figures["over_random"]["mean"] == pytest.approx(((25 - 50) + 50) / 2)


def test_the_report_names_every_size_and_set(bench: Workbench, tmp_path: Path) -> None:
    size = {
        "listed": 10, "list_bytes": 4000, "list_manifests_bytes": 40000, "fetched": 10,
        "fetched_bytes": 1000, "all_bytes": 1000, "all_fetch_and_prove_s": 1.0,
        **{name: {"min": 0.1, "median": 0.2}
           for name in ("list_s", "list_manifests_s", "choose_s", "fetch_and_prove_s", "whole_s")},
    }  # fmt: skip
    cost = {"max_teachers": 16, "rounds": 7, "payload_bytes": 100, "own_texts": 9, "sizes": [size]}
    found = {
        "cost": cost,
        "accuracy": {"size": "tiny", **measure_accuracy(bench, TINY)},
        "environment": {"threads": torch.get_num_threads()},
    }
    text = report.markdown(json.loads(json.dumps(found)))
    assert "| 10 | 0.004 | 0.200 |" in text
    assert "### Tenants: 3" in text and "### Halves of tenants: 6" in text
    assert "AdapterDistillation | 3 | 1 |" in text
    for tenant in bench.tenants.values():
        assert not any(query in text for query in tenant.test.texts if len(query) > 12)
