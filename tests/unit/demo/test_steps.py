"""Steps of a story pass where what came is what was expected, and only there."""

import io

import pytest
from rich.console import Console

from adapterdistill.demo.steps import Steps
from adapterdistill.errors import NotFoundError, RegistryError, TrainingError


def refused() -> str:
    raise NotFoundError("no version tenants/acme")


def test_a_step_passes_by_its_value_or_by_the_reason_of_its_refusal() -> None:
    lines: list[str] = []
    steps = Steps(lines.append)
    steps.take("adds", "2", lambda: "2")
    steps.take("asks", "NOT_FOUND", refused)
    assert steps.passed
    assert [step.came for step in steps.taken] == ["2", "NOT_FOUND"]
    assert lines == ["== adds", "   pass: 2", "== asks", "   pass: NOT_FOUND"]


def test_what_was_not_expected_fails_and_is_told_in_full() -> None:
    steps = Steps(lambda line: None)
    steps.take("adds", "2", lambda: "3")
    steps.take("asks", "NOT_PERMITTED", refused)
    steps.take("is let in", "2", refused)
    assert not steps.passed
    told = "NOT_FOUND: no version tenants/acme"
    assert [step.came for step in steps.taken] == ["3", told, told]
    assert [step["passed"] for step in steps.as_json()] == [False, False, False]
    console = Console(width=120, file=io.StringIO())
    console.print(steps.table("A story"))
    assert console.file.getvalue().count("FAIL") == 3  # type: ignore[attr-defined]


def test_a_step_that_others_need_ends_the_story_where_it_fails() -> None:
    steps = Steps(lambda line: None)
    with pytest.raises(TrainingError, match="joins: NOT_FOUND: no version"):
        steps.must("joins", "2", refused)
    assert len(steps.taken) == 1


def test_a_fault_of_the_program_is_no_refusal() -> None:
    def broken() -> str:
        raise KeyError("acme")

    with pytest.raises(KeyError):
        Steps(lambda line: None).take("asks", RegistryError.reason, broken)
