import json
from pathlib import Path

import pytest
import torch

from adapterdistill.backbone import Encoder
from adapterdistill.bench.engine import encoders, paging, throughput
from adapterdistill.bench.engine.checks import check_equality
from adapterdistill.bench.engine.encoders import measure_encoders
from adapterdistill.bench.engine.paging import fill_many, measure_paging
from adapterdistill.bench.engine.report import AIMED_BATCH, AIMED_MIX, aims, markdown
from adapterdistill.bench.engine.sides import (
    ALONE,
    BARE,
    MIXED,
    MIXES,
    SEARCH,
    SENTENCES_FLOAT32,
)
from adapterdistill.bench.engine.throughput import measure_engine
from adapterdistill.errors import DataError
from adapterdistill.serve.engine.engine import Engine
from adapterdistill.testbed.faq_banks import Bank, fill_store, read_banks
from adapterdistill.testbed.random_adapters import random_adapters
from tests.unit.bench.conftest import SAMPLES

TINY = throughput.SIZES["tiny"]
PAGING = {
    "tenants": 20, "slots": 5, "bank_mib": 1.0, "process_grew_mib": 2.0, "first_refresh_s": 0.1,
    "refresh_without_change_ms": 0.2, "scan_ms_a_tenant": 3.0, "queries_per_s": 100.0,
    "traffics": [{"traffic": "Zipf", "failed": 3, "p95_ms": 1.0, "why": {"GONE: T went": 3}}],
    "p95_times_when_10_percent_over": 1.1,
}  # fmt: skip

ENCODERS = {
    "tenants_of_each": 2, "clients_of_each": 3, "rounds": 4,
    "encoders": {
        name: {"alone_queries_per_s": 9.0, "together_queries_per_s": 9.0, "share": share,
               "lowest_share": share}
        for name, share in (("one", 0.96), ("other", 0.94))
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def banks() -> list[Bank]:
    return read_banks(SAMPLES, TINY.tenants)


def test_every_side_is_timed_in_every_cell_and_reported(
    tiny_encoder: Encoder, banks: list[Bank]
) -> None:
    engine = measure_engine(tiny_encoder, tiny_encoder, banks, TINY, peer_env=None)
    assert [cell["mix"] for cell in engine["timings"]] == list(MIXES)
    for cell in engine["timings"]:
        assert set(cell["sides"]) == {BARE, MIXED, ALONE, SEARCH}
        assert cell["sides"][MIXED]["mixed_is_times_as_fast"] == 1
    tenants = {cell["mix"]: cell["median_tenants"] for cell in engine["timings"]}
    assert tenants["one tenant"] == 1 and tenants["32 tenants"] == 6
    assert engine["tenants_resident"] == 10
    assert engine["equality"]["largest_difference"] < 1e-5
    assert engine["top1"]["same_answer"] == 1 and 0 < engine["top1"]["engine"] <= 1
    fairness = engine["fairness"]
    assert fairness["others_refused"] == 0 and fairness["times"] > 0
    assert fairness["flood_answered_per_s"] <= fairness["flood_queries_per_s"]
    engine |= {"paging": PAGING, "encoders": ENCODERS}
    env = {
        "dtype": "float32", "device": "cpu", "threads_in_this_process": 1,
        "load_1_5_15_min": [0.0, 0.0, 0.0],
    }  # fmt: skip
    text = markdown({"environment": env, "engine": engine, "aims": list(aims(engine))})
    assert "3 GONE: T went" in text
    assert all(word in text for word in (*MIXES, BARE, MIXED, ALONE, SEARCH, "skipped"))


def test_aims_are_judged_at_32_tenants_in_a_batch_of_32() -> None:
    def cell(mix: str, batch: int, ratio: float) -> dict[str, object]:
        figures = {"mixed_is_times_as_fast": ratio, "mixed_is_times_as_cheap": ratio}
        sides = dict.fromkeys((BARE, SENTENCES_FLOAT32), figures)
        return {"mix": mix, "batch": batch, "sides": sides}

    engine = {
        "timings": [
            cell("one tenant", AIMED_BATCH, 9),
            cell(AIMED_MIX, AIMED_BATCH, 0.95),
            cell(AIMED_MIX, 4 * AIMED_BATCH, 9),
        ],
        "top1": {"float32": 0.8, "engine": 0.7985},
        "fairness": {"times": 1.9},
        "paging": {"p95_times_when_10_percent_over": 2.1, "traffics": [{"failed": 1}]},
        "encoders": ENCODERS,
    }
    assert [(a["measured"], a["met"]) for a in aims(engine)] == [
        (0.95, True),
        (0.95, False),
        (0.15, False),
        (1.9, True),
        (0.96, True),
        (0.94, False),
        (2.1, False),
        (1, False),
    ]


def test_two_encoders_in_one_engine_are_timed_beside_each_alone(
    tiny_encoder: Encoder, banks: list[Bank]
) -> None:
    found = measure_encoders(tiny_encoder, banks, encoders.SIZES["tiny"])
    assert found["encoders"].keys() == {tiny_encoder.ref.name, "random"}
    for of in found["encoders"].values():
        assert of["alone_queries_per_s"] > 0 and of["lowest_share"] == of["share"] > 0


def test_many_more_tenants_than_slots_take_turns(tiny_encoder: Encoder, tmp_path: Path) -> None:
    size = paging.SIZES["tiny"]
    banks = read_banks(SAMPLES, size.tenants)
    fill_many(tmp_path, banks, tiny_encoder)
    found = measure_paging(tiny_encoder, tmp_path, banks, size)
    assert (found["tenants"], found["slots"]) == (20, 5)
    by_name = {cell["traffic"]: cell for cell in found["traffics"]}
    assert by_name["0.9 times the slots, evenly"]["hit_rate"] == 1
    assert 0 < by_name["2 times the slots, evenly"]["hit_rate"] < 1
    assert by_name["Zipf over all, at first"]["evictions"] > 0
    assert all(cell["failed"] == 0 and cell["why"] == {} for cell in found["traffics"])
    env: dict[str, object] = {}
    text = markdown({"environment": env, "engine": {"paging": found}, "aims": []})
    assert all(name in text for name in by_name)


def test_a_wrong_adapter_fails_the_check(
    tiny_encoder: Encoder, banks: list[Bank], tmp_path: Path
) -> None:
    adapters = random_adapters(tiny_encoder, 3)
    fill_store(tmp_path, banks, tiny_encoder, adapters)
    engine = Engine(tiny_encoder, tmp_path)
    engine.refresh()
    check_equality(tiny_encoder, engine, banks, adapters)
    with pytest.raises(AssertionError, match="not each adapter's alone"):
        check_equality(tiny_encoder, engine, banks, adapters[::-1])


def test_banks_come_from_one_table_of_all_tenants_and_come_again_under_names_that_are_allowed(
    tmp_path: Path,
) -> None:
    rows = [
        {"tenant": tenant, "faq_id": f"{tenant}/{n}", "question": f"question {n}", "answer": "yes"}
        for tenant in ("b.*", "A")
        for n in range(2)
    ]
    (tmp_path / "faqs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    banks = read_banks(tmp_path, 3)
    assert [bank.tenant for bank in banks] == ["a", "b.0", "a.copy-1"]
    assert [faq.faq_id for faq in banks[1].faqs] == ["b.*/0", "b.*/1"]
    assert banks[0].asked == (("yes", "A/0"), ("yes", "A/1"))


def test_a_folder_without_tenants_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected faqs\.jsonl"):
        read_banks(tmp_path, 3)


def test_random_adapters_differ(tiny_encoder: Encoder) -> None:
    one, two = random_adapters(tiny_encoder, 2)
    assert not torch.equal(one.up_weight, two.up_weight)
