"""A story in steps, each with its expected and its actual result."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Column, Table
from rich.text import Text

from adapterdistill.errors import AdapterDistillError, TrainingError


@dataclass(frozen=True)
class Step:
    """One step, which passes if the result is exactly as expected."""

    name: str
    expected: str
    came: str
    seconds: float

    @property
    def passed(self) -> bool:
        return self.came == self.expected


class Steps:
    """The steps taken so far, each reported through `emit`."""

    def __init__(self, emit: Callable[[str], None]) -> None:
        self.taken: list[Step] = []
        self._emit = emit

    def take(self, name: str, expected: str, work: Callable[[], str]) -> None:
        """Take a step whose result is that of `work`, or the reason of the error that it raises."""
        self._emit(f"== {name}")
        started = time.perf_counter()
        try:
            came = work()
        except AdapterDistillError as error:
            came = error.reason if error.reason == expected else f"{error.reason}: {error}"
        step = Step(name, expected, came, round(time.perf_counter() - started, 1))
        self.taken.append(step)
        self._emit(f"   {'pass' if step.passed else 'FAIL'}: {came}")

    def must(self, name: str, expected: str, work: Callable[[], str]) -> None:
        """Take a step on which the others depend.

        Raises:
            TrainingError: it did not pass.
        """
        self.take(name, expected, work)
        if not self.taken[-1].passed:
            raise TrainingError(f"the story ends here: {name}: {self.taken[-1].came}")

    @property
    def passed(self) -> bool:
        return all(step.passed for step in self.taken)

    def as_json(self) -> list[dict[str, Any]]:
        return [asdict(step) | {"passed": step.passed} for step in self.taken]

    def table(self, title: str) -> Table:
        """One row a step, with what was expected where another thing came."""
        columns = (Column("step", ratio=1), Column("came", ratio=1), "", Column("s", no_wrap=True))
        table = Table(*columns, title=title, show_lines=True)
        for step in self.taken:
            verdict = Text("pass", "green") if step.passed else Text("FAIL", "bold red")
            came = step.came if step.passed else f"{step.came} (expected: {step.expected})"
            table.add_row(Text(step.name), Text(came), verdict, f"{step.seconds:.1f}")
        return table
