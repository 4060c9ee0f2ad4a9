"""A data owner's whole way, without Ray, against a real registry on loopback."""

from pathlib import Path

import pytest
import torch

from adapterdistill.actors.publishing import UNTRAINED_PRIVACY
from adapterdistill.actors.records import Bundled, Published
from adapterdistill.actors.stages import STAGES
from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import golden_vectors, unpack_adapter
from adapterdistill.evaluation.scorer import unpack_scorer
from adapterdistill.manifest import VersionRef, sha256_hex
from adapterdistill.store.bundle import read_bundle
from adapterdistill.store.release import live_bundle
from tests.contract.running_registry import Running
from tests.owner_runs import Configured, folder_of, payload_of, run_through

METHOD_OF = {
    "distilled": "averaged_teachers",
    "averaged": "averaged_teachers",
    "own": "own_adapter",
    "bare": "untrained",
}
"""What a manifest says of each candidate of the default method."""


def test_a_tenant_goes_from_its_rows_to_a_live_bundle(
    configured: Configured, registry: Running, tiny_encoder: Encoder
) -> None:
    config = configured(out_of_scope=("valid", "test"))
    report, lines = run_through(config)
    assert report.validate_stage.counts["train"] == 15
    assert report.extract.trained and report.distil.trained
    teachers = report.fetch_teachers.teachers
    assert [VersionRef.parse(name).tenant for name in teachers] == ["baker", "cooper"]
    evaluated, choice = report.evaluate, report.decide.choice
    assert set(evaluated.candidates) == {"distilled", "own", "averaged", "bare"}
    assert (evaluated.rows, evaluated.num_faqs, evaluated.choice) == (5, 5, choice)
    assert evaluated.held_out is not None and evaluated.held_out.rows == 5
    assert evaluated.test is not None and evaluated.test.rows == 5
    assert evaluated.held_out.own == evaluated.candidates["own"].held_out
    assert evaluated.test.distilled == evaluated.candidates["distilled"].test

    manifest, payload = registry.client.fetch(VersionRef.parse(report.publish.name))
    folder = folder_of(config)
    assert payload == (folder / f"{choice}.safetensors").read_bytes()
    assert sha256_hex(payload) == manifest.version
    for name, trained in (("own", report.extract), ("distilled", report.distil)):
        assert trained.adapter_sha256 == sha256_hex((folder / f"{name}.safetensors").read_bytes())
    assert manifest.method == METHOD_OF[choice]
    assert manifest.teachers == (teachers if choice in ("distilled", "averaged") else ())
    assert manifest.config_sha256 == config.digest()
    held_out = evaluated.candidates[choice].held_out
    assert manifest.metrics == {f"held_out_{name}": m for name, m in held_out.items()}
    assert {metric.count for metric in held_out.values()} == {5}
    assert manifest.golden == golden_vectors(tiny_encoder, unpack_adapter(payload))

    bundle = read_bundle(Path(config.serving_store), config.tenant, report.bundle.bundle)
    assert live_bundle(Path(config.serving_store), config.tenant) == report.bundle.bundle
    assert bundle.manifest == manifest and bundle.adapter_payload == payload
    assert [faq.faq_id for faq in bundle.faqs] == [f"faq-{n}" for n in range(5)]
    assert len(bundle.vectors) == report.bundle.index_vectors == 5
    assert bundle.threshold == report.bundle.threshold > -1
    assert (bundle.threshold, bundle.calibration) == (evaluated.threshold, evaluated.calibration)
    assert bundle.scorer == (folder / "scorer.safetensors").read_bytes()
    assert torch.equal(bundle.vectors, unpack_scorer(bundle.scorer).prototypes)
    assert bundle.calibration is not None and bundle.calibration.rows == 5 + 1  # out of scope
    assert report.bundle.calibration == bundle.calibration
    bound = f"(95% bound {100 * bundle.calibration.error_bound:.1f}%)"
    assert "% of answers wrong (" in lines[8] and bound in lines[8]
    assert len(lines) == len(STAGES)
    assert all(
        f"{config.tenant} {stage}:" in told for stage, told in zip(STAGES, lines, strict=True)
    )


def test_few_rows_are_all_trained_on_and_judged_in_folds(
    configured: Configured, registry: Running
) -> None:
    config = configured(
        "founder",
        splits=("train",) * 3 + ("test",),
        out_of_scope=("train",),
        run={
            "training": {"method": "adapter_distillation"},
            "teachers": {"leave_one_out": True},
        },
    )
    report, lines = run_through(config)
    held_out, distil = report.evaluate.held_out, report.distil
    assert held_out is not None and held_out.rows == 15 and report.evaluate.folds == 2
    assert "on 15 rows, 2 folds" in lines[4] and "on 15 held-out rows" in report.decide.reason
    assert {
        metric.count
        for one in report.evaluate.candidates.values()
        for metric in one.held_out.values()
    } == {15}
    teachers = report.fetch_teachers.teachers
    assert tuple(distil.weights) == tuple(distil.leave_one_out) == teachers
    assert sum(distil.weights.values()) == pytest.approx(1.0)
    assert report.bundle.threshold > -1 and report.bundle.index_vectors == 5
    calibration = report.evaluate.calibration
    assert calibration is not None and calibration.rows == 15 + 1  # not one a fold
    manifest = registry.client.get(VersionRef.parse(report.publish.name))
    assert manifest.metrics["held_out_mrr"].count == 15
    # The folds' adapters are the owner's means of judging: they stay.
    assert len(list(registry.client.list(tenant="founder", latest_only=False))) == 1


def test_without_teachers_the_own_adapter_competes_with_the_bare_encoder_alone(
    configured: Configured, empty_registry: Running
) -> None:
    report, _ = run_through(
        configured("gilder", splits=("train", "test"), address=empty_registry.address)
    )
    held_out = report.evaluate.held_out
    assert held_out is not None and held_out.rows == 5
    assert held_out.own == held_out.distilled and held_out.gain == 0
    assert report.distil.weights == {} and set(report.evaluate.candidates) == {"own", "bare"}


def test_faqs_alone_with_teachers_are_distilled(configured: Configured, registry: Running) -> None:
    report, _ = run_through(configured("glover", splits=()))
    assert not report.extract.trained and report.distil.trained
    assert report.decide.choice == "distilled"
    assert (report.evaluate.held_out, report.evaluate.test) == (None, None)
    assert report.evaluate.rows == 0 and "no held-out row" in report.decide.reason
    assert report.evaluate.calibration is None
    manifest = registry.client.get(VersionRef.parse(report.publish.name))
    assert manifest.teachers == report.fetch_teachers.teachers and manifest.metrics == {}
    assert report.distil.steps == 0  # the average as it is
    assert sum(report.distil.weights.values()) == pytest.approx(1.0)
    assert report.distil.leave_one_out == {} and report.evaluate.folds == 0


@pytest.mark.parametrize("data", [{}, {"answers": False}])
def test_questions_alone_without_teachers_get_an_adapter_near_identity(
    configured: Configured, empty_registry: Running, tiny_encoder: Encoder, data: dict[str, bool]
) -> None:
    report, lines = run_through(
        configured("hooper", splits=(), address=empty_registry.address, **data)
    )
    assert not report.extract.trained and not report.distil.trained
    assert report.decide.choice == "bare" and set(report.evaluate.candidates) == {"bare"}
    assert "no other candidate" in report.decide.reason
    manifest = empty_registry.client.get(VersionRef.parse(report.publish.name))
    assert (manifest.method, manifest.teachers) == ("untrained", ())
    assert manifest.privacy == UNTRAINED_PRIVACY and "No row trained it" in manifest.privacy
    adapter = unpack_adapter(payload_of(empty_registry, report))
    texts = ["where is my kite", "hello"]
    moved = tiny_encoder.embed_texts(texts, adapter) - tiny_encoder.embed_texts(texts)
    assert float(moved.norm(dim=1).max()) < 0.01
    assert "nothing is labelled" in lines[2] and "no teachers" in lines[3]
    assert "nothing held out" in lines[4]


def test_questions_without_answers_are_distilled_on_their_own_texts(
    configured: Configured, registry: Running
) -> None:
    report, _ = run_through(configured("ironmonger", splits=(), answers=False))
    assert report.distil.trained
    adapter = unpack_adapter(payload_of(registry, report))
    assert all(bool(p.isfinite().all()) for p in adapter.parameters())


def test_what_was_published_and_bundled_names_the_right_things(configured: Configured) -> None:
    report, _ = run_through(configured("roper"))
    assert isinstance(report.publish, Published) and isinstance(report.bundle, Bundled)
    assert report.bundle.bundle.startswith(VersionRef.parse(report.publish.name).version)
