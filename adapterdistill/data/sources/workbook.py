"""Sheets of an Excel workbook: texts, numbers and dates, merged cells, formulas."""

import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from adapterdistill.data.reading import Defect
from adapterdistill.data.sources.columns import shown_name
from adapterdistill.data.sources.raw import (
    MAX_WHOLE_BYTES,
    RawTable,
    Record,
    UnreadableSourceError,
    find_header,
    is_blank,
    laid_out,
)

_HEADER_ROWS = 10
_OLD_OR_LOCKED = b"\xd0\xcf\x11\xe0"
_LONGEST_CELL = 32_767
"""Characters that Excel keeps of a cell."""
_PLAIN_FORMATS = frozenset(("General", "0", "@"))


def read_workbook(
    path: Path, file: str, *, is_known: Callable[[str], bool]
) -> tuple[list[RawTable], list[tuple[str, str]]]:
    """The tables of the sheets, and (sheet, why) for each that is not read.

    A cell of several merged rows counts for each of them. A formula counts as its last computed
    value; one that was never computed, and an error value, are faults of their row.
    """
    if path.stat().st_size > MAX_WHOLE_BYTES:
        raise UnreadableSourceError("is too large to be read whole; save it as CSV")
    with path.open("rb") as opened:
        if opened.read(len(_OLD_OR_LOCKED)) == _OLD_OR_LOCKED:
            raise UnreadableSourceError(
                "has a password, or is an old Excel file; save it as .xlsx without a password"
            )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of extensions that hold no cells
        extents = _extents(path)
        book = _load(path, data_only=True)
    tables, ignored = [], []
    for sheet in book.worksheets:
        shown = f"{file}, sheet {shown_name(sheet.title, 0)}"
        extent = extents[sheet.title]
        if sheet.sheet_state != "visible":
            ignored.append((shown, "the sheet is hidden"))
        elif not extent.rows:
            ignored.append((shown, "the sheet is empty"))
        else:
            notes = tuple(_notes(sheet, extent))
            tables.append(_table(file, sheet.title, _rows(sheet, extent), notes, is_known))
    for chart in book.chartsheets:
        ignored.append((f"{file}, sheet {shown_name(chart.title, 0)}", "the sheet is a chart"))
    book.close()
    return tables, ignored


def _load(path: Path, **options: bool) -> Any:
    import openpyxl  # a third of a second, for every process that opens a tenant

    return openpyxl.load_workbook(path, **options)


@dataclass
class _Extent:
    """How much of a sheet holds anything, and where formulas are."""

    rows: int = 0
    columns: int = 0
    formulas: set[tuple[int, int]] = field(default_factory=set)


def _extents(path: Path) -> dict[str, _Extent]:
    """Each sheet's extent, read as a stream: a sheet may have a million rows without content."""
    book = _load(path, read_only=True)
    found = {}
    for sheet in book.worksheets:
        extent = found[sheet.title] = _Extent()
        sheet.reset_dimensions()  # what writers say of it is often wrong
        for row in sheet.iter_rows():
            for cell in row:
                if is_blank(cell.value):
                    continue
                extent.rows = max(extent.rows, cell.row)
                extent.columns = max(extent.columns, cell.column)
                if cell.data_type == "f":
                    extent.formulas.add((cell.row, cell.column))
    book.close()
    return found


def _rows(sheet: Any, extent: _Extent) -> list[list[object]]:
    rows = [
        [_value(cell, (cell.row, cell.column) in extent.formulas) for cell in row]
        for row in sheet.iter_rows(max_row=extent.rows, max_col=extent.columns)
    ]
    for merged in sheet.merged_cells.ranges:
        column = merged.min_col - 1
        for row in range(merged.min_row, min(merged.max_row, extent.rows)):
            rows[row][column] = rows[merged.min_row - 1][column]
    return rows


def _notes(sheet: Any, extent: _Extent) -> Iterator[str]:
    """What a person who looks at the sheet sees otherwise than it is read."""
    cells = [
        cell
        for row in sheet.iter_rows(max_row=extent.rows, max_col=extent.columns)
        for cell in row
        if getattr(cell, "value", None) is not None
    ]
    if formatted := sum(map(_loses_format, cells)):
        yield (
            f"{formatted} cell(s) with a number, date or time are read without the format that "
            "Excel shows, such as a currency"
        )
    if cut := sum(isinstance(c.value, str) and len(c.value) >= _LONGEST_CELL for c in cells):
        yield (
            f"{cut} cell(s) have {_LONGEST_CELL} characters, the most that Excel keeps: look if"
            " they are cut"
        )
    rows = range(1, extent.rows + 1)
    if hidden := sum(
        sheet.row_dimensions[row].hidden for row in rows if row in sheet.row_dimensions
    ):
        yield f"{hidden} hidden row(s) are read like the others"


def _loses_format(cell: Any) -> bool:
    if isinstance(cell.value, date | time | timedelta):
        return True
    a_number = isinstance(cell.value, int | float) and not isinstance(cell.value, bool)
    shown = cell.number_format
    return a_number and shown not in _PLAIN_FORMATS and not re.fullmatch(r"0+|0(\.0+)?%", shown)


def _value(cell: Any, is_formula: bool) -> object:
    """The cell as text, a reason why it has none, or None."""
    from openpyxl.utils.escape import unescape

    value = getattr(cell, "value", None)
    if value is None:
        return Defect.NOT_COMPUTED if is_formula else None
    if cell.data_type == "e":
        return Defect.ERROR_VALUE
    if isinstance(value, datetime) and value.time() != time():
        return value.isoformat(" ").removesuffix(":00")
    if isinstance(value, date):
        return value.strftime("%Y-%m-%d")
    if isinstance(value, time):
        return value.isoformat().removesuffix(":00")
    if isinstance(value, timedelta):
        minutes, seconds = divmod(int(value.total_seconds()), 60)
        return f"{minutes // 60}:{minutes % 60:02}" + (f":{seconds:02}" if seconds else "")
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, str):
        return unescape(value)  # a line break may be written as _x000D_
    if isinstance(value, int | float) and "%" in cell.number_format:
        return f"{value * 100:.10g}%"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and re.fullmatch("0+", cell.number_format):
        return str(value).zfill(len(cell.number_format))
    return str(value)


def _table(
    file: str,
    title: str,
    rows: list[list[object]],
    notes: tuple[str, ...],
    is_known: Callable[[str], bool],
) -> RawTable:
    place, _ = find_header(rows[:_HEADER_ROWS], is_known)
    columns = tuple("" if is_blank(cell) else str(cell).strip() for cell in rows[place])

    def records() -> Iterator[Record]:
        yield from (laid_out(row, columns) for row in rows[place + 1 :])

    return RawTable(
        file=file,
        kind="Excel",
        columns=columns,
        records=records,
        part=f"sheet {shown_name(title, 0)}",
        notes=notes,
        above=sum(any(not is_blank(cell) for cell in row) for row in rows[:place]),
    )
