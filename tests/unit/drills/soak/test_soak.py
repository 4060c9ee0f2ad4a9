"""The soak's loop on the app alone, and its verdicts on samples that are made up: without Ray."""

import math
import os
import random
import statistics
import time
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import psutil
import pytest
import torch
from torch import Tensor

from adapterdistill.actors.cluster import free_port
from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import golden_vectors, pack_adapter
from adapterdistill.drills.endpoint.hazards import WITHIN_S
from adapterdistill.drills.soak.command import Asked, soak
from adapterdistill.drills.soak.report import (
    FLAT_MIB_PER_HOUR,
    MOST_BLOCKS,
    WARM_UP,
    aims,
    block_medians,
    markdown,
    more,
    roles_over_time,
    slope,
)
from adapterdistill.drills.soak.samples import (
    SOCKETS,
    Folders,
    Held,
    Sample,
    held_by,
    role_of,
    take_sample,
)
from adapterdistill.drills.soak.tenants import Tenants
from adapterdistill.store.bundle import read_bundle
from adapterdistill.store.release import live_bundle, set_live
from adapterdistill.testbed.answers import Alone, Question
from adapterdistill.testbed.faq_banks import put_bundle
from adapterdistill.testbed.http_load import Reply
from adapterdistill.testbed.random_adapters import random_adapters
from tests.unit.bench.test_endpoint import Served, running, serve_samples


def made_up(
    private_mib: list[float], *, every_s: float = 10.0, role: str = "replica"
) -> list[Sample]:
    """Samples in which one role's memory is this, and the others' stays."""
    flat = {name: Held(1, 100.0, 200.0, 30, 5) for name in ("registry", "replica", "soak")}
    return [
        Sample(place * every_s, flat | {role: Held(1, mib, 2 * mib, 30, 5)}, {"IDLE": 1}, {})
        for place, mib in enumerate(private_mib)
    ]


def found_of(samples: list[Sample], **changed: object) -> dict:
    rest = {
        "roles": {name: {"processes": 1, "fds": 30} for name in ("replica", "gcs")},
        "actors": {"ServeReplica": 1},
        "files": {"temporary": 2, "Ray's logs": 10},
    }
    return {
        "minutes": 1,
        "rate_per_s": 20,
        "environment": {},
        "onboardings": {"done": 3, "failed": [], "seconds": [9.0, 8.0, 10.0]},
        "queries": {
            "requests": 9, "statuses": {"200": 9}, "wrong": {},
            "p50_ms": 5.0, "p95_ms": 6.0, "p99_ms": 7.0,
        },
        "roles": roles_over_time(samples),
        "idle": {"before": rest, "after": rest},
        "kept_bytes": {"registry": {"before": 1 << 20, "after": 2 << 20}},
        "left": {"processes": [], "temporary": 0},
    } | changed  # fmt: skip


def missed(found: dict) -> list[str]:
    return [aim["aim"] for aim in aims(found) if not aim["met"]]


def test_a_slope_is_the_median_of_all_pairs_and_its_interval_holds_it() -> None:
    draw = random.Random(1)
    points = [(x / 7, 3.0 * x / 7 + draw.gauss(0, 0.5)) for x in range(25)]
    points[4] = (points[4][0], 1e6)  # one wild sample moves nothing
    brute = statistics.median((b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points, 2))
    found = slope(points)
    assert found is not None
    assert found["slope"] == pytest.approx(brute, abs=1e-3)
    assert found["low"] < 3.0 < found["high"]
    assert slope(points[:2]) is None


def test_blocks_hold_every_sample_once_and_are_not_more_than_the_samples_allow() -> None:
    for count in (2, 3, 7, 79, 80, 81, 360):
        blocks = block_medians(list(range(count)), [1.0] * count)
        assert len(blocks) == max(1, min(MOST_BLOCKS, count // 2))
    nine = block_medians([0, 1, 2, 3, 4, 5], [9, 9, 1, 1, 5, 5])
    assert nine == [(0.5, 9), (2.5, 1), (4.5, 5)]


def test_what_grows_in_the_warm_up_alone_is_flat() -> None:
    mib = [100.0 + min(place, 19) for place in range(100)]
    found = roles_over_time(made_up(mib))["replica"]
    assert WARM_UP == 0.2
    assert found["private_mib"]["per_hour"] == {"slope": 0, "low": 0, "high": 0}
    assert found["private_mib"]["start"] == found["private_mib"]["end"] == 119


def test_what_fills_up_is_seen_to_slow_down() -> None:
    found = roles_over_time(made_up([100 + math.log1p(place) for place in range(100)]))["replica"]
    thirds = [third["slope"] for third in found["private_mib"]["by_thirds"]]
    assert thirds[0] > thirds[1] > thirds[2] > 0


def test_a_role_that_comes_and_goes_has_no_slope() -> None:
    samples = made_up([100.0] * 20)
    del samples[15].roles["registry"]
    assert set(roles_over_time(samples)) == {"replica", "soak"}


@pytest.mark.parametrize("role", ["registry", "replica", "soak"])
def test_each_own_process_that_leaks_is_named(role: str) -> None:
    draw = random.Random(2)
    noise = [draw.gauss(0, 0.2) for _ in range(360)]
    flat = [100.0 + one for one in noise]
    an_hour = FLAT_MIB_PER_HOUR * 1.5
    leak = [mib + an_hour * place * 5 / 3600 for place, mib in enumerate(flat)]
    assert missed(found_of(made_up(flat, every_s=5, role=role))) == []
    (name,) = missed(found_of(made_up(leak, every_s=5, role=role)))
    assert role in name


def test_a_process_that_was_not_sampled_is_no_flat_one() -> None:
    found = found_of(made_up([100.0] * 100))
    del found["roles"]["registry"]
    assert len(missed(found)) == 1


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"queries": {"requests": 0, "statuses": {}, "wrong": {}}}, "queries"),
        ({"queries": {"requests": 2, "statuses": {"200": 1, "503": 1}, "wrong": {}}}, "failed"),
        ({"queries": {"requests": 2, "statuses": {"200": 2}, "wrong": {"x": 1}}}, "wrong"),
        ({"onboardings": {"done": 1, "failed": ["it ended"], "seconds": []}}, "onboardings that"),
        ({"onboardings": {"done": 0, "failed": [], "seconds": []}}, "onboardings meanwhile"),
        ({"left": {"processes": ["raylet"], "temporary": 0}}, "processes left"),
        ({"left": {"processes": [], "temporary": 3}}, "files left"),
    ],
)
def test_each_fault_misses_its_aim_alone(changed: dict, named: str) -> None:
    (name,) = missed(found_of(made_up([100.0] * 100), **changed))
    assert named in name


@pytest.mark.parametrize(
    ("kind", "more_of", "named"),
    [
        ("actors", {"ServeReplica": 1, "DataOwner": 1}, "actors"),
        ("actors", {"ServeReplica": 2}, "actors"),
        ("files", {"temporary": 3}, "files"),
        ("files", {"temporary": 2, "Ray's logs": 99}, None),  # logs stay
        ("roles", {"gcs": {"processes": 2, "fds": 30}}, "processes"),
        ("roles", {"replica": {"processes": 1, "fds": 31}}, "descriptors"),
        ("roles", {"gcs": {"processes": 1, "fds": 31}}, None),  # Ray's own
        ("roles", {"worker": {"processes": 1, "fds": 9}}, "processes"),
    ],
)
def test_what_is_more_at_rest_afterwards_is_a_leak(
    kind: str, more_of: dict, named: str | None
) -> None:
    found = found_of(made_up([100.0] * 100))
    found["idle"] = found["idle"] | {"after": found["idle"]["before"] | {kind: more_of}}
    names = missed(found)
    assert len(names) == bool(named) and all(str(named) in name for name in names)


def test_more_counts_by_how_many() -> None:
    assert more({"a": 1, "b": 2}, {"a": 3, "b": 1, "c": 1}) == {"a": 2, "c": 1}


def test_the_report_shows_what_is_missed() -> None:
    found = found_of(made_up([100.0 + place for place in range(100)]))
    text = markdown(found | {"aims": list(aims(found))})
    assert "**Missed: memory of the replica" in text
    found = found_of(made_up([100.0] * 100))
    assert "Every aim is met" in markdown(found | {"aims": list(aims(found))})


def test_processes_are_told_by_their_command_lines() -> None:
    for command, role in (
        (["ray::ServeReplica:adapterdistill:search"], "replica"),
        (["ray::IDLE"], "idle worker"),
        (["ray::DataOwner.extract"], "worker"),
        (["/x/raylet/raylet", "--agent=dashboard/agent.py ray::IDLE"], "raylet"),
        (["/x/gcs/gcs_server", "--log"], "gcs"),
        (["/x/python", "-m", "adapterdistill", "registry", "serve", "--root", "x"], "registry"),
        (["/x/python", "-m", "adapterdistill", "onboard", "--config", "x"], "onboarding"),
        (["ray::DashboardAgent"], "agents"),
        (["/x/python", "-m", "ray.scripts.scripts", "start", "--include-dashboard"], "head"),
        (["/x/python", "/x/dashboard/dashboard.py"], "dashboard"),
        (["sleep", "1"], "other"),
        ([], "other"),
    ):
        assert role_of(command) == role


def test_a_sample_counts_descriptors_and_files_and_survives_json(tmp_path: Path) -> None:
    folders = Folders(tmp_path / "t", tmp_path / "ray")
    logs = tmp_path / "ray/session_1/logs"
    for folder in (folders.temporary / "deep", logs):
        folder.mkdir(parents=True)
    (tmp_path / "ray/session_latest").symlink_to("session_1")
    before = take_sample(1.0, folders)
    (folders.temporary / "deep/left").touch()
    (logs / "worker.out").touch()
    (folders.temporary / "pymp-1").mkdir()
    (folders.temporary / "pymp-1/listener").touch()
    (logs.parent / "socket").touch()
    with (tmp_path / "open").open("w"):
        after = take_sample(2.0, folders)
    assert more(before.files, after.files) == {
        "temporary": 1, SOCKETS: 1, "Ray's logs": 1, "Ray's session but logs": 1,
    }  # fmt: skip
    assert after.roles["soak"].fds == before.roles["soak"].fds + 1
    assert Sample.of_json(after.as_json()) == after
    assert 0 < held_by(psutil.Process(os.getpid())).private_mib < 1 << 20


@pytest.fixture(scope="module")
def served(tiny_encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Served:
    return serve_samples(tiny_encoder, tmp_path_factory.mktemp("soak"))


@pytest.fixture
def tenants(served: Served) -> Tenants:
    joined = Tenants(served.store, served.encoder)
    for bank in served.banks[:2]:
        joined.join(bank)
    return joined


def test_a_version_goes_live_meanwhile_and_no_answer_is_wrong(
    served: Served, tenants: Tenants
) -> None:
    bank, asked, at = served.banks[0], Asked(), list[float]()
    before = live_bundle(served.store, bank.tenant)

    def sample(at_s: float) -> None:
        at.append(at_s)
        if len(at) == 1:
            put_next(served, bank.tenant)

    with running(served, free_port()) as address:
        soak(address, tenants, sample, asked, seconds=0.6, rate_per_s=100, every_s=0.2)
    assert live_bundle(served.store, bank.tenant) != before
    found = asked.figures()
    assert found["statuses"] == {"200": found["requests"]} and found["wrong"] == {}
    assert 0 < found["p50_ms"] <= found["p99_ms"]
    assert at == sorted(at) and len(at) >= 2
    set_live(served.store, bank.tenant, before)


def put_next(served: Served, tenant: str) -> None:
    """Another version goes live."""
    (bank,) = (one for one in served.banks if one.tenant == tenant)
    adapter = random_adapters(served.encoder, len(served.banks) + 1)[-1]
    vectors = served.encoder.embed_texts([faq.question for faq in bank.faqs], adapter)
    put_bundle(
        served.store, bank, served.encoder, adapter,
        pack_adapter(adapter, model_name=served.encoder.ref.name),
        golden_vectors(served.encoder, adapter), vectors,
    )  # fmt: skip


def test_an_answer_of_a_version_that_is_long_replaced_or_never_was_is_wrong(
    served: Served, tenants: Tenants
) -> None:
    bank = served.banks[1]
    before = live_bundle(served.store, bank.tenant)
    question = Question(bank.tenant, (bank.faqs[0].question,))
    now = tenants._known[bank.tenant].timeline
    late = f'{{"version":"{before[:64]}"}}'.encode()
    put_next(served, bank.tenant)
    tenants.follow()
    assert tenants._known[bank.tenant].timeline is not now
    sent = time.perf_counter() + 2 * WITHIN_S
    stale = "comes from a version that is not live"
    assert tenants.fault(question, Reply(200, late, sent, 0.1)) == stale
    never = b'{"version":"' + b"0" * 64 + b'"}'
    assert tenants.fault(question, Reply(200, never, sent, 0.1)) == stale
    tenants.leave(bank.tenant)
    assert tenants.fault(question, Reply(200, never, sent, 0.1)) is None
    set_live(served.store, bank.tenant, before)


def test_of_several_vectors_of_an_faq_the_best_counts(served: Served) -> None:
    bank = served.banks[0]
    bundle = read_bundle(served.store, bank.tenant, live_bundle(served.store, bank.tenant))
    texts = [faq.question for faq in bank.faqs]
    generator = torch.Generator().manual_seed(3)
    more_vectors = torch.nn.functional.normalize(
        torch.randn(2 * len(texts), bundle.vectors.shape[1], generator=generator)
    )
    owner = torch.cat([bundle.faq_of_vector, torch.arange(len(texts)).repeat_interleave(2)])
    vectors = torch.cat([bundle.vectors, more_vectors])
    alone = Alone(served.encoder, replace(bundle, vectors=vectors, faq_of_vector=owner), texts)

    def best(text: int, faq: int) -> Tensor:
        return (alone.queries[text] @ vectors[owner == faq].T).max()

    for place, text in enumerate(texts):
        found = alone.result(text)["ranked"][0]["score"]
        assert found == pytest.approx(
            max(float(best(place, f)) for f in range(len(texts))), abs=1e-5
        )
