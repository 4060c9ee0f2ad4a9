"""Methods that make a cheaper form of the adapter: made, judged, bundled and served."""

from pathlib import Path
from typing import Any

import pytest

from actors.data_owner import DataOwner
from adapterdistill.backbone import load_encoder
from adapterdistill.bundle import read_bundle
from adapterdistill.checkpoint import prove_active
from adapterdistill.distill.forms import unpack_form
from adapterdistill.manifest import VersionRef
from serve.engine import Engine, SearchAnswer, SearchItem
from tests.contract.running_registry import Running
from tests.owner_runs import Configured, run_through

STEPS = {"steps": 4, "learning_rate": 0.005, "most_lost": 1.0}
METHODS: dict[str, dict[str, Any]] = {
    "conditional": {"conditional": {"speed": 2.0, **STEPS}},
    "multitask_kd": {"light": {"layers": 1, "heads": 2, **STEPS}},
}


def run_with(method: str, **changed: Any) -> dict[str, Any]:
    (section, settings), *_ = METHODS[method].items()
    return {"training": {"method": method}, section: settings | changed}


@pytest.mark.parametrize("splits", [("train",) * 3 + ("test",), ("train", "valid", "test")])
@pytest.mark.parametrize("method", METHODS)
def test_a_form_is_made_judged_and_served(
    configured: Configured,
    registry: Running,
    tiny_encoder_folder: Path,
    method: str,
    splits: tuple[str, ...],
) -> None:
    config = configured("fletcher", splits=splits, run=run_with(method))
    encoder = load_encoder(str(tiny_encoder_folder), dtype="float32", max_tokens=128)
    report, lines = run_through(config)
    made = report.lighten
    assert made.trained and made.form == method and made.steps > 0
    assert f"{method} is served (top-1 lost" in lines[7]
    assert made.held_out is not None and report.evaluate.held_out is not None
    assert made.held_out.rows == report.evaluate.held_out.rows
    assert made.held_out.adapter == getattr(report.evaluate.held_out, report.decide.choice)
    assert made.test is not None and made.test.rows == 5

    # What is published is the adapter, as with the plain method.
    manifest = registry.client.get(VersionRef.parse(report.publish.name))
    assert manifest.kind == "bottleneck"
    assert manifest.method in ("own_adapter", "adapter_distillation")

    store = Path(config.serving_store)
    bundle = read_bundle(store, "fletcher", report.bundle.bundle)
    assert bundle.form is not None and bundle.form.proven.kind == method
    assert bundle.threshold == report.bundle.threshold == made.threshold
    form = unpack_form(bundle.form.payload, encoder)
    prove_active(encoder, form.embedder, bundle.form.proven.golden)

    engine = Engine(encoder, store)
    assert engine.refresh().loaded == ("fletcher",)
    [answer] = engine.search([SearchItem("fletcher", "my lamp is broken", top_k=5)])
    assert isinstance(answer, SearchAnswer)
    assert (answer.form, answer.version) == (method, manifest.version)
    query = encoder.embed_texts(["my lamp is broken"], form.embedder)[0]
    expected = {
        faq.faq_id: float(query @ vector)
        for faq, vector in zip(bundle.faqs, bundle.vectors, strict=True)
    }
    assert {r.faq_id: r.score for r in answer.ranked} == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_form_that_loses_too_much_is_not_served(configured: Configured, method: str) -> None:
    config = configured("founder", run=run_with(method))
    owner = DataOwner(config)
    lost = owner.lighten().held_out
    assert lost is not None
    # The same run under a limit just below what the form loses; nothing lost cannot be refused.
    if lost.lost <= 0:
        pytest.skip("the form lost nothing")
