"""What the drills that need Ray make of what they see, without Ray."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from adapterdistill.actors.cluster import OwnCluster
from adapterdistill.actors.onboarding import write_report
from adapterdistill.drills.catalogue import DRILLS
from adapterdistill.drills.drill import Outcome, run_drill
from adapterdistill.drills.endpoint import kill
from adapterdistill.drills.onboarding import on_ray
from adapterdistill.errors import TrainingError
from adapterdistill.testbed import endpoint, owner_site
from adapterdistill.testbed.owner_site import Site, onboard_here


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver trains in this process, and is spared when it is to be killed."""
    cluster = OwnCluster(pid=0, address="", dashboard="", folder="", environment={})

    @contextmanager
    def driver(_: Site, config: dict[str, Any]) -> Iterator[Any]:
        write_report(*onboard_here(config))
        ended = {"returncode": 0, "poll": lambda: None, "wait": lambda timeout: 0}
        yield SimpleNamespace(**ended)

    monkeypatch.setattr(owner_site, "start_own_cluster", lambda *_, **__: cluster)
    monkeypatch.setattr(owner_site, "stop_own_cluster", lambda *_, **__: None)
    monkeypatch.setattr(on_ray, "_titled", lambda *_: [])
    monkeypatch.setattr(on_ray, "driver_of", driver)
    monkeypatch.setattr(on_ray, "_VICTIMS", ("driver",))
    monkeypatch.setattr(on_ray, "_MOMENTS", {"extracted": 0.01})
    monkeypatch.setattr(on_ray, "_kill", lambda _: None)


def test_a_second_submission_that_makes_another_adapter_is_found_out(
    without_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, seeds = Site.config, iter(range(9))

    def other_each_time(self: Site, work: str, num_workers: int) -> dict[str, Any]:
        made = config(self, work, num_workers)
        return made | {"training": made["training"] | {"seed": next(seeds)}}

    monkeypatch.setattr(Site, "config", other_each_time)
    found = run_drill(DRILLS["kill-owner"], seed=0)
    assert "the adapter is another than that of a run without the fault" in found.findings


def test_a_victim_that_has_ended_already_is_no_fault() -> None:
    with psutil.Popen([sys.executable, "-c", ""]) as process:
        while process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        with pytest.raises(TrainingError, match="this shows nothing"):
            on_ray._kill(process)


def served(monkeypatch: pytest.MonkeyPatch, **measured: Any) -> Outcome:
    """The drill of a server of which this was measured."""

    @contextmanager
    def deployed(*_: object, **__: object) -> Iterator[Any]:
        yield type("Server", (), {"address": "", "kill_a_replica": None})

    monkeypatch.setattr(kill, "kill_sections", lambda figures: ())
    found = {"wrong": [], "failed_after_retries": 0, "seconds_until_full_service": 2.5}
    monkeypatch.setattr(endpoint, "deployed", deployed)
    monkeypatch.setattr(kill, "measure_kill", lambda *_, **__: found | measured)
    return run_drill(DRILLS["kill-serve-replica"], seed=0)


def test_a_server_that_answers_all_rightly_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert served(monkeypatch) == Outcome(2.5)


@pytest.mark.parametrize(
    ("measured", "finding"),
    [
        ({"wrong": ["names another tenant"]}, "a wrong answer: it names another tenant"),
        ({"failed_after_retries": 3}, "3 queries failed for good"),
    ],
)
def test_wrong_and_lost_answers_are_found_out(
    monkeypatch: pytest.MonkeyPatch, measured: dict[str, Any], finding: str
) -> None:
    assert served(monkeypatch, **measured).findings == (finding,)
