"""Every fault names file, row and column, and quotes nothing that the tenant wrote."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adapterdistill.data import Faq, Fault, Query, TenantDataset, find_faults, write_tenant
from adapterdistill.data import checks as checks_module
from adapterdistill.data.schema import local_folder
from adapterdistill.errors import DataError

SECRET = "canary zebra 7719"
Columns = dict[str, Any]


def sound_faqs() -> Columns:
    return {
        "faq_id": ["a", "b", "c"],
        "question": ["How?", "When?", "Where?"],
        "answer": ["So.", None, "Here."],
    }


def sound_queries() -> Columns:
    return {
        "query_id": ["1", "2", "3", "4"],
        "text": ["how so", "what", "when then", "who"],
        "faq_id": ["a", None, "b", None],
        "split": ["train", "test", "valid", "unlabelled"],
    }


def write(folder: Path, faqs: Columns, queries: Columns | None) -> Path:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(faqs), folder / "faqs.parquet")
    if queries is not None:
        pq.write_table(pa.table(queries), folder / "queries.parquet")
    return folder


def invalid_utf8(values: list[bytes | None]) -> pa.Array:
    """A string array that holds the bytes as they are, sound or not."""
    raw = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())


def put(column: str, row: int, value: object) -> Callable[[Columns], None]:
    def change(columns: Columns) -> None:
        columns[column][row] = value

    return change


def drop(column: str) -> Callable[[Columns], None]:
    return lambda columns: columns.pop(column)


def replaced(column: str, values: object) -> Callable[[Columns], None]:
    def change(columns: Columns) -> None:
        columns[column] = values

    return change


SECRET_BYTES = SECRET.encode() + b"\xff\xfe"
FAQS, QUERIES = "faqs.parquet", "queries.parquet"
CASES = {
    "faq column missing": (FAQS, None, "question", drop("question")),
    "answer column missing": (FAQS, None, "answer", drop("answer")),
    "query column missing": (QUERIES, None, "split", drop("split")),
    "faq wrong type": (FAQS, None, "faq_id", replaced("faq_id", [1, 2, 3])),
    "query wrong type": (QUERIES, None, "text", replaced("text", [1.0, 2.0, 3.0, 4.0])),
    "binary is not text": (QUERIES, None, "text", replaced("text", [SECRET.encode()] * 4)),
    "nested type": (QUERIES, None, "text", replaced("text", [{SECRET: 1}] * 4)),
    "duplicate faq id": (FAQS, 2, "faq_id", put("faq_id", 2, "a")),
    "duplicate query id": (QUERIES, 3, "query_id", put("query_id", 3, "1")),
    "unknown faq id": (QUERIES, 2, "faq_id", put("faq_id", 2, SECRET)),
    "empty question": (FAQS, 1, "question", put("question", 1, "")),
    "blank answer": (FAQS, 0, "answer", put("answer", 0, " \t\n")),
    "blank text": (QUERIES, 1, "text", put("text", 1, "\u00a0 ")),
    "empty query id": (QUERIES, 0, "query_id", put("query_id", 0, "")),
    "null faq id": (FAQS, 0, "faq_id", put("faq_id", 0, None)),
    "null question": (FAQS, 2, "question", put("question", 2, None)),
    "null text": (QUERIES, 3, "text", put("text", 3, None)),
    "null split": (QUERIES, 2, "split", put("split", 2, None)),
    "unknown split": (QUERIES, 0, "split", put("split", 0, SECRET)),
    "unlabelled with faq": (QUERIES, 3, "faq_id", put("faq_id", 3, "a")),
    "bad utf8 in text": (
        QUERIES,
        2,
        "text",
        replaced("text", invalid_utf8([b"x", b"y", SECRET_BYTES, b"z"])),
    ),
    "bad utf8 in faq id": (
        QUERIES,
        0,
        "faq_id",
        replaced("faq_id", invalid_utf8([SECRET_BYTES, None, b"b", None])),
    ),
    "bad utf8 in answer": (
        FAQS,
        1,
        "answer",
        replaced("answer", invalid_utf8([None, SECRET_BYTES, b"ok"])),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_fault_names_file_row_and_column_and_quotes_nothing(case: str, tmp_path: Path) -> None:
    file, row, column, change = CASES[case]
    faqs, queries = sound_faqs(), sound_queries()
    change(faqs if file == FAQS else queries)
    folder = write(tmp_path / "tenant", faqs, queries)

    faults = find_faults(folder)
    places = [(fault.file, fault.row, fault.column) for fault in faults]
    assert (file, row, column) in places
    # A changed FAQ table may orphan queries; else the fault stands alone.
    assert all(fault.file == QUERIES for fault in faults if places[0] != (file, row, column))
    assert len(faults) == 1 or file == FAQS

    with pytest.raises(DataError) as caught:
        TenantDataset.open(folder)
    message = str(caught.value)
    assert file in message
    assert "canary" not in message and "zebra" not in message and "7719" not in message
    assert str(pickle.loads(pickle.dumps(caught.value))) == message


@pytest.mark.parametrize(("count", "problem"), [(0, "no FAQ"), (1, "one FAQ only")])
def test_fewer_than_two_faqs_is_a_fault(count: int, problem: str, tmp_path: Path) -> None:
    table = pa.table({name: pa.array(v[:count], pa.string()) for name, v in sound_faqs().items()})
    folder = write(tmp_path / "tenant", {c: table[c] for c in table.column_names}, None)
    (fault,) = find_faults(folder)
    assert (fault.file, fault.row) == (FAQS, None) and problem in fault.problem


def test_missing_folder_and_missing_faq_file_are_faults(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        (fault,) = find_faults(folder)
        assert fault == Fault(FAQS, None, None, "does not exist")


def test_folder_in_place_of_a_file_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / FAQS).mkdir()
    (fault,) = find_faults(tmp_path)
    assert "regular file" in fault.problem


@pytest.mark.parametrize("payload", [b"", b"PAR1", b"faq_id,question\n1,x\n", b"\x00" * 4096])
def test_file_that_is_not_parquet_is_a_fault(payload: bytes, tmp_path: Path) -> None:
    folder = write(tmp_path / "tenant", sound_faqs(), None)
    (folder / QUERIES).write_bytes(payload)
    (fault,) = find_faults(folder)
    assert (fault.file, fault.row, fault.column) == (QUERIES, None, None)


def test_truncated_file_is_a_fault_wherever_it_is_cut(tmp_path: Path) -> None:
    folder = write(tmp_path / "tenant", sound_faqs(), sound_queries())
    whole = (folder / QUERIES).read_bytes()
    for size in range(0, len(whole), 97):
        (folder / QUERIES).write_bytes(whole[:size])
        assert [fault.file for fault in find_faults(folder)] == [QUERIES]


def test_damaged_bytes_never_raise_anything_but_faults(tmp_path: Path) -> None:
    write_tenant(tmp_path / "tenant", FAQ_ROWS, many_queries(300))
    path = tmp_path / "tenant" / QUERIES
    whole = path.read_bytes()
    for position in range(0, len(whole), 41):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        for fault in find_faults(tmp_path / "tenant"):
            assert fault.file == QUERIES


def test_damaged_page_is_found_by_its_checksum(tmp_path: Path) -> None:
    write_tenant(tmp_path / "tenant", FAQ_ROWS, many_queries(300))
    path = tmp_path / "tenant" / QUERIES
    whole = bytearray(path.read_bytes())
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(1)
    whole[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 0xFF
    path.write_bytes(whole)
    assert [(f.file, f.row) for f in find_faults(tmp_path / "tenant")] == [(QUERIES, None)]


def test_all_faults_are_found_in_order_and_the_message_counts_them(tmp_path: Path) -> None:
    queries = {
        "query_id": [f"{i}" for i in range(50)],
        "text": [""] * 50,
        "faq_id": ["a"] * 50,
        "split": ["train"] * 25 + ["nonsense"] * 25,
    }
    folder = write(tmp_path / "tenant", {**sound_faqs(), "faq_id": ["a", "a", ""]}, queries)
    faults = find_faults(folder)
    assert [f.row for f in faults if f.file == FAQS] == [1, 2]
    rows = [f.row for f in faults if f.file == QUERIES]
    assert rows == sorted(rows, key=lambda row: -1 if row is None else row) and len(rows) == 75
    with pytest.raises(DataError, match="77 fault"):
        TenantDataset.open(folder)


def test_hopeless_file_stops_after_a_bounded_number_of_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks_module, "MAX_FAULTS", 5)
    queries = sound_queries()
    folder = write(tmp_path / "t", sound_faqs(), {name: v * 20 for name, v in queries.items()})
    faults = find_faults(folder)
    assert len(faults) == 6 and "stopped looking" in faults[-1].problem


@pytest.mark.parametrize(
    "address",
    [
        "s3://bucket/tenant",
        "http://host/x",
        "hdfs://nn/x",
        "file:///etc",
        "gs://b",
        Path("s3://b/x"),
        "FILE:/x",
    ],
)
def test_addresses_with_a_scheme_are_refused(address: Path | str) -> None:
    with pytest.raises(DataError, match="local path"):
        local_folder(address)
    with pytest.raises(DataError, match="local path"):
        TenantDataset.open(Path(address))
    with pytest.raises(DataError, match="local path"):
        write_tenant(Path(address), FAQ_ROWS, [])


def test_local_paths_are_accepted() -> None:
    for path in ("/data/tenant", "tenant", "./a:b", "../x", "odd:name", "C:/data"):
        assert local_folder(path) == Path(path)


FAQ_ROWS = [Faq("a", "How?", None), Faq("b", "When?", "Now.")]


def many_queries(count: int) -> list[Query]:
    return [Query(f"q{i}", f"question number {i}", "ab"[i % 2], "train") for i in range(count)]
