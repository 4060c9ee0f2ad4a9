"""Arrivals of `onboard` on the sample tenants, with a tiny random encoder and few steps."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from adapterdistill.backbone import Encoder
from adapterdistill.bench.arrivals import arriving, command
from adapterdistill.bench.arrivals.answers import embed
from adapterdistill.bench.arrivals.arriving import ArrivalBench, Arriving, arriving_queries
from adapterdistill.bench.arrivals.baselines import baselines
from adapterdistill.bench.arrivals.command import Chosen, arrivals_command, open_bench
from adapterdistill.bench.arrivals.findings import LABELS, findings
from adapterdistill.bench.arrivals.setfit import Fit, SetFitBench
from adapterdistill.bench.tenants import BenchTenant, open_dataset
from adapterdistill.bench.transfer.methods import Setting
from adapterdistill.data import Faq
from adapterdistill.errors import ConfigError, NotServedError, TrainingError
from adapterdistill.testbed.encoder_options import EncoderOptions
from tests.unit.bench.conftest import SAMPLES

SHORT = {"extract_steps": 2, "distil_steps": 2, "bottleneck_size": 24}
FIRST, SECOND = "ashgrove-housing", "larkhill-vets"
Run = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def _short_teachers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arriving, "TEACHER", Setting(1e-3, 2))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("arrivals")


@pytest.fixture
def run(home: Path, tiny_encoder_folder: Path) -> Run:
    def arrive(*tenants: str, k: int = 1, **more: Any) -> dict[str, Any]:
        return arrivals_command(
            data=SAMPLES,
            out=home / "out",
            cache=home / "cache",
            size="quick",
            chosen=Chosen(ks=(k,), tenants=tenants),
            encoder=EncoderOptions(str(tiny_encoder_folder), "float32"),
            processes=1,
            training=SHORT,
            **{"time_limit_s": None, **more},
        ).figures

    return arrive


@pytest.fixture(scope="module")
def faqs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Faq, ...]:
    return tuple(open_dataset(SAMPLES / FIRST, tmp_path_factory.mktemp("faqs")).faqs())


@pytest.fixture
def job(tenants: dict[str, BenchTenant]) -> Arriving:
    first, *others = sorted(tenants)
    return Arriving(first, 1, 5, 0, tuple(others))


def test_an_arrival_has_a_figure_for_what_is_served_and_for_every_baseline(run: Run) -> None:
    plain, pooled = run(FIRST)["blocks"]
    assert (plain["unlabelled"], pooled["unlabelled"]) == (False, True)
    for block in (plain, pooled):
        assert {"question", "centroid", "logistic", "hybrid", "served"} <= set(block["rows"])
        assert all(0 <= row["top1"] <= 1 for row in block["rows"].values())
        assert block["rows"]["served"]["seconds"] > 0 and block["peak_rss_mb"] > 0
        assert block["stage_seconds"].keys() >= {"validate", "evaluate", "bundle"}
    assert [aim["k"] for aim in run(FIRST)["aims"]] == [1, 1]


def test_setfit_joins_the_table_where_its_python_is_named(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []

    def fit(self: SetFitBench, job: Fit) -> dict[str, Any]:
        trained.append(job)
        queries = len(self.bench.tenants[job.tenant].test)
        half = [0.5] * queries
        return {"ranks": [2] * queries, "best": half, "best_out_of_scope": [], "seconds": 2.5}

    monkeypatch.setattr(command, "setfit_version", lambda python: "1.2.0")
    monkeypatch.setattr(SetFitBench, "_fit", fit)
    assert "setfit" not in run(FIRST)["blocks"][0]["rows"]
    found = run(FIRST, setfit=Path("python"))
    assert trained == [Fit(FIRST, 1, 0)]
    for block in found["blocks"]:
        row, served = block["rows"]["setfit"], block["rows"]["served"]
        assert (row["top1"], row["mrr"], row["seconds"]) == (0, 0.5, 2.5)
        assert row["served_over_it"]["mean"] == pytest.approx(served["top1"])
    assert found["environment"]["SetFit"] == "1.2.0"


def test_a_run_without_other_tenants_joins_the_table_where_it_is_asked_for(run: Run) -> None:
    assert "alone" not in run(FIRST)["blocks"][0]["rows"]
    for block in run(FIRST, alone=True)["blocks"]:
        for name in ("own", "alone"):
            found, served = block["rows"][name], block["rows"]["served"]
            gain = served["top1"] - found["top1"]
            assert found["served_over_it"]["mean"] == pytest.approx(gain)


def test_the_report_holds_no_text_of_a_tenant_and_no_path(
    run: Run, home: Path, tenants: dict[str, BenchTenant]
) -> None:
    run(FIRST)
    text = (home / "out" / "report.md").read_text() + (home / "out" / "report.json").read_text()
    assert str(home) not in text and str(Path.home()) + "/" not in text
    for tenant in tenants.values():
        assert not any(query in text for query in tenant.test.texts if len(query) > 12)


def test_a_run_that_is_started_again_makes_only_what_is_missing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, arrived, made = run(FIRST), ArrivalBench._arrive, []

    def counted(self: ArrivalBench, job: Arriving) -> dict[str, Any]:
        made.append(job.tenant)
        return arrived(self, job)

    monkeypatch.setattr(ArrivalBench, "_arrive", counted)
    assert run(FIRST)["blocks"] == first["blocks"] and made == []
    run(FIRST, SECOND)
    assert made == [SECOND, SECOND]


def test_a_run_that_fails_leaves_no_result_and_the_others_go_on(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(FIRST)

    def fails(self: ArrivalBench, job: Arriving) -> dict[str, Any]:
        raise TrainingError("the loss is not finite")

    monkeypatch.setattr(ArrivalBench, "_arrive", fails)
    found = run(FIRST, "valtara-rail")
    assert found["planned"] == 4 and found["arrivals"] == 2
    assert "valtara-rail, k = 1, 0 unlabelled: the loss is not finite" in capsys.readouterr().err


def test_a_run_that_serves_nothing_is_a_result_that_the_report_names(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(self: ArrivalBench, job: Arriving) -> dict[str, Any]:
        raise NotServedError("the questions say nothing")

    monkeypatch.setattr(ArrivalBench, "_arrive", refuses)
    found = run("brookfield-library")
    assert found["arrivals"] == found["planned"] == 2 and found["blocks"] == []
    assert [one["tenant"] for one in found["not_served"]] == ["brookfield-library"] * 2
    assert "Nothing is served: brookfield-library, k = 1" in (home / "out/report.md").read_text()


def test_a_run_without_time_says_what_is_missing(run: Run, home: Path) -> None:
    assert run("ridgewater-electric", time_limit_s=1e-9)["arrivals"] == 0
    assert "2 of 2 arrivals have no result yet" in (home / "out" / "report.md").read_text()


def test_a_tenant_that_the_size_lacks_is_refused_by_name(run: Run) -> None:
    with pytest.raises(ConfigError, match="--tenants names nobody: the size's are ashgrove"):
        run("nobody")


def test_the_arriving_folder_holds_just_its_k_queries_and_no_held_out_rows(
    tenants: dict[str, BenchTenant], faqs: tuple[Faq, ...], job: Arriving
) -> None:
    tenant = tenants[job.tenant]
    rows = list(arriving_queries(tenant, faqs, job))
    assert {row.split for row in rows} <= {"train", "unlabelled"}
    labelled = [row for row in rows if row.split == "train"]
    assert sorted(row.faq_id for row in labelled) == sorted(faq.faq_id for faq in faqs)
    assert [row.text for row in labelled] == list(tenant.first(1, seed=0).texts)
    pool = [row for row in rows if row.split == "unlabelled"]
    assert all(row.faq_id is None for row in pool)
    assert not {row.text for row in pool} & set(tenant.first(10, seed=0).texts)


def test_whatever_an_arrival_depends_on_is_in_its_key(
    tenants: dict[str, BenchTenant],
    tiny_encoder_folder: Path,
    job: Arriving,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = EncoderOptions(str(tiny_encoder_folder), "float32")
    bench = open_bench(encoder, tenants, {}, tmp_path, {})
    keys = [
        bench.key(replace(job, **change))
        for change in (
            {}, {"k": 2}, {"k": None}, {"seed": 1}, {"unlabelled": 0},
            {"tenant": job.teachers[0]}, {"teachers": job.teachers[:1]},
        )
    ]  # fmt: skip
    keys.append(replace(bench, training={"extract_steps": 3}).key(job))
    other = replace(tenants[job.tenant], digest="0" * 64)
    keys.append(open_bench(encoder, tenants | {job.tenant: other}, {}, tmp_path, {}).key(job))
    monkeypatch.setattr(arriving, "VERSION", "changed")
    keys.append(bench.key(job))
    assert len(set(keys)) == len(keys)


def test_the_baselines_rank_as_a_loop_over_the_queries_does(
    tiny_encoder: Encoder, tenants: dict[str, BenchTenant]
) -> None:
    tenant = tenants[FIRST] if FIRST in tenants else next(iter(tenants.values()))
    rows = tenant.arrival(2, seed=0)
    found = baselines(tiny_encoder, tenant, rows)
    vectors = embed(tiny_encoder, None, tenant, rows)
    means = torch.stack(
        [vectors.rows[rows.labels == faq].mean(0) for faq in range(tenant.num_faqs)]
    )
    means /= means.norm(dim=1, keepdim=True)
    for name, table in (("question", vectors.rows[: tenant.num_faqs]), ("centroid", means)):
        expected = []
        for query, gold in zip(vectors.test, tenant.test.labels.tolist(), strict=True):
            order = sorted(range(tenant.num_faqs), key=lambda faq, q=query: -float(q @ table[faq]))
            expected.append(1 + order.index(gold))
        assert found[name]["ranks"] == expected
    for name in ("logistic", "hybrid"):
        assert len(found[name]["ranks"]) == len(tenant.test)
        assert all(0 < best <= 1 for best in found[name]["best"])


def _result(**ranks: list[int]) -> dict[str, Any]:
    rows: dict[str, Any] = {
        name: {"ranks": of, "best": [0.5] * len(of), "best_out_of_scope": []}
        for name, of in ranks.items()
    }
    return {
        "rows": rows, "seconds": 3.0, "stage_seconds": {"validate": 1.0}, "peak_rss_mb": 9.0,
        "quarantined": False,
    }  # fmt: skip


def test_the_gain_is_over_the_better_of_the_ten_lines_and_the_floor_counts_tenants() -> None:
    wrong, right, half = [2, 2], [1, 1], [1, 2]
    results = [
        (Arriving(name, 1, 0, 0, ()), one)
        for name, one in (
            ("a", _result(centroid=half, logistic=half, hybrid=wrong, served=right)),
            ("b", _result(centroid=right, logistic=half, hybrid=half, served=half)),
        )
    ]
    found = findings(results, 2, {})
    (aim,), (block,) = found["aims"], found["blocks"]
    assert aim["over"] == "logistic" and aim["mean"] == pytest.approx(0.25)
    assert block["floor"]["by_tenant"] == pytest.approx({"a": 0.5, "b": -0.5})
    assert block["floor"]["under_by_more_than_1"] == 1
    assert block["rows"]["served"]["mrr"] == pytest.approx((1 + 0.75) / 2)
    assert list(block["rows"]) == [name for name in LABELS if name in block["rows"]]
    json.dumps(found)
