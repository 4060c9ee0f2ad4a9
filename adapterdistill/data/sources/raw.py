"""A table as every reader yields it: its header and a stream of its rows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

Record = Sequence[object] | str | None
"""A row's cells in the order of the columns, why it could not be taken apart, or None: empty."""


MAX_WHOLE_BYTES = 1 << 30
"""Limit of a file that is read whole (a JSON array, an Excel book, YAML)."""


class UnreadableSourceError(Exception):
    """Internal: a file of a source cannot be read; says why, without the file's name."""

    def __init__(self, problem: str, row: int | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.row = row


@dataclass(frozen=True)
class RawTable:
    """One table as it lies in a file."""

    file: str
    """The file's path within the source."""
    kind: str
    """The format as found, such as "semicolons, UTF-8"."""
    columns: tuple[str, ...]
    records: Callable[[], Iterator[Record]]
    """Streams the rows below the header; each call starts again."""
    part: str | None = None
    """The sheet or key, where a file holds several tables."""
    above: int = 0
    """Rows above the header, which are not read."""
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Names of integer labels by column, where the file itself has them."""
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.file if self.part is None else f"{self.file}, {self.part}"


def is_blank(cell: object) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip())


def laid_out(cells: Sequence[object], columns: Sequence[str]) -> Record:
    """The cells of one row; why not, if they do not fit the columns.

    A surplus that is empty does not count, nor do missing cells of columns without a name.
    """
    if all(map(is_blank, cells)):
        return None
    width = len(columns)
    if len(cells) > width and all(map(is_blank, cells[width:])):
        return cells[:width]
    if len(cells) < width and not any(columns[len(cells) :]):
        return [*cells, *[None] * (width - len(cells))]
    if len(cells) != width:
        return f"has {len(cells)} fields where the header has {width}"
    return cells


def find_header(
    first: Sequence[Sequence[object]], is_known: Callable[[str], bool]
) -> tuple[int, int]:
    """(place, known names) of the header among the `first` rows, which may have a title above it.

    The first row that is not empty, unless a later one knows at least two names more.
    """
    rows = [
        (place, sum(is_known(str(cell)) for cell in row if not is_blank(cell)))
        for place, row in enumerate(first)
        if not all(map(is_blank, row))
    ]
    if not rows:
        raise UnreadableSourceError("has no header line")
    start = rows[0]
    best = max(rows, key=lambda item: item[1])
    return best if start[1] == 0 and best[1] >= 2 else start
