"""The drill of isolation at its smallest: on the app alone, with a real registry."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from adapterdistill.actors.cluster import free_port
from adapterdistill.backbone import Encoder
from adapterdistill.drills.endpoint.control import control
from adapterdistill.drills.endpoint.hazards import STEPS, WITHIN_S, Hazards, Timeline
from adapterdistill.drills.endpoint.isolation import (
    Seen,
    isolation_faults,
    look,
    measure_part,
    publish,
    second_versions,
)
from adapterdistill.drills.endpoint.report import isolation_sections
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.serve.engine.withdrawals import WithdrawalFollower
from adapterdistill.testbed.answers import Question
from adapterdistill.testbed.http_load import Reply
from tests.contract.running_registry import Running
from tests.unit.bench.test_endpoint import Served, running, serve_samples


@dataclass
class Changing:
    """Served samples, each with a second version, and what changes them."""

    served: Served
    hazards: Hazards


@pytest.fixture
def changing(tiny_encoder: Encoder, tmp_path: Path) -> Iterator[Changing]:
    store = tmp_path / "store"
    store.mkdir()
    served, registry = serve_samples(tiny_encoder, store, slots=5), Running(tmp_path / "registry")
    pairs = second_versions(store, served.banks, tiny_encoder, len(served.banks))
    for tenant, (_, second) in pairs.items():
        served.answers.add(tenant, second)
    publish(store, pairs, registry.client)
    follower = WithdrawalFollower(
        served.engine, lambda: RegistryClient(registry.address, timeout_s=5)
    )
    follower.start()
    hazards = Hazards(store, registry.client, list(pairs), pairs, set(), every_s=0.005)
    yield Changing(served, hazards)
    follower.stop()
    follower.join(timeout=10)
    registry.close()


def test_all_that_happens_to_tenants_makes_no_answer_wrong(changing: Changing) -> None:
    served = changing.served
    with running(served, free_port()) as address:
        part = measure_part(
            address, changing.hazards, served.banks, served.banks, served.answers, requests=800
        )
    assert part["wrong"] == part["failed"] == {}
    assert part["steps"].keys() == set(STEPS)
    assert {"200", "410"} <= set(part["statuses"])
    assert served.engine.paging.evictions > 0


def test_the_check_notices_every_answer_made_wrong_and_no_right_one(changing: Changing) -> None:
    served = changing.served
    found = control(served.encoder, served.store, served.banks, served.answers)
    assert len(found) == 8
    for kind, made in found.items():
        assert made["noticed"] == (0 if kind == "right" else made["made"]), kind
        assert made["made"] > 50


def test_what_was_right_may_come_until_shortly_after_and_nothing_before_it_is() -> None:
    line = Timeline()
    line.begin("one", frozenset({"old"}), 10.0)
    line.begin("one", frozenset({"new"}), 20.0)
    line.begin("one", frozenset({"410"}), 30.0)
    assert line.late_s("one", "old", 11.0, 12.0) == 0
    assert line.late_s("one", "new", 19.0, 19.9) == float("inf")
    assert line.late_s("one", "new", 19.0, 20.1) == 0
    assert line.late_s("one", "old", 23.0, 23.1) == 3
    assert line.late_s("one", "new", 31.0, 31.1) == 1
    assert line.late_s("one", "410", 99.0, 99.1) == 0
    line.begin("one", frozenset({"old"}), 40.0)
    assert line.late_s("one", "old", 31.0, 41.0) == 0


def test_an_answer_by_a_version_long_withdrawn_is_wrong_and_so_is_an_early_refusal(
    tiny_encoder: Encoder, tmp_path: Path
) -> None:
    served = serve_samples(tiny_encoder, tmp_path)
    tenant = served.banks[0].tenant
    nowhere = RegistryClient("127.0.0.1:1")
    hazards = Hazards(tmp_path, nowhere, [tenant], {}, set(), every_s=1)
    [(version, alone)] = served.answers.versions(tenant).items()
    text = served.answers.texts(tenant)[0]
    result = alone.result(text)
    hazards.timeline.begin(tenant, frozenset({"410"}), 1e9)

    def checked(status: int, sent: float) -> tuple[Counter[str], Counter[str]]:
        answer = {"tenant": tenant, "adapter": {"version": version}, "results": [result]}
        body = json.dumps(answer, separators=(",", ":")).encode()
        seen = Seen()
        look(
            Question(tenant, (text,)),
            Reply(status, body, sent, 0.01),
            served.answers,
            hazards,
            seen,
        )
        return seen.wrong, seen.failed

    assert checked(200, 1e9 + WITHIN_S - 1) == (Counter(), Counter())
    assert checked(200, 1e9 + WITHIN_S + 1)[0].keys() == {"comes from a version that is not live"}
    assert checked(410, 1e9 - 1)[1] == {"410": 1}
    assert checked(410, 1e9)[1] == Counter()


def test_a_run_in_which_too_little_happened_proves_nothing() -> None:
    part = {
        "replicas": 1, "requests": 10, "seconds": 1.0, "slots": 2, "steps": {"swaps": 1},
        "changing_tenants": {"swapped": 2}, "both_versions_seen": 1, "canary_answers": 0,
        "statuses": {"200": 10}, "last_answer_of_before_s": {}, "farthest_from_alone": 0.0,
        "wrong": {"is odd": 1}, "failed": {"503": 2}, "paging": {"loads": 3, "evictions": 0},
    }  # fmt: skip
    found = {"parts": [part], "control": {"through another": {"made": 2, "noticed": 1}}}
    told = list(isolation_faults({"isolation": found}))
    assert len(told) == 5 + len(STEPS)
    report = "".join(isolation_sections({"tenants": 8, "isolation": found}))
    assert "is odd 1" in report and "503 2" in report
