"""Tables for people: every name in them stays whole, also on a terminal of 80 columns."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text


def table(*columns: str | Column, right: Collection[str] = (), **options: Any) -> Table:
    """Make a table that folds what is too long for its column; rich would cut it by default.

    `right` names the columns of numbers, which are aligned to the right.
    """
    made = Table(*columns, **options)
    for column in made.columns:
        column.overflow = "fold"
        if column.header in right:
            column.justify = "right"
    return made


def print_table(columns: Mapping[str, Sequence[str]], optional: Sequence[str] = ()) -> None:
    """Print columns of cells by their titles.

    Where the terminal is too narrow, columns are left out, the first of `optional` first. Cells are
    never shortened: a cell that still does not fit is continued on the next line.
    """
    console = Console()
    shown, droppable = dict(columns), list(optional)
    while droppable and _width(console, shown) > console.width:
        del shown[droppable.pop(0)]
    console.print(_filled(shown))


def _filled(columns: Mapping[str, Sequence[str]]) -> Table:
    made = table(*columns)
    for cells in zip(*columns.values(), strict=True):
        made.add_row(*map(Text, cells))  # Text: names must not be read as markup
    return made


def _width(console: Console, columns: Mapping[str, Sequence[str]]) -> int:
    options = console.options.update(width=10_000, max_width=10_000)
    return console.measure(_filled(columns), options=options).maximum
