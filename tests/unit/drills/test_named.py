"""What a file may name for a drill, which drills take one, and the endpoint's answers compared."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from adapterdistill.cli import drill as cli
from adapterdistill.drills.catalogue import DRILLS, ON_NAMED
from adapterdistill.drills.drill import Outcome, run_drill
from adapterdistill.drills.endpoint import named as named_drill
from adapterdistill.drills.named import Named, NamedRay, NamedServing, load_named, on_named
from adapterdistill.errors import ConfigError
from tests.unit.drills.test_drill import run_command

REGISTRY = '[registry]\naddress = "127.0.0.1:1"\n'
SERVING = '[serving]\ntenant = "acme"\nqueries = "questions.txt"\n'


def test_each_drill_says_how_it_is_done_on_a_named_deployment() -> None:
    assert ON_NAMED.keys() == DRILLS.keys()


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("corrupt-blob", REGISTRY, "corrupt-blob is not done on a named deployment: it damages"),
        ("drop-rpc", SERVING, "drop-rpc needs the section [registry]"),
        ("kill-serve-replica", SERVING, "kill-serve-replica needs the section [ray]"),
        ("drop-rpc", REGISTRY + "port = 3\n", "registry.port: is not a known key"),
        ("drop-rpc", SERVING.replace("acme", "Not A Name"), "serving.tenant:"),
        ("drop-rpc", "[registry", "not TOML"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_done(
    name: str, text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "day.toml"
    file.write_text(text, "utf-8")
    status, _, err = run_command(capsys, name, "--on", str(file))
    assert status == 2 and told in " ".join(err.split())


def test_the_list_says_what_a_drill_needs_of_a_named_deployment() -> None:
    assert cli._on_named("kill-serve-replica") == "[serving] and [ray]"
    assert cli._on_named("stale-teacher").startswith("no: ")


def test_an_address_without_a_port_is_told(tmp_path: Path) -> None:
    file = tmp_path / "day.toml"
    file.write_text('[registry]\naddress = "localhost"\n', "utf-8")
    found = run_drill(on_named(DRILLS["slow-rpc"], ON_NAMED, load_named(file), file), seed=0)
    assert "expected HOST:PORT" in found.findings[0]


def answer(score: float = 0.5, faq: str = "f1", version: str = "v1") -> dict[str, Any]:
    ranked = [{"faq_id": faq, "score": score}, {"faq_id": "f0", "score": 0.1}]
    return {"tenant": "acme", "adapter": {"version": version}, "results": [{"ranked": ranked}]}


def drilled(
    monkeypatch: pytest.MonkeyPatch, *answers: dict[str, Any] | None, replicas: int = 2
) -> Outcome:
    """Of an endpoint that gives these answers, the first before the kill and the last for ever."""
    given = itertools.chain(answers, itertools.repeat(answers[-1]))

    @contextmanager
    def asking(_: NamedServing) -> Iterator[Any]:
        yield lambda text: next(given), ["where is my parcel?"]

    monkeypatch.setattr(named_drill, "CLIENTS", 1)
    monkeypatch.setattr(named_drill, "_PAUSE_S", 0.001)
    monkeypatch.setattr(named_drill, "_LONGEST_WAIT_S", 0.0)
    monkeypatch.setattr(named_drill, "_AFTERWARDS_S", 0.1)
    monkeypatch.setattr(named_drill, "_RETRY_FOR_S", 0.05)
    monkeypatch.setattr(named_drill, "_joined", lambda _: nullcontext())
    monkeypatch.setattr(named_drill, "_asking", asking)
    monkeypatch.setattr(named_drill, "_replicas", lambda: set(map(str, range(replicas))))
    monkeypatch.setattr(named_drill, "_kill", lambda *_: 1.5)
    serving = NamedServing(tenant="acme", queries="questions.txt")
    named = Named(serving=serving, ray=NamedRay())
    drill = on_named(DRILLS["kill-serve-replica"], ON_NAMED, named, Path("day.toml"))
    return run_drill(drill, seed=0)


def test_an_endpoint_that_answers_as_before_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drilled(monkeypatch, answer(), None, answer(0.50001)) == Outcome(1.5)


@pytest.mark.parametrize(
    ("later", "finding"),
    [
        (answer(0.51), "a wrong answer: its scores are others than before"),
        (answer(faq="f2"), "a wrong answer: it ranks other FAQs than before"),
        (answer(version="v2"), "a wrong answer: another adapter gave it"),
        (None, "a query was not answered within 0.05 s"),
    ],
)
def test_an_endpoint_that_answers_otherwise_is_found_out(
    later: dict[str, Any] | None, finding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    [found] = drilled(monkeypatch, answer(), later).findings
    assert found.startswith(finding)


def test_the_only_replica_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    [found] = drilled(monkeypatch, answer(), replicas=1).findings
    assert "have two" in found


@pytest.mark.parametrize("text", [None, "\n \n"])
def test_questions_have_to_be_there(text: str | None, tmp_path: Path) -> None:
    file = tmp_path / "questions.txt"
    if text is not None:
        file.write_text(text, "utf-8")
    serving = NamedServing(tenant="acme", queries=str(file))
    expected = pytest.raises(ConfigError, match=r"questions\.txt: ")
    with expected, named_drill._asking(serving):
        pass
