"""Parquet and Arrow files as rows, with integers, binary strings, dictionaries and lists."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet as pq

from adapterdistill.data.sources.raw import RawTable, Record, UnreadableSourceError

_BATCH_ROWS = 256
_MAX_BATCH_BYTES = 1 << 26


def read_parquet(path: Path, file: str) -> RawTable:
    """The table of a Parquet file; cells are of Python's types, binary ones are bytes."""
    with pq.ParquetFile(path) as table:
        schema = table.schema_arrow

    def records() -> Iterator[Record]:
        # A buffered stream without prefetch: memory follows the batch, not the row group.
        with pq.ParquetFile(
            path, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True
        ) as table:
            yield from _rows(table.iter_batches(_BATCH_ROWS, use_threads=False))

    return _table(file, "Parquet", schema, records)


def read_arrow(path: Path, file: str) -> RawTable:
    """The table of an Arrow file, of either form: with an index at its end, or a plain stream."""
    with pa.OSFile(str(path)) as source:
        schema = _reader(source).schema

    def records() -> Iterator[Record]:
        with pa.OSFile(str(path)) as source:
            reader = _reader(source)
            if isinstance(reader, pa.ipc.RecordBatchFileReader):
                batches = (reader.get_batch(n) for n in range(reader.num_record_batches))
                yield from _rows(batches)
            else:
                yield from _rows(iter(reader))

    return _table(file, "Arrow", schema, records)


def _reader(source: pa.NativeFile) -> pa.ipc.RecordBatchReader:
    try:
        return pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        return pa.ipc.open_stream(source)


def _table(
    file: str, kind: str, schema: pa.Schema, records: Callable[[], Iterator[Record]]
) -> RawTable:
    return RawTable(
        file=file,
        kind=kind,
        columns=tuple(schema.names),
        records=records,
        class_names=_class_names(schema),
    )


def _rows(batches: Iterator[pa.RecordBatch]) -> Iterator[Record]:
    row = 0
    for batch in batches:
        if (
            sum(map(_cell_bytes, batch.columns)) > _MAX_BATCH_BYTES
            and batch.num_rows <= _BATCH_ROWS
        ):
            raise UnreadableSourceError("texts are too long", row)
        for start in range(0, batch.num_rows, _BATCH_ROWS):
            part = batch.slice(start, _BATCH_ROWS)
            yield from zip(*map(_cells, part.columns), strict=True)
        row += batch.num_rows


def _cell_bytes(array: pa.Array) -> int:
    """Bytes of the cells; a dictionary counts as it will be written out."""
    if not pa.types.is_dictionary(array.type):
        return int(array.nbytes)
    try:
        lengths = pc.binary_length(array.dictionary)
    except pa.ArrowNotImplementedError:
        return int(array.nbytes)
    return pc.sum(lengths.take(array.indices)).as_py() or 0


def _cells(array: pa.Array) -> list[object]:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        array = array.cast(pa.binary())
    cells: list[object] = array.to_pylist()
    return cells


def _class_names(schema: pa.Schema) -> Mapping[str, Sequence[str]]:
    """Names of integer labels, which the hub's libraries leave in the file's metadata."""
    raw = (schema.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(raw)["info"]["features"] if raw else {}
        return {
            column: [str(name) for name in feature["names"]]
            for column, feature in features.items()
            if isinstance(feature, dict) and isinstance(feature.get("names"), list)
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
