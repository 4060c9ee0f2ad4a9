"""Tables of the stories keep names whole on a terminal of 80 columns."""

import io
from types import SimpleNamespace
from typing import Any

from rich.console import Console

from adapterdistill.actors.onboarding import STAGES
from adapterdistill.cli.demo import _tables
from adapterdistill.data import sample_names
from adapterdistill.demo.one_cluster import Answer, DemoResult
from adapterdistill.demo.steps import Steps


def printed(*shown: Any) -> str:
    console = Console(width=80, file=io.StringIO())
    for one in shown:
        console.print(one)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def report(tenant: str) -> Any:
    candidates = {
        name: SimpleNamespace(test={"top1": SimpleNamespace(value=value)})
        for name, value in (("bare", 0.7), ("distilled", 0.84))
    }
    return SimpleNamespace(
        tenant=tenant,
        evaluate=SimpleNamespace(
            candidates=candidates, questions_alone={"top1": SimpleNamespace(value=0.61)}
        ),
        fetch_teachers=SimpleNamespace(teachers=["one"]),
        decide=SimpleNamespace(choice="distilled"),
        stage_seconds=lambda: dict.fromkeys(STAGES, 123.4),
    )


def test_the_demo_s_tables_show_every_tenant_and_stage_by_its_whole_name() -> None:
    names = sample_names()
    answers = [
        Answer(name, "how do I pay? " * 5, False, "Payment " * 9, 0.5, True, "a" * 64, 1234.0)
        for name in names
    ]
    result = DemoResult(reports=[report(name) for name in names], answers=answers)
    text = printed(*_tables(result))
    assert all(text.count(name) == 3 for name in names)
    for head in (
        "extract",
        "fetch",
        "distil",
        "evaluate",
        "61",
        "84",
        "+23",
        "distilled",
        "1234",
        "6 of 6",
    ):
        assert head in text
    assert "\N{HORIZONTAL ELLIPSIS}" not in text


def test_a_story_s_table_shows_what_was_expected_where_another_thing_came() -> None:
    steps = Steps(lambda line: None)
    steps.take("larkhill-vets lists", "sees none", lambda: "sees none")
    steps.take("ridgewater-electric fetches an adapter", "NOT_FOUND", lambda: "allowed")
    text = " ".join(printed(steps.table("A story")).split())
    assert "larkhill-vets" in text and "ridgewater-electric" in text
    assert text.count("expected") == 1 and "NOT_FOUND" in text and "sees none" in text
