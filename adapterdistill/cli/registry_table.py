"""Tables of the registry's commands, which stay readable in a narrow terminal."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text


def print_table(columns: Mapping[str, Sequence[str]], optional: Sequence[str] = ()) -> None:
    """Print columns of cells by their titles.

    Where the terminal is too narrow, columns are left out, the first of `optional` first. Cells are
    never shortened: a cell that still does not fit is continued on the next line.
    """
    console = Console()
    shown, droppable = dict(columns), list(optional)
    while droppable and _width(console, shown) > console.width:
        del shown[droppable.pop(0)]
    console.print(_table(shown))


def _table(columns: Mapping[str, Sequence[str]]) -> Table:
    table = Table(*(Column(title, overflow="fold") for title in columns))
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*map(Text, cells))  # Text: names must not be read as markup
    return table


def _width(console: Console, columns: Mapping[str, Sequence[str]]) -> int:
    options = console.options.update(width=10_000, max_width=10_000)
    return console.measure(_table(columns), options=options).maximum
