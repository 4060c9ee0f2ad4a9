"""Sources as people bring them, as data: the files of each, and what must come of them."""

import bz2
import gzip
import io
import json
import lzma
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

FaqRow = tuple[str, str, str | None]
QueryRow = tuple[str, tuple[str, ...], str]

FAQS: list[FaqRow] = [
    ("open", "When are you open?", "Nine"),
    ("ship", "How long does shipping take?", "3 days"),
]
QUERIES: list[QueryRow] = [
    ("what are your hours", ("open",), "train"),
    ("opening times?", ("open",), "test"),
    ("how fast", ("ship",), "test"),
    ("sell cars?", (), "test"),
]
FAQ_TABLE: list[Sequence[Any]] = [("faq_id", "question", "answer"), *FAQS]
QUERY_TABLE: list[Sequence[Any]] = [
    ("text", "faq_id", "split"),
    *((text, ids[0] if ids else None, split) for text, ids, split in QUERIES),
]


@dataclass(frozen=True)
class Brought:
    """A source. Either it becomes a tenant of these rows, or it is refused in these words."""

    files: dict[str, str | bytes]
    says: tuple[str, ...] = ()
    """What is printed, among the rest."""
    refused: tuple[str, ...] = ()
    faqs: Sequence[FaqRow] | None = field(default_factory=lambda: FAQS)
    """None: not compared."""
    queries: Sequence[QueryRow] | None = field(default_factory=lambda: QUERIES)
    options: dict[str, Any] = field(default_factory=dict)
    file: str | None = None
    """The one file that is imported instead of the folder."""


def delimited(
    table: Sequence[Sequence[Any]], delimiter: str = ",", *, end: str = "\n", quote: str = '"'
) -> str:
    """A table as delimited text, every cell in quotes but the header's."""

    def cell(value: Any) -> str:
        return "" if value is None else quote + str(value).replace(quote, quote * 2) + quote

    lines = [delimiter.join(table[0])]
    lines += [delimiter.join(cell(value) for value in row) for row in table[1:]]
    return end.join(lines) + end


def records(table: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(table[0], row, strict=True)) for row in table[1:]]


def lines(table: Sequence[Sequence[Any]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records(table))


def arrow(table: Sequence[Sequence[Any]], **columns: Any) -> pa.Table:
    """The table with `columns` in the place of those of the same name."""
    found = {name: [row[n] for row in table[1:]] for n, name in enumerate(table[0])}
    return pa.table({**found, **columns})


def parquet(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def arrow_stream(table: pa.Table) -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


def workbook(
    sheets: dict[str, Sequence[Sequence[Any]]], change: Callable[[Any], None] | None = None
) -> bytes:
    """An Excel file with these sheets, after `change` of the book."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(list(row))
    if change is not None:
        change(book)
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


FAQ_CSV, QUERY_CSV = delimited(FAQ_TABLE), delimited(QUERY_TABLE)


def with_queries(files: dict[str, str | bytes], **rest: Any) -> Brought:
    """A source whose FAQs are plain."""
    return Brought({"faqs.csv": FAQ_CSV, **files}, **rest)


def with_faqs(files: dict[str, str | bytes], **rest: Any) -> Brought:
    """A source whose queries are plain."""
    return Brought({"queries.csv": QUERY_CSV, **files}, **rest)


def renamed(table: Sequence[Sequence[Any]], *names: str) -> list[Sequence[Any]]:
    return [names, *table[1:]]


SHORT = "text,faq_id,split\n"
PIECES = {"b": bz2.compress, "g": gzip.compress, "x": lzma.compress}
