"""Tables for people: every name in them stays whole, also on a terminal of 80 columns."""

from collections.abc import Collection
from typing import Any

from rich.table import Column, Table


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
