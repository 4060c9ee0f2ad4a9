"""Streaming of the tenant format's tables as batches of cells, one in memory at a time.

A cell that cannot be read as text becomes a `Defect`, so that the fault of one row neither hides
the next nor ends the reading. A fault of the whole file ends it with `UnreadableTableError`.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from adapterdistill.data.schema import Fault

BATCH_ROWS = 256
READ_EVENT = "adapterdistill.read_table"
"""Name of the audit event that carries the file's path, for hooks of `sys.addaudithook`."""
_MAX_BATCH_BYTES = 1 << 26
"""Limit of the texts in a batch, 256 KiB a row: a small compressed file may hold terabytes."""


class Defect(Enum):
    """Why a cell holds no text. The value completes the sentence "column text ..."."""

    INVALID_UTF8 = "is not valid UTF-8"
    NOT_TEXT = "is not text"
    ABSENT = "is missing"
    NUL = "holds a NUL character"
    NOT_COMPUTED = "is a formula without a computed value: open the file in Excel and save it again"
    ERROR_VALUE = "holds an error value of a formula"


Cell = str | None | Defect


@dataclass(frozen=True)
class CellBatch:
    """Some rows of a table, by column. Columns that the source lacks hold `Defect.ABSENT`.

    `broken` maps rows that could not be split into cells to the reason.
    """

    first_row: int
    columns: dict[str, list[Cell]]
    broken: dict[int, str] = field(default_factory=dict)

    def rows(self) -> Iterator[tuple[int, tuple[Cell, ...]]]:
        return enumerate(zip(*self.columns.values(), strict=True), start=self.first_row)


class UnreadableTableError(Exception):
    """A file cannot be read any further; `faults` says why. Never leaves this package."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = list(faults)


def _unreadable(path: Path, problem: str, row: int | None = None) -> UnreadableTableError:
    return UnreadableTableError([Fault(path.name, row, None, problem)])


def read_table(
    path: Path,
    columns: Sequence[str],
    *,
    optional: frozenset[str] = frozenset(),
    batch_rows: int = BATCH_ROWS,
) -> Iterator[CellBatch]:
    """Stream `columns` of the file, whose suffix names its format; ignore other columns.

    Raises:
        UnreadableTableError: no such file, damaged, not of its format, a column missing (unless
            `optional`), duplicated, or of another type than string. May be raised in mid-stream.
    """
    if not path.exists():
        raise _unreadable(path, "does not exist")
    if not path.is_file():
        raise _unreadable(path, "is not a regular file")
    reader = _READERS[path.suffix]
    # Arrow opens files outside Python, which raises no audit event.
    sys.audit(READ_EVENT, str(path))
    try:
        yield from reader(path, columns, optional, batch_rows)
    except PermissionError:
        raise _unreadable(path, "may not be read by this user") from None
    except (pa.ArrowException, OSError, EOFError):
        # Arrow's own message is dropped because it may quote the data.
        problem = f"cannot be read: damaged, truncated or not {path.suffix[1:]}"
        raise _unreadable(path, problem) from None


def _missing(path: Path, missing: Sequence[str], optional: frozenset[str]) -> list[Fault]:
    required = [column for column in missing if column not in optional]
    return [Fault(path.name, None, column, "column is missing") for column in required]


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _read_parquet(
    path: Path, columns: Sequence[str], optional: frozenset[str], batch_rows: int
) -> Iterator[CellBatch]:
    # A buffered stream without prefetch: memory follows the batch, not the row group.
    with pq.ParquetFile(
        path, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True
    ) as table:
        schema = table.schema_arrow
        present = [column for column in columns if column in schema.names]
        missing = [column for column in columns if column not in present]
        faults = _missing(path, missing, optional)
        for column in present:
            indices = schema.get_all_field_indices(column)
            kind = schema.field(indices[0]).type
            if len(indices) > 1:
                faults.append(Fault(path.name, None, column, "column is there more than once"))
            elif not _is_text(kind) and not pa.types.is_null(kind):
                problem = f"column has the wrong type: expected string, got {_kind_name(kind)}"
                faults.append(Fault(path.name, None, column, problem))
        if faults:
            raise UnreadableTableError(faults)
        row = 0
        for batch in table.iter_batches(batch_rows, columns=present, use_threads=False):
            if sum(map(_text_bytes, batch.columns)) > _MAX_BATCH_BYTES:
                raise _unreadable(path, "texts are too long", row)
            cells = {c: _arrow_cells(batch.column(batch.schema.names.index(c))) for c in present}
            cells |= {c: [Defect.ABSENT] * batch.num_rows for c in missing}
            yield CellBatch(row, {c: cells[c] for c in columns})
            row += batch.num_rows


def _kind_name(kind: pa.DataType) -> str:
    # A nested type's own text holds field names, which are the tenant's; its first word does not.
    return str(kind).split("<", 1)[0].split("[", 1)[0]


def _text_bytes(array: pa.Array) -> int:
    """Count the bytes of texts; a dictionary's text counts as often as rows have it."""
    if not pa.types.is_dictionary(array.type):
        return int(array.nbytes)
    return pc.sum(pc.binary_length(array.dictionary).take(array.indices)).as_py() or 0


def _arrow_cells(array: pa.Array) -> list[Cell]:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        return [_utf8(raw) for raw in array.cast(pa.binary()).to_pylist()]
    return cast(list[Cell], array.to_pylist())


def _utf8(raw: bytes | None) -> Cell:
    try:
        return None if raw is None else raw.decode()
    except UnicodeDecodeError:
        return Defect.INVALID_UTF8


def _whole_text(value: object) -> Cell:
    """Return `value` if it is text in UTF-8; undecodable bytes are surrogates here."""
    if value is None:
        return None
    if not isinstance(value, str):
        return Defect.NOT_TEXT
    try:
        value.encode()
    except UnicodeEncodeError:
        return Defect.INVALID_UTF8
    return value


def _batched(
    columns: Sequence[str], rows: Iterable[Sequence[Cell] | str], batch_rows: int
) -> Iterator[CellBatch]:
    """Batch rows. A plain string instead of a row says why that row is broken."""
    first, stream = 0, iter(rows)
    nothing = [Defect.ABSENT] * len(columns)
    while chunk := list(islice(stream, batch_rows)):
        broken = {first + i: row for i, row in enumerate(chunk) if isinstance(row, str)}
        sound = [nothing if isinstance(row, str) else row for row in chunk]
        cells = {c: [row[i] for row in sound] for i, c in enumerate(columns)}
        yield CellBatch(first, cells, broken)
        first += len(chunk)


def _read_jsonl(
    path: Path, columns: Sequence[str], optional: frozenset[str], batch_rows: int
) -> Iterator[CellBatch]:
    with path.open("rb") as stream:
        yield from _batched(columns, _jsonl_rows(stream, columns), batch_rows)


def _jsonl_rows(stream: BinaryIO, columns: Sequence[str]) -> Iterator[list[Cell] | str]:
    first = True
    for line in stream:
        text = line.decode("utf-8-sig" if first else "utf-8", errors="surrogateescape")
        first = False
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            yield "is not a line of JSON"
            continue
        if isinstance(record, dict):
            yield [_whole_text(record[c]) if c in record else Defect.ABSENT for c in columns]
        else:
            yield "is not a JSON object"


Reader = Callable[[Path, Sequence[str], frozenset[str], int], Iterator[CellBatch]]
_READERS: dict[str, Reader] = {
    ".parquet": _read_parquet,
    ".jsonl": _read_jsonl,
}
