"""A run's numbers: in its folder always, handed to trackers, and never a text among them."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

import adapterdistill
from adapterdistill.actors import tracking
from adapterdistill.actors.records import Distilled
from adapterdistill.actors.stages import STAGES
from adapterdistill.actors.tracking import Numbers
from adapterdistill.config import OnboardConfig, parse_config
from adapterdistill.errors import ConfigError, MissingExtraError
from tests.owner_runs import Configured, folder_of, run_through

PLANTED = "zorblatt"


def rows(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / tracking.FILE).read_text().splitlines()]


def test_a_run_keeps_its_losses_scores_and_seconds_and_no_text(configured: Configured) -> None:
    config = configured(word=PLANTED)
    report, _ = run_through(config)
    folder = folder_of(config)
    found = list(tracking.read(folder))
    whole = {one.stage: one.values for one in found if one.step is None}
    assert whole.keys() == {*STAGES}
    for stage in ("extract", "distil"):
        losses = [one.values["loss"] for one in found if one.stage == stage and one.step]
        assert len(losses) == whole[stage]["steps"] and all(map(math.isfinite, losses))
        assert whole[stage]["seconds"] == report.result_of(stage).seconds
    scores = [
        one.values["held_out_score"]
        for one in found
        if one.stage == "extract" and "held_out_score" in one.values
    ]
    assert len(scores) == 4  # before the first of six steps, and after every second
    assert max(scores) == pytest.approx(report.extract.held_out_score)
    chosen = report.evaluate.candidates[report.evaluate.choice]
    name = f"{report.evaluate.choice}_held_out_top1"
    assert whole["evaluate"][name] == chosen.held_out["top1"].value
    text = (folder / tracking.FILE).read_text()
    assert PLANTED not in text and "kite" not in text and "faq-" not in text
    assert all(
        isinstance(value, float | int)
        for row in rows(folder)
        for name, value in row.items()
        if name != "stage"
    )


def test_callbacks_get_every_number_once_and_a_finished_run_tells_nothing_more(
    configured: Configured,
) -> None:
    config = configured()
    told: list[Numbers] = []
    adapterdistill.onboard(config, callbacks=[told.append])
    assert sorted(map(repr, told)) == sorted(map(repr, tracking.read(folder_of(config))))
    steps = [one.step for one in told if one.stage == "extract"]
    assert steps == [*range(len(steps) - 1), None]
    before = len(told)
    adapterdistill.onboard(config, callbacks=[told.append])
    assert len(told) == before


def test_a_tracker_that_fails_is_told_without_its_message_and_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: Numbers) -> None:
        raise OSError(PLANTED)

    told: list[Numbers] = []
    tracking.append(tmp_path, "extract", [(None, {"loss": 0.5})])
    tracking.follow(tmp_path, (broken, told.append))
    assert [one.values for one in told] == [{"loss": 0.5}]
    assert capsys.readouterr().err == "tracking failed: OSError\n"


@pytest.mark.parametrize(
    ("stage", "values"),
    [
        ("extract", {"where is my kite?": 1.0}),
        ("where is it?", {"loss": 1.0}),
        ("extract", {"loss": PLANTED}),
        ("extract", {"loss": True}),
    ],
)
def test_what_is_no_number_is_refused_without_being_quoted(
    tmp_path: Path, stage: str, values: dict[str, float]
) -> None:
    with pytest.raises(ValueError, match="numbers, under names of the code") as refused:
        tracking.append(tmp_path, stage, [(1, values)])
    assert PLANTED not in str(refused.value) and "kite" not in str(refused.value)
    assert not (tmp_path / tracking.FILE).exists()


def test_numbers_that_are_not_finite_are_left_out_and_a_torn_line_is_not_read(
    tmp_path: Path,
) -> None:
    tracking.append(tmp_path, "distil", tracking.of_training([math.nan, 0.5], [(0, 0.25)]))
    with (tmp_path / tracking.FILE).open("a") as file:
        file.write('{"stage": "dis')
    assert [(one.step, one.values) for one in tracking.read(tmp_path)] == [
        (0, {"held_out_score": 0.25}),
        (1, {}),
        (2, {"loss": 0.5}),
    ]
    tracking.append(tmp_path, "distil", [(3, {"loss": 0.25})])
    assert [one.step for one in tracking.read(tmp_path)] == [0, 1, 2, 3]
    assert list(tracking.read(tmp_path / "absent")) == []


def test_a_step_is_tracked_as_it_is_done_and_once_where_a_training_is_resumed(
    configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured()
    seen: list[set[int]] = []

    class Killed(BaseException):
        pass

    def killed(tracked: Any, *arguments: Any) -> None:
        append(tracked, *arguments)
        seen.append(tracking.steps_of(tracked, "extract"))
        if len(seen) == 3:
            raise Killed

    append = tracking.append
    with monkeypatch.context() as patch:
        patch.setattr(
            "adapterdistill.actors.tracking.append",
            lambda folder, stage, rows: (killed if stage == "extract" else append)(
                folder, stage, rows
            ),
        )
        with pytest.raises(Killed):
            run_through(config)
    assert seen == [{1}, {1, 2}, {1, 2, 3}]
    told: list[Numbers] = []
    adapterdistill.onboard(config, callbacks=[told.append])
    assert [one.step for one in told if one.stage == "extract"] == [*range(7), None]


def test_names_of_other_tenants_are_no_numbers() -> None:
    teacher = f"tenants/brook/adapters/faq/versions/{'a' * 64}"
    record = Distilled(trained=True, steps=3, held_out_score=0.5, weights={teacher: 1.0})
    assert tracking.of_record(record) == {
        "seconds": 0.0,
        "peak_rss_mb": 0.0,
        "best_step": 0,
        "steps": 3,
        "best_held_out_score": 0.5,
        "training_peak_rss_mb": 0.0,
    }


def tracked(config: OnboardConfig, **places: str) -> OnboardConfig:
    return parse_config(config.model_dump() | {"tracking": places}, source="test")


def test_a_place_whose_library_is_not_installed_is_refused_before_training(
    configured: Configured, tmp_path: Path
) -> None:
    plain = configured()
    for key in ("tensorboard", "mlflow"):
        config = tracked(plain, **{key: str(tmp_path / "tracked")})
        with pytest.raises(MissingExtraError, match=rf"adapterdistill\[{key}\]"):
            run_through(config)
        assert config.digest() == plain.digest()  # it decides nothing


def test_mlflow_may_be_a_folder_or_a_server(configured: Configured) -> None:
    plain = configured()
    server = "http://127.0.0.1:5000"
    assert tracked(plain, mlflow=server).tracking.mlflow == server
    assert str(tracked(plain, mlflow="tracked").tracking.mlflow).endswith("/tracked")
    with pytest.raises(ConfigError, match=r"tracking\.mlflow"):
        tracked(plain, mlflow="$NO_SUCH_VARIABLE/tracked")
