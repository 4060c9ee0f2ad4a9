"""Excel, Parquet, Arrow, Rasa and folders as people bring them."""

import datetime
from typing import Any

import openpyxl
import pyarrow as pa

from tests.unit.data.brought import (
    FAQ_TABLE,
    QUERY_CSV,
    QUERY_TABLE,
    Brought,
    arrow,
    arrow_stream,
    parquet,
    with_queries,
    workbook,
)


def hidden(book: Any) -> None:
    book["old"].sheet_state = "hidden"


def merged(book: Any) -> None:
    for cells in ("A2:A3", "C2:C3", "A6:B6"):
        book["Sheet1"].merge_cells(cells)


def percent(book: Any) -> None:
    book["Sheet1"]["C2"].number_format = "0%"


def zeros_and_currency(book: Any) -> None:
    book["S"]["A2"].number_format = "0000"
    book["S"]["C6"].number_format = '#,##0.00 "EUR"'


def hidden_row(book: Any) -> None:
    book["S"].row_dimensions[3].hidden = True


def formatted(book: Any) -> None:
    sheet = book["Sheet1"]
    for row in range(10, 3000):
        sheet.cell(row, 1).font = openpyxl.styles.Font(bold=True)


EXCEL = {
    "book of two sheets": Brought(
        {"acme.xlsx": workbook({"FAQs": FAQ_TABLE, "Queries": QUERY_TABLE})},
        says=('acme.xlsx, sheet "FAQs": Excel',),
    ),
    "book alone": Brought(
        {"acme.xlsx": workbook({"FAQs": FAQ_TABLE, "Queries": QUERY_TABLE})}, file="acme.xlsx"
    ),
    "two books": Brought(
        {
            "FAQ.xlsx": workbook({"Tabelle1": FAQ_TABLE}),
            "queries.XLSX": workbook({"Tabelle1": QUERY_TABLE}),
        }
    ),
    "sheets that are no tables": with_queries(
        {
            "queries.xlsx": workbook(
                {"Notes": [("Author", "Date"), ("me", "May")], "Rows": QUERY_TABLE, "Empty": []}
            )
        },
        says=('sheet "Notes": neither', 'sheet "Empty": the sheet is empty'),
    ),
    "hidden sheet": with_queries(
        {"queries.xlsx": workbook({"Rows": QUERY_TABLE, "old": QUERY_TABLE}, hidden)},
        says=('sheet "old": the sheet is hidden',),
    ),
    "two sheets that could be meant": with_queries(
        {"queries.xlsx": workbook({"May": QUERY_TABLE, "June": QUERY_TABLE})},
        refused=("all seem to hold the queries: expected one of them",),
    ),
    "empty rows, columns and a title": with_queries(
        {
            "queries.xlsx": workbook(
                {
                    "S": [("Acme", None), (), *([None, *row, None] for row in QUERY_TABLE[:3]), ()]
                    + [[None, *row] for row in QUERY_TABLE[3:]]
                }
            )
        },
        says=("above the header", "1 empty row(s)"),
    ),
    "thousands of formatted empty rows": with_queries(
        {"queries.xlsx": workbook({"Sheet1": QUERY_TABLE}, formatted)}
    ),
    "merged cells of phrasings": Brought(
        {
            "faqs.xlsx": workbook(
                {
                    "Sheet1": [
                        ("ID", "Question", "Answer"),
                        (1, "When?", "Nine"),
                        (None, "hours", None),
                        (2, "How long?", 3),
                    ]
                },
                merged,
            )
        },
        faqs=[("1", "When?", "Nine"), ("2", "How long?", "3")],
        queries=[("hours", ("1",), "train")],
    ),
    "numbers and dates": Brought(
        {
            "faqs.xlsx": workbook(
                {
                    "S": [
                        ("faq_id", "question", "answer"),
                        (1.0, "When?", datetime.datetime(2026, 5, 4)),
                        (2, 2024, 9.5),
                    ]
                }
            )
        },
        faqs=[("1", "When?", "2026-05-04"), ("2", "2024", "9.5")],
        queries=[],
    ),
    "percentages and line breaks": Brought(
        {
            "faqs.xlsx": workbook(
                {
                    "Sheet1": [
                        ("id", "question", "answer"),
                        (1, "A?", 0.5),
                        (2, "B?", "x_x000D_\ny"),
                    ]
                },
                percent,
            )
        },
        faqs=[("1", "A?", "50%"), ("2", "B?", "x\r\ny")],
        queries=[],
    ),
    "formats that Excel shows otherwise": Brought(
        {
            "faqs.xlsx": workbook(
                {
                    "S": [
                        ("id", "question", "answer"),
                        (12, "A?", datetime.time(9, 30)),
                        (13, "B?", datetime.datetime(2026, 3, 4, 9, 30)),
                        (14, "C?", datetime.timedelta(hours=30)),
                        (15, "D?", True),
                        (16, "E?", 1234.5),
                    ]
                },
                zeros_and_currency,
            )
        },
        faqs=[
            ("0012", "A?", "09:30"),
            ("13", "B?", "2026-03-04 09:30"),
            ("14", "C?", "30:00"),
            ("15", "D?", "TRUE"),
            ("16", "E?", "1234.5"),
        ],
        queries=[],
        says=("4 cell(s) with a number, date or time are read without the format",),
    ),
    "hidden row and a cell that Excel may have cut": Brought(
        {"faqs.xlsx": workbook({"S": [*FAQ_TABLE, ("x", "C?", "y" * 32_767)]}, hidden_row)},
        faqs=None,
        queries=[],
        says=("1 hidden row(s) are read", "1 cell(s) have 32767 characters"),
    ),
    "a sheet a split": with_queries(
        {
            "asked.xlsx": workbook(
                {"Train": QUERY_TABLE[:2], "Test": QUERY_TABLE[:1] + QUERY_TABLE[2:]}
            )
        }
    ),
    "formula that was never computed": Brought(
        {"faqs.xlsx": workbook({"S": [*FAQ_TABLE, ("x", '="sec"&"ret"', "#N/A")]})},
        refused=("row 2, column question: is a formula without a computed value",),
    ),
    "error value": Brought(
        {"faqs.xlsx": workbook({"S": [*FAQ_TABLE, ("x", "#REF!", None)]})},
        refused=("row 2, column question: holds an error value",),
    ),
    "book that is none": Brought({"faqs.xlsx": b"secret"}, refused=("faqs.xlsx: cannot be read",)),
    "book with a password": Brought(
        {"faqs.xlsx": b"\xd0\xcf\x11\xe0secret"},
        refused=("faqs.xlsx: has a password, or is an old",),
    ),
    "format of another program": with_queries(
        {"queries.ods": b"PK"}, refused=("queries.ods: is not of a format that is read",)
    ),
    "lock file of a book": with_queries(
        {"queries.csv": QUERY_CSV, "~$faqs.xlsx": b"x"},
        says=("~$faqs.xlsx: a hidden or temporary",),
    ),
    "old format": with_queries({"queries.xls": b"x"}, refused=("queries.xls: is not of a format",)),
}

NUMBERED = {"faq_id": [1, 2], "question": ["A?", "B?"]}
NUMBERED_FAQS = [("1", "A?", None), ("2", "B?", None)]
NUMBERED_QUERIES = [("a", ("1",), "train"), ("b", ("2",), "train")]


def numbered(kind: Any, values: tuple[Any, ...] = (1, 2)) -> Brought:
    table = pa.table({"text": ["a", "b"], "faq_id": pa.array(values, kind)})
    return Brought(
        {"faqs.parquet": parquet(pa.table(NUMBERED)), "queries.parquet": parquet(table)},
        faqs=NUMBERED_FAQS,
        queries=NUMBERED_QUERIES,
    )


TEXTS = [row[0] for row in QUERY_TABLE[1:]]
PARQUET = {
    "parquet int32 ids": numbered(pa.int32()),
    "parquet float ids": numbered(pa.float64()),
    "parquet decimal ids": numbered(pa.decimal128(5, 1)),
    "parquet dictionary ids": numbered(pa.dictionary(pa.int8(), pa.string()), ("1", "2")),
    "parquet list ids": numbered(pa.list_(pa.int64()), ([1], [2])),
    **{
        f"parquet {kind} texts": with_queries(
            {"queries.parquet": parquet(arrow(QUERY_TABLE, text=pa.array(TEXTS).cast(kind)))}
        )
        for kind in (pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary())
    },
    "parquet dictionary texts": with_queries(
        {"queries.parquet": parquet(arrow(QUERY_TABLE, text=pa.array(TEXTS).dictionary_encode()))}
    ),
    "parquet binary that is no text": with_queries(
        {"queries.parquet": parquet(arrow(QUERY_TABLE, text=pa.array([b"\xff"] * 4)))},
        refused=("row 0, column text: is not valid UTF-8",),
    ),
    "parquet numbers for texts": with_queries(
        {"queries.parquet": parquet(arrow(QUERY_TABLE, text=[1.5] * 4))},
        refused=("row 3, column text: is not text",),
    ),
    "parquet null labels": with_queries(
        {"queries.parquet": parquet(pa.table({"text": ["a"], "faq_id": pa.nulls(1)}))},
        queries=[("a", (), "unlabelled")],
    ),
    "pq suffix": with_queries({"queries.pq": parquet(arrow(QUERY_TABLE))}),
    "arrow stream": with_queries({"queries.arrow": arrow_stream(arrow(QUERY_TABLE))}),
    "parquet that is none": with_queries(
        {"queries.parquet": b"secret"}, refused=("queries.parquet: cannot be read: damaged",)
    ),
}

BOOKS = {**EXCEL, **PARQUET}
