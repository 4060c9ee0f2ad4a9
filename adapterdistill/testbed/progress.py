"""Progress of a long run: a bar if a terminal watches, lines if none does."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

_LINE_EVERY_S = 15.0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def phase(title: str, total: int) -> Iterator[Callable[[], None]]:
    """Yield the function to call after each finished unit."""
    if not total:
        yield lambda: None
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        with _lines(title, total) as step:
            yield step
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.advance(task)


@contextmanager
def _lines(title: str, total: int) -> Iterator[Callable[[], None]]:
    started = last = time.monotonic()
    done = 0

    def step() -> None:
        nonlocal done, last
        done += 1
        now = time.monotonic()
        if now - last >= _LINE_EVERY_S or done == total:
            last = now
            say(f"{title}: {done}/{total} after {now - started:.0f} s")

    say(f"{title}: {total} to do")
    yield step
