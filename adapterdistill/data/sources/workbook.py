"""Sheets of an Excel workbook: texts, numbers and dates, merged cells, formulas."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, time
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


def read_workbook(
    path: Path, file: str, *, is_known: Callable[[str], bool]
) -> tuple[list[RawTable], list[tuple[str, str]]]:
    """The tables of the sheets, and (sheet, why) for each that is not read.

    A cell of several merged rows counts for each of them. A formula counts as its last computed
    value; one that was never computed, and an error value, are faults of their row.
    """
    if path.stat().st_size > MAX_WHOLE_BYTES:
        raise UnreadableSourceError("is too large to be read whole; save it as CSV")
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
            tables.append(_table(file, sheet.title, _rows(sheet, extent), is_known))
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


def _value(cell: Any, is_formula: bool) -> object:
    """The cell as text, a reason why it has none, or None."""
    from openpyxl.utils.escape import unescape

    value = getattr(cell, "value", None)
    if value is None:
        return Defect.NOT_COMPUTED if is_formula else None
    if cell.data_type == "e":
        return Defect.ERROR_VALUE
    if isinstance(value, datetime):
        return (value.date() if value.time() == time() else value).isoformat()
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, str):
        return unescape(value)  # a line break may be written as _x000D_
    if isinstance(value, int | float) and "%" in cell.number_format:
        return f"{value * 100:.10g}%"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _table(
    file: str, title: str, rows: list[list[object]], is_known: Callable[[str], bool]
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
        above=sum(any(not is_blank(cell) for cell in row) for row in rows[:place]),
    )
