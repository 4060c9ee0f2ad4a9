"""What the drill of a lost registry makes of what the onboarding says, without one."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adapterdistill.actors.stages import STAGES
from adapterdistill.drills.onboarding import resuming
from adapterdistill.drills.onboarding.resuming import Moment, lose_registry
from adapterdistill.errors import TrainingError

AWAY = "error [REGISTRY_UNAVAILABLE]: no answer (exit code 6)"
SECONDS = dict.fromkeys(STAGES, 0.0) | {"distil": 60.0, "publish": 0.01}
Ends = list[tuple[int, str]]


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Ends:
    """Exit status and last words of each onboarding in turn, to be filled."""
    ends: Ends = []
    report = SimpleNamespace(stage_seconds=lambda: dict.fromkeys(STAGES, 0.0))
    server = SimpleNamespace(address="127.0.0.1:1", process=SimpleNamespace(kill=lambda: None))

    @contextmanager
    def serving(*_: Any) -> Iterator[Any]:
        yield server

    @contextmanager
    def driver(*_: Any) -> Iterator[Any]:
        status, words = ends.pop(0)
        yield SimpleNamespace(
            wait_for=lambda moment: None, ended=lambda: status, last_words=lambda: words
        )

    for name, stand_in in {
        "_PATIENCE_S": 0.0,
        "make_owner": lambda folder: None,
        "undisturbed": lambda run: SimpleNamespace(report=report),
        "taught": serving,
        "registry_process": serving,
        "driver": driver,
        "made": lambda *_: None,
        "differences": lambda *_: ["another adapter"],
    }.items():
        monkeypatch.setattr(resuming, name, stand_in)
    return ends


@pytest.mark.parametrize(
    ("ended", "findings"),
    [
        ([(0, "")], ()),
        ([(6, AWAY), (0, "")], ()),
        (
            [(1, "Traceback"), (0, "")],
            ("the registry was away, and this was said: Traceback",),
        ),
    ],
)
def test_the_second_run_must_end_as_the_undisturbed_one_and_the_first_say_why_not(
    tmp_path: Path, ends: Ends, ended: Ends, findings: tuple[str, ...]
) -> None:
    ends += ended
    found = lose_registry(tmp_path, random.Random(0))
    assert found.findings == (*findings, "another adapter") and not ends


def test_a_second_run_that_fails_is_told(tmp_path: Path, ends: Ends) -> None:
    ends += [(6, AWAY), (6, AWAY)]
    with pytest.raises(TrainingError, match="failed for good"):
        lose_registry(tmp_path, random.Random(0))


def test_moments_fall_into_long_stages_mostly_and_into_short_ones_too() -> None:
    report: Any = SimpleNamespace(stage_seconds=lambda: SECONDS)
    draw = random.Random(0)
    moments = [Moment.drawn(draw, report, last="publish") for _ in range(400)]
    stages = [STAGES[moment.stage] for moment in moments]
    assert 200 < stages.count("distil") < 260 and stages.count("publish") > 10
    assert "bundle" not in stages
    assert all(0 <= m.after_s <= SECONDS[STAGES[m.stage]] for m in moments)
