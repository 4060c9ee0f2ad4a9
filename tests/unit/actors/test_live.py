"""The live version competes with a later run's candidates, on rows that did not train it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from adapterdistill.actors.live import Live, live_version
from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder
from adapterdistill.config import OnboardConfig
from adapterdistill.evaluation.choice import Prior, choose, judge, posterior_mean
from adapterdistill.manifest import VersionRef
from adapterdistill.store.release import live_bundle
from tests.contract.running_registry import Running
from tests.owner_runs import run_through
from tests.unit.actors.test_what_is_served import Arriving, arriving, queries_of, ruinous

__all__ = ["arriving"]


@pytest.fixture
def spoilt(tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Every candidate of a run ranks by chance."""

    def adapter(*_: object) -> BottleneckAdapter:
        return ruinous(tiny_encoder)

    with monkeypatch.context() as patch:
        patch.setattr("adapterdistill.distill.stage.trained_by", adapter)
        patch.setattr("adapterdistill.actors.data_owner.untrained", adapter)
        patch.setattr(
            "adapterdistill.actors.data_owner.average",
            lambda _, teachers, *__, **___: (adapter(), dict.fromkeys(teachers, 0.5)),
        )
        yield patch


def in_workspace_of(first: OnboardConfig, later: OnboardConfig) -> OnboardConfig:
    return later.model_copy(update={"workspace": first.workspace})


def test_the_live_version_stays_where_new_rows_show_that_it_is_better(
    arriving: Arriving, registry: Running, request: pytest.FixtureRequest
) -> None:
    first = arriving("a", *queries_of(2, "train"))
    before, _ = run_through(first)
    request.getfixturevalue("spoilt")
    config = in_workspace_of(first, arriving("b", *queries_of(6, "train")))
    report, lines = run_through(config)
    assert report.decide.choice == "live" and report.publish.name == before.publish.name
    # The FAQs' vectors are those of all rows that there are now.
    assert live_bundle(Path(config.serving_store), "fletcher") == report.bundle.bundle
    assert report.bundle.bundle != before.bundle.bundle
    # 4 of 6 queries of each of 6 words did not train it.
    assert report.evaluate.rows == 24 and "on 24 held-out rows" in report.decide.reason
    [manifest] = registry.client.list(tenant="fletcher", latest_only=False)
    assert manifest.ref == VersionRef.parse(before.publish.name)
    assert [run_through(config)[0].bundle.bundle] == [report.bundle.bundle]
    assert any("live" in line for line in lines)


def test_rows_of_a_run_in_which_it_stayed_did_not_train_it(
    arriving: Arriving, tiny_encoder: Encoder, request: pytest.FixtureRequest
) -> None:
    first = arriving("a", *queries_of(2, "train"))
    run_through(first)
    request.getfixturevalue("spoilt")
    config = in_workspace_of(first, arriving("b", *queries_of(6, "train")))
    stayed, _ = run_through(config)
    again = config.training.model_copy(update={"extract_steps": 7})
    report, _ = run_through(config.model_copy(update={"training": again}))
    for one in (stayed, report):
        assert one.decide.choice == "live" and one.evaluate.rows == 24
        # Rows that trained it say nothing of how often its answers are right.
        assert one.evaluate.calibration is not None and one.evaluate.calibration.rows == 24
    live = live_version(config, tiny_encoder)
    assert live is not None
    texts = [query.text for query in queries_of(6, "train")]
    assert live.has_seen(tiny_encoder.tokenize(texts)).count(True) == 12


def test_without_new_rows_the_new_version_replaces_it(arriving: Arriving) -> None:
    config = arriving("a", *queries_of(3, "train"))
    run_through(config)
    again = arriving("b", *queries_of(3, "train"), run={"training": {"bottleneck_size": 3}})
    report, _ = run_through(in_workspace_of(config, again))
    assert "live" not in report.evaluate.candidates


def test_a_few_new_rows_do_not_keep_the_live_version(arriving: Arriving) -> None:
    queries = queries_of(3, "train")
    config = arriving("a", *queries[:-9])
    run_through(config)
    report, _ = run_through(in_workspace_of(config, arriving("b", *queries)))
    assert "live" not in report.evaluate.candidates and report.evaluate.calibration is not None


def test_a_version_that_cannot_be_compared_takes_no_part(
    arriving: Arriving, registry: Running, tiny_encoder: Encoder, tmp_path: Path
) -> None:
    config = arriving("a", *queries_of(2, "train"))
    assert live_version(config, tiny_encoder) is None  # nothing is live yet
    report, _ = run_through(config)
    found = live_version(config, tiny_encoder)
    assert found is not None and found.manifest.ref.name == report.publish.name
    # The run that made it is of another workspace.
    elsewhere = config.model_copy(update={"workspace": str(tmp_path / "elsewhere")})
    assert live_version(elsewhere, tiny_encoder) is None
    registry.client.withdraw(VersionRef.parse(report.publish.name), "not wanted")
    assert live_version(config, tiny_encoder) is None


def test_rows_are_seen_by_their_tokens() -> None:
    live = Live(None, b"", frozenset({(1, 2), (3,)}))  # type: ignore[arg-type]
    assert live.has_seen([[1, 2], [2, 1], [3]]) == [True, False, True]


def test_rows_that_trained_a_candidate_say_nothing_of_it() -> None:
    prior = Prior(0.0, 0.05)
    seen = torch.tensor([-9.0, 0.2, 0.1, torch.nan])
    seen[0] = torch.nan
    found = judge(seen, prior)
    assert found.difference == pytest.approx(0.15) and found.error == pytest.approx(0.39 / 2**0.5)
    assert found.posterior == posterior_mean(found.difference, found.error, prior)
    unknown = choose(
        {"distilled": torch.ones(3), "live": torch.full((3,), torch.nan)},
        {"live": prior},
        reference="distilled",
    )
    assert unknown.chosen == "distilled" and unknown.judgements["live"].difference is None


def test_on_a_tie_the_live_version_stays_and_the_reference_comes_next() -> None:
    losses = {name: torch.ones(4) for name in ("distilled", "own", "live")}
    priors = {"own": Prior(0.0, 0.05), "live": Prior(0.0, 0.05)}
    assert choose(losses, priors, reference="distilled", incumbent="live").chosen == "live"
    assert choose(losses, priors, reference="distilled").chosen == "distilled"
    better = losses | {"distilled": torch.full((4,), 0.9)}
    assert choose(better, priors, reference="distilled", incumbent="live").chosen == "distilled"
