"""Delimited text in whatever dialect it was written: delimiter, quotes, escapes and `sep=` line."""

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TextIO

from adapterdistill.data.sources.raw import (
    RawTable,
    Record,
    UnreadableSourceError,
    find_header,
    is_blank,
    laid_out,
)
from adapterdistill.data.sources.text import encoding_of, open_text, shown_encoding

_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_NO_DELIMITER = "\x1f"
_MAX_CELL_CHARACTERS = 1 << 24
_SAMPLE_LINES, _SAMPLE_ROWS, _HEADER_ROWS = 200, 20, 10


@dataclass(frozen=True)
class _Dialect:
    delimiter: str
    quotechar: str = '"'
    escapechar: str | None = None
    quoted: bool = True
    spaced: bool = False
    """Whether a space follows each delimiter."""
    skip_lines: int = 0
    """1 where the first line is `sep=`."""

    def reader(self, lines: Iterator[str]) -> Iterator[list[str]]:
        return csv.reader(
            lines,
            delimiter=self.delimiter,
            quotechar=self.quotechar,
            escapechar=self.escapechar,
            doublequote=self.escapechar is None,
            quoting=csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE,
            skipinitialspace=self.spaced,
            strict=True,
        )

    def __str__(self) -> str:
        parts = [_NAMES.get(self.delimiter, f"delimiter {self.delimiter!r}")]
        if self.delimiter == _NO_DELIMITER:
            parts = ["one column"]
        if self.skip_lines:
            parts.append("a line `sep=`")
        if self.quotechar != '"':
            parts.append("single quotes")
        if self.escapechar:
            parts.append("backslash escapes")
        if not self.quoted:
            parts.append("no quotes")
        return ", ".join(parts)


def read_delimited(
    path: Path, file: str, *, told: str | None, is_known: Callable[[str], bool]
) -> RawTable:
    """The table of a CSV or TSV file, whatever its dialect.

    Args:
        told: the encoding where the file has no byte order mark; None is UTF-8.
        is_known: whether a column name means something: what tells the header and the delimiter.

    Raises:
        UnreadableSourceError: no header, an open quote, or a text that is too long.
    """
    csv.field_size_limit(_MAX_CELL_CHARACTERS)
    encoding = encoding_of(path, told)
    with open_text(path, encoding) as stream:
        sample = list(islice(stream, _SAMPLE_LINES))
    dialect = _sniff(sample, is_known, tabs=".tsv" in path.name.casefold())
    dialect, header = _settle(path, encoding, dialect, is_known)
    columns = tuple(name.strip().strip("\ufeff") for name in header.cells)

    def records() -> Iterator[Record]:
        with open_text(path, encoding) as lines:
            rows = _rows(lines, dialect)
            for _ in range(header.place + 1):
                next(rows, None)
            yield from (laid_out([_unwrapped(cell) for cell in row], columns) for row in rows)

    return RawTable(
        file=file,
        kind=f"{dialect}, {shown_encoding(encoding)}",
        columns=columns,
        records=records,
        above=header.place,
    )


def _unwrapped(cell: str) -> str:
    """The text of a cell that is written `="0012"`, so that Excel keeps its zeros."""
    return cell[2:-1] if len(cell) > 2 and cell.startswith('="') and cell.endswith('"') else cell


@dataclass(frozen=True)
class _Header:
    place: int
    cells: list[str]
    known: int


def _rows(lines: TextIO, dialect: _Dialect) -> Iterator[list[str]]:
    """Rows that are not blank lines. Raises csv.Error where the dialect does not hold."""
    for _ in range(dialect.skip_lines):
        next(lines, None)
    yield from (row for row in dialect.reader(lines) if row)


def _sniff(sample: list[str], is_known: Callable[[str], bool], *, tabs: bool) -> _Dialect:
    told = re.fullmatch(r'"?sep=(.|\\t)"?\s*', sample[0]) if sample else None
    if told is not None:
        delimiter = "\t" if told[1] == "\\t" else told[1]
        return _with_quotes(_Dialect(delimiter, skip_lines=1), sample)
    order = ("\t", ",", ";", "|") if tabs else (",", ";", "\t", "|")
    best, best_score = _Dialect(_NO_DELIMITER), (0, 0.0)
    for delimiter in order:
        dialect = _with_quotes(_Dialect(delimiter), sample)
        rows = _sample_rows(sample, dialect)
        if not rows:
            continue
        place, known = find_header(rows[:_HEADER_ROWS], is_known)
        width = len(rows[place])
        if width < 2:
            continue
        share = Counter(map(len, rows[place:]))[width] / len(rows[place:])
        if (known, share) > best_score:
            best, best_score = dialect, (known, share)
    if best.delimiter == _NO_DELIMITER:
        return _with_quotes(best, sample)
    # A title such as "question" over texts with commas is one column, not two.
    alone = _sample_rows(sample, _Dialect(_NO_DELIMITER))
    if best_score[0] == 0 and alone and sum(map(is_known, alone[0])):
        return _Dialect(_NO_DELIMITER)
    return best


def _sample_rows(sample: list[str], dialect: _Dialect) -> list[list[str]]:
    rows: list[list[str]] = []
    try:
        for row in dialect.reader(iter(sample[dialect.skip_lines :])):
            if any(not is_blank(cell) for cell in row):
                rows.append(row)
            if len(rows) >= _SAMPLE_ROWS:
                break
    except csv.Error:
        pass  # the sample may end within quotes
    return rows


def _with_quotes(dialect: _Dialect, sample: list[str]) -> _Dialect:
    """The dialect with single quotes and spaces where the whole header has them."""
    header = next((line.strip() for line in sample[dialect.skip_lines :] if line.strip()), "")
    cells = header.split(dialect.delimiter)
    single = all(len(c.strip()) > 2 and c.strip()[0] == c.strip()[-1] == "'" for c in cells)
    spaced = len(cells) > 1 and all(cell.startswith(" ") for cell in cells[1:])
    return replace(dialect, quotechar="'" if single else '"', spaced=spaced)


def _settle(
    path: Path, encoding: str, dialect: _Dialect, is_known: Callable[[str], bool]
) -> tuple[_Dialect, _Header]:
    """The first dialect that holds for the whole file: as it is, with backslashes, unquoted."""
    trials = [dialect]
    with open_text(path, encoding) as lines:
        if any(f"\\{dialect.quotechar}" in line for line in lines):
            trials.append(replace(dialect, escapechar="\\"))
    if dialect.delimiter in ("\t", _NO_DELIMITER):
        trials.append(replace(dialect, quoted=False))
    row: int | None = None
    for trial in trials:
        try:
            return trial, _header(path, encoding, trial, is_known)
        except _DialectError as error:
            row = error.row if row is None else row
    raise UnreadableSourceError("is not well-formed CSV (an open quote, or too long)", row)


class _DialectError(Exception):
    def __init__(self, row: int) -> None:
        super().__init__(row)
        self.row = row


def _header(
    path: Path, encoding: str, dialect: _Dialect, is_known: Callable[[str], bool]
) -> _Header:
    """The header, after reading the file to its end."""
    count = 0
    first: list[list[str]] = []
    header: _Header | None = None
    try:
        with open_text(path, encoding) as lines:
            for row in _rows(lines, dialect):
                count += 1
                if len(first) < _HEADER_ROWS:
                    first.append(row)
    except csv.Error:
        above = find_header(first, is_known)[0] if first else 0
        raise _DialectError(max(0, count - above - 1)) from None
    place, known = find_header(first, is_known)
    header = _Header(place, first[place], known)
    return header
