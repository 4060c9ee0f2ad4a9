"""A method added by one file (`tests.toy_method`) and one line of the table."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapterdistill.actors.preflight import preflight
from adapterdistill.backbone import load_encoder
from adapterdistill.checkpoint import prove_active
from adapterdistill.config import load_toml
from adapterdistill.distill.adapter_distillation import DistilTeachers
from adapterdistill.distill.batches import TrainingRows
from adapterdistill.distill.method import StageTexts, Start
from adapterdistill.distill.methods import METHODS
from adapterdistill.distill.objective import Objective, OwnAdapter, Scored
from adapterdistill.distill.variants import unpack_variant
from adapterdistill.errors import ConfigError
from adapterdistill.evaluation.choice import Choice, choose
from adapterdistill.manifest import VersionRef
from adapterdistill.serve.engine.engine import Engine, SearchAnswer, SearchItem
from adapterdistill.store.bundle import read_bundle
from tests.contract.running_registry import Running
from tests.owner_runs import Configured, config_toml, run_through
from tests.toy_method import Words

RUN = {"training": {"method": "words"}, "words": {"steps": 4, "most_lost": 1.0}}


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "words", Words())


@pytest.mark.usefixtures("words")
def test_a_tenant_is_onboarded_and_served_with_a_method_of_one_file(
    configured: Configured, tmp_path: Path, tiny_encoder_folder: Path
) -> None:
    (tmp_path / "run.toml").write_text(config_toml(configured("fletcher", run=RUN)))
    config = load_toml(tmp_path / "run.toml")
    foreseen = preflight(config).estimate
    assert foreseen is not None and foreseen.stage_seconds["variant"] > 0
    report, lines = run_through(config)
    assert report.variant.trained and report.variant.served == "words"
    assert report.variant.steps == 4
    assert "words is served (top-1 lost" in lines[7]

    encoder = load_encoder(str(tiny_encoder_folder), dtype="float32", max_tokens=64)
    bundle = read_bundle(Path(config.serving_store), "fletcher", report.bundle.bundle)
    assert bundle.variant is not None and bundle.variant.proven.kind == "words"
    variant = unpack_variant(bundle.variant.payload, encoder)
    prove_active(encoder, variant.embedder, bundle.variant.proven.golden)
    engine = Engine(encoder, Path(config.serving_store))
    engine.refresh()
    [answer] = engine.search([SearchItem("fletcher", "my lamp is broken", top_k=1)])
    assert isinstance(answer, SearchAnswer) and answer.variant == "words"


@pytest.mark.usefixtures("words")
@pytest.mark.parametrize(
    ("run", "said"),
    [
        ({"words": {"stepps": 4}}, "words.stepps: is not a known key"),
        ({"words": {"steps": 0.5}}, "words.steps: "),
        ({"light": {}}, r"\[light\] is for another method than words"),
    ],
)
def test_its_sections_are_checked_as_those_of_the_others(
    configured: Configured, run: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        configured(run={"training": {"method": "words"}} | run)


def test_without_the_line_the_method_is_unknown(configured: Configured) -> None:
    with pytest.raises(ConfigError, match=r"training\.method: Input should be 'averaged_teachers'"):
        configured(run=RUN)


class OwnRowsAgain(DistilTeachers):
    """A method of stage 2 whose student learns the own rows once more, from no teacher."""

    def objective(self, start: Start, rows: TrainingRows, texts: StageTexts) -> Objective:
        assert start.initial is not None
        return OwnAdapter(start.encoder, start.initial)

    def teaching(self, objective: Objective, scored: Sequence[Scored]) -> None:
        return None


def _choose_the_student(*given: Any, **named: Any) -> Choice:
    return replace(choose(*given, **named), chosen="distilled")


def test_a_method_may_train_the_student_of_stage_2_instead(
    configured: Configured, registry: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "again", OwnRowsAgain())
    monkeypatch.setattr("adapterdistill.evaluation.arrival.choose", _choose_the_student)
    report, _ = run_through(configured("fletcher", run={"training": {"method": "again"}}))
    assert report.distil.trained and report.distil.weights == {}
    assert report.variant.served == "adapter"
    manifest = registry.client.get(VersionRef.parse(report.publish.name))
    assert manifest.method == "again"
