"""Methods that make a cheaper variant of the adapter: made, judged, bundled and served."""

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from adapterdistill.backbone import load_encoder
from adapterdistill.checkpoint import prove_active
from adapterdistill.distill.batches import Batch
from adapterdistill.distill.conditional_distillation import ConditionalDistillation
from adapterdistill.distill.variants import unpack_variant
from adapterdistill.errors import ConfigError
from adapterdistill.evaluation.evaluate import Ranking
from adapterdistill.evaluation.report import VariantComparison, compare_variant
from adapterdistill.evaluation.scorer import unpack_scorer
from adapterdistill.manifest import VersionRef
from adapterdistill.serve.engine.engine import Engine, SearchAnswer, SearchItem
from adapterdistill.store.bundle import read_bundle
from tests.contract.running_registry import Running
from tests.owner_runs import Configured, folder_of, run_through, write_task

STEPS = {"steps": 4, "learning_rate": 0.005, "most_lost": 1.0}
METHODS: dict[str, dict[str, Any]] = {
    "conditional": {"conditional": {"speed": 2.0, **STEPS}},
    "multitask_kd": {"light": {"layers": 1, "heads": 2, **STEPS}},
    "meta_kd": {"light": {"layers": 1, "heads": 2, **STEPS}},
}


def run_with(method: str, **changed: Any) -> dict[str, Any]:
    (section, settings), *_ = METHODS[method].items()
    return {"training": {"method": method}, section: settings | changed}


@pytest.mark.parametrize("splits", [("train",) * 3 + ("test",), ("train", "valid", "test")])
@pytest.mark.parametrize("method", METHODS)
def test_a_variant_is_made_judged_and_served(
    configured: Configured,
    registry: Running,
    tiny_encoder_folder: Path,
    method: str,
    splits: tuple[str, ...],
) -> None:
    config = configured("fletcher", splits=splits, run=run_with(method))
    if method == "meta_kd":
        write_task(Path(config.data), "mood", domains=("shop", "home"))
    encoder = load_encoder(str(tiny_encoder_folder), dtype="float32", max_tokens=128)
    report, lines = run_through(config)
    made = report.variant
    assert made.trained and made.served == method and made.steps > 0
    assert f"{method} is served (top-1 lost" in lines[7]
    assert made.held_out is not None and report.evaluate.held_out is not None
    assert made.held_out.rows == report.evaluate.held_out.rows
    assert made.held_out.adapter == report.evaluate.candidates[report.decide.choice].held_out
    assert made.test is not None and made.test.rows == 5

    # What is published is the adapter, as with the plain method.
    manifest = registry.client.get(VersionRef.parse(report.publish.name))
    assert manifest.kind == "bottleneck"
    assert manifest.method in ("own_adapter", "averaged_teachers", "untrained")

    store = Path(config.serving_store)
    bundle = read_bundle(store, "fletcher", report.bundle.bundle)
    assert bundle.variant is not None and bundle.variant.proven.kind == method
    assert bundle.threshold == report.bundle.threshold == made.threshold
    assert bundle.calibration == made.calibration != report.evaluate.calibration
    assert bundle.calibration is not None
    variant = unpack_variant(bundle.variant.payload, encoder)
    prove_active(encoder, variant.embedder, bundle.variant.proven.golden)

    engine = Engine(encoder, store)
    assert engine.refresh().loaded == ("fletcher",)
    [answer] = engine.search([SearchItem("fletcher", "my lamp is broken", top_k=5)])
    assert isinstance(answer, SearchAnswer)
    assert (answer.variant, answer.version) == (method, manifest.version)
    assert bundle.scorer is not None
    text = "my lamp is broken"
    total = unpack_scorer(bundle.scorer)(
        encoder.embed_texts([text], variant.embedder), [text]
    ).total
    expected = dict(zip((faq.faq_id for faq in bundle.faqs), total[0].tolist(), strict=True))
    assert {r.faq_id: r.score for r in answer.ranked} == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("method", ["multitask_kd", "meta_kd"])
def test_a_light_student_learns_the_tenant_s_further_tasks(
    configured: Configured, method: str
) -> None:
    config = configured("fletcher", splits=("train", "train"), run=run_with(method))
    write_task(Path(config.data), "mood", domains=("shop", "home"))
    report, _ = run_through(config)
    assert {name: m.count for name, m in report.variant.tasks["mood"].items()} == {
        "valid_teacher": 6, "valid_student": 6, "test_teacher": 4, "test_student": 4,
    }  # fmt: skip
    bundle = read_bundle(Path(config.serving_store), "fletcher", report.bundle.bundle)
    assert bundle.variant is not None
    assert b'\\"classes\\":[\\"glad\\",\\"sad\\"]' in bundle.variant.payload
    assert f'\\"kind\\":\\"{method}\\"'.encode() in bundle.variant.payload


def test_where_a_variant_loses_too_much_or_none_is_made_the_bundle_is_the_plain_one(
    configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured("founder", run=run_with("conditional", most_lost=0.25))
    training = config.training.model_copy(update={"method": "averaged_teachers"})
    plain = config.model_copy(update={"training": training, "conditional": None})
    expected, lines = run_through(plain)
    assert not expected.variant.trained and expected.variant.served == "adapter"
    assert "adapter is served (the method makes no variant)" in lines[7]

    def worse(adapter: Ranking, variant: Ranking) -> VariantComparison | None:
        found = compare_variant(adapter, variant)
        return found and found.model_copy(update={"lost": 0.2501})

    monkeypatch.setattr("adapterdistill.actors.judging.compare_variant", worse)
    report, lines = run_through(config)
    assert report.variant.trained and report.variant.served == "adapter"
    assert "adapter is served (top-1 lost 0.2501, at most 0.2500 may be" in lines[7]
    assert report.publish.name == expected.publish.name
    assert report.bundle.bundle == expected.bundle.bundle


def test_where_no_row_is_held_out_no_variant_is_trained(configured: Configured) -> None:
    report, lines = run_through(configured("glover", splits=(), run=run_with("multitask_kd")))
    assert not report.variant.trained and report.variant.served == "adapter"
    assert "no held-out row to show what a variant would lose" in lines[7]


@pytest.mark.parametrize(
    ("method", "changed", "said"),
    [
        ("multitask_kd", {"layers": 3}, "method multitask_kd: a student of 3 layers"),
        ("multitask_kd", {"heads": 9}, "method multitask_kd: a student of 9 attention heads"),
        ("multitask_kd", {"body": "bilstm", "lstm_size": 17}, "take at most 16"),
    ],
)
def test_a_variant_that_cannot_be_is_refused_before_anything_is_done(
    configured: Configured, method: str, changed: dict[str, Any], said: str
) -> None:
    config = configured(run=run_with(method, **changed))
    with pytest.raises(ConfigError, match=said):
        run_through(config)
    assert not Path(config.workspace).exists()


@pytest.mark.parametrize(
    ("domains", "said"),
    [
        (None, "no task in the tenant's folder tasks names domains: give the rows of one the"),
        ((), 'method meta_kd: no task .* or set training.method = "multitask_kd"'),
        (("shop",), r"meta_kd: tasks/mood.jsonl, field domain: .* several domains, got 1: add"),
    ],
)
def test_meta_kd_without_domains_is_refused_before_anything_is_done(
    configured: Configured, domains: tuple[str, ...] | None, said: str
) -> None:
    config = configured(run=run_with("meta_kd"))
    if domains is not None:
        write_task(Path(config.data), "mood", domains=domains)
    with pytest.raises(ConfigError, match=said):
        run_through(config)
    assert not Path(config.workspace).exists()


def test_a_run_killed_while_its_variant_is_trained_ends_as_if_it_had_not_been(
    configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured("hatter", splits=("train",) * 2, run=run_with("conditional", steps=8))
    elsewhere = {"workspace": f"{config.workspace}-2", "serving_store": f"{config.serving_store}-2"}
    expected, _ = run_through(config.model_copy(update=elsewhere))

    class Killed(BaseException):
        pass

    forward, calls = ConditionalDistillation.forward, []

    def dying(self: ConditionalDistillation, batch: Batch) -> Tensor:
        calls.append(1)
        if len(calls) == 6:
            raise Killed
        return forward(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(ConditionalDistillation, "forward", dying)
        with pytest.raises(Killed):
            run_through(config)
    assert list(folder_of(config).glob("form-*.state"))
    report, _ = run_through(config)
    assert report.variant.adapter_sha256 == expected.variant.adapter_sha256
    assert report.bundle.bundle == expected.bundle.bundle
