import json
from pathlib import Path
from typing import Any

import pytest

from adapterdistill.adapters import Routing
from adapterdistill.backbone import Encoder
from adapterdistill.bench.conditional import study
from adapterdistill.bench.conditional.report import conditional_command, markdown
from adapterdistill.bench.conditional.study import Size, chosen, losses, rows_of_length
from adapterdistill.bench.tenants import BenchTenant
from adapterdistill.testbed.encoder_options import EncoderOptions
from tests.unit.bench.conftest import SAMPLES

ROUTINGS = (Routing(2.0, least=3, to_all=False), Routing(5.0, least=3))
TINY = Size(1, ROUTINGS, 2, 2, 12, 6, (8, 20), 7)


def test_every_setting_is_timed_scored_and_reported(
    tiny_encoder_folder: Path,
    tenants: dict[str, BenchTenant],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    means = sorted(t.test.tokens / len(t.test) for t in tenants.values())
    monkeypatch.setattr(study, "LONG", (means[0] + means[-1]) / 2)  # one of each kind
    monkeypatch.setitem(study.SIZES, "quick", TINY)
    encoder = EncoderOptions(str(tiny_encoder_folder), "float32", max_tokens=256)

    def run() -> dict[str, Any]:
        conditional_command(
            data=SAMPLES, out=tmp_path, cache=tmp_path / "cache", size="quick", encoder=encoder
        )
        found: dict[str, Any] = json.loads((tmp_path / "report.json").read_text())
        return found

    found = run()
    assert [one["mean_tokens"] for one in found["lengths"]] == [8, 20]
    assert [group["kind"] for group in found["groups"]] == ["short", "long"]
    for group in found["groups"]:
        assert len(group["tenants"]) == 1
        assert [row["speed"] for row in group["accuracy"]] == [2, 5]
        assert all(row["faster_by_median"] > 0 for row in group["speed"]["conditional"])
        assert group["accuracy"][0]["test"]["queries"] == 12
    monkeypatch.setattr(study, "train", None)  # a second run trains nothing
    again = run()
    for group, before in zip(again["groups"], found["groups"], strict=True):
        assert group["by_tenant"] == before["by_tenant"]
    text = (tmp_path / "report.md").read_text()
    assert "n/k 2, k-to-k" in text and "n/k 5, k-to-all" in text
    assert "## Short queries" in text and "## Long queries" in text
    for tenant in tenants.values():
        assert not any(query in text for query in tenant.test.texts if len(query) > 12)


def test_a_kind_that_no_tenant_has_is_named() -> None:
    found = {
        "size": "tiny", "bottleneck_size": 64, "dense_steps": 1, "steps": 1, "rounds": 7,
        "lengths": [], "groups": [], "environment": {"threads": 1},
    }  # fmt: skip
    text = markdown(found)
    assert "No tenant has short queries." in text and "No tenant has long queries." in text


def test_the_setting_is_chosen_on_valid_rows_alone_and_the_fastest_that_loses_little() -> None:
    def tenant(dense: list[int], *conditional: list[int]) -> dict[str, object]:
        def both(valid: list[int]) -> dict[str, list[int]]:
            return {"valid": valid, "test": [1, 2, 3, 1]}

        return {"dense": both(dense), "conditional": [both(ranks) for ranks in conditional]}

    found = [
        tenant([1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [2, 1, 1, 1]),
        tenant([1, 2], [2, 1], [1, 1], [1, 2]),
    ]
    routings = [Routing(2.0, least=3), Routing(3.0, least=3), Routing(5.0, least=3)]
    rows = losses(found, routings)
    assert [row["valid"]["change"] for row in rows] == [0.0, 0.25, -0.125]
    assert [row["valid"]["dense_top1"] for row in rows] == [0.75] * 3
    assert [row["valid"]["queries"] for row in rows] == [6, 6, 6]
    assert all(row["test"]["change"] == 0 and row["test"]["top1"] == 0.5 for row in rows)
    assert chosen(rows, [1.5, 2.0, 3.0]) == 1
    assert chosen(rows, [2.5, 2.0, 3.0]) == 0
    assert chosen(rows[2:], [3.0]) is None


def test_rows_to_time_are_of_one_length(
    tiny_encoder: Encoder, tenants: dict[str, BenchTenant]
) -> None:
    rows = rows_of_length(tiny_encoder, list(tenants.values()), 150)
    assert {len(row) for row in rows} == {150} and len(rows) == 32
