"""Rows of a source's table with their numbers, and as the batches that checks take."""

from collections.abc import Iterator, Sequence

from adapterdistill.data.reading import Cell, CellBatch, UnreadableTableError
from adapterdistill.data.schema import Fault
from adapterdistill.data.sources.columns import shown_names
from adapterdistill.data.sources.raw import Record, UnreadableSourceError
from adapterdistill.data.sources.report import ImportReport
from adapterdistill.data.sources.roles import SourceTable


def numbered(
    table: SourceTable, report: ImportReport | None = None
) -> Iterator[tuple[int, Record]]:
    """The table's rows but empty ones and repeated headers, from 0; tell `report` how many.

    Raises:
        UnreadableTableError: the file cannot be read on.
    """
    row = empty = headers = 0
    header = [name.strip() for name in table.raw.columns]
    try:
        for record in table.raw.records():
            if record is None:
                empty += 1
                continue
            if not isinstance(record, str) and [str(cell).strip() for cell in record] == header:
                headers += 1  # files put one after the other
                continue
            yield row, record
            row += 1
    except UnreadableSourceError as error:
        fault = Fault(table.raw.name, row, None, error.problem)
        raise UnreadableTableError([fault]) from None
    if report is not None:
        report.count(table.raw.name, row, empty=empty, headers=headers)


def one_row(row: int, columns: Sequence[str], cells: Sequence[Cell]) -> CellBatch:
    return CellBatch(row, {name: [cell] for name, cell in zip(columns, cells, strict=True)})


def broken_row(row: int, columns: Sequence[str], problem: str) -> CellBatch:
    return CellBatch(row, {name: [None] for name in columns}, {row: problem})


def missing(table: SourceTable, field: str) -> Fault:
    """The fault of a table without a column for `field`, with the columns that it has."""
    problem = (
        f"column is missing; the columns are {shown_names(table.raw.columns)} "
        f"({table.raw.kind}); name it with --map {field}=COLUMN"
    )
    return Fault(table.raw.name, None, field, problem)
