"""Import: three formats give one tenant; samples nest; splits are stable; faults write nothing."""

import csv
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adapterdistill.data import Fault, Query, TenantDataset, import_tenant, nested_order
from adapterdistill.data.checks import check_queries
from adapterdistill.errors import DataError

Row = dict[str, Any]
Writer = Callable[[Path, Sequence[Row]], None]

FAQ_ROWS: list[Row] = [
    {"faq_id": "a", "question": "How, and why?", "answer": 'He said "so".\nThen left.'},
    {"faq_id": "b", "question": "Größe?", "answer": None},
]
QUERY_ROWS: list[Row] = [
    {
        "query_id": f"q{i}",
        "text": f"question, number {i}",
        "faq_id": [None, "a", "b"][i % 3],
        "split": "test" if i >= 90 else "train",
    }
    for i in range(120)
]


def row_of(query: Query) -> Row:
    return {name: getattr(query, name) for name in ("query_id", "text", "faq_id", "split")}


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    with path.with_suffix(".csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_jsonl(path: Path, rows: Sequence[Row]) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.with_suffix(".jsonl").write_text(lines, encoding="utf-8")


def write_parquet(path: Path, rows: Sequence[Row]) -> None:
    pq.write_table(pa.Table.from_pylist(list(rows)), path.with_suffix(".parquet"))


def make(folder: Path, write: Writer, queries: Sequence[Row] | None = QUERY_ROWS) -> Path:
    folder.mkdir()
    write(folder / "faqs", FAQ_ROWS)
    if queries is not None:
        write(folder / "queries", queries)
    return folder


def imported(source: Path, target: Path, **options: Any) -> list[Query]:
    import_tenant(source, target, **options)
    return list(TenantDataset.open(target).queries())


WRITERS = pytest.mark.parametrize("write", [write_csv, write_jsonl, write_parquet])


@WRITERS
def test_every_format_gives_the_rows_that_went_in(write: Writer, tmp_path: Path) -> None:
    source = make(tmp_path / "acme", write)
    counts = import_tenant(source, tmp_path / "out").counts
    tenant = TenantDataset.open(tmp_path / "out")
    assert [vars(faq) for faq in tenant.faqs()] == FAQ_ROWS
    assert [row_of(query) for query in tenant.queries()] == QUERY_ROWS
    assert counts == tenant.counts() and counts["train"] == 90 and counts["oos_test"] == 10


def test_formats_may_be_mixed_and_digests_agree(tmp_path: Path) -> None:
    digests = set()
    for i, write in enumerate((write_csv, write_jsonl, write_parquet)):
        source = make(tmp_path / f"s{i}", write, None)
        (write_jsonl, write_parquet, write_csv)[i](source / "queries", QUERY_ROWS)
        import_tenant(source, tmp_path / f"t{i}")
        digests.add(TenantDataset.open(tmp_path / f"t{i}").digest())
    assert len(digests) == 1


@WRITERS
def test_missing_columns_get_their_defaults(write: Writer, tmp_path: Path) -> None:
    queries = [{"text": row["text"], "faq_id": row["faq_id"]} for row in QUERY_ROWS]
    source = make(tmp_path / "acme", write, queries)
    rows = imported(source, tmp_path / "out")
    again = imported(source, tmp_path / "again")
    assert rows == again and len({row.query_id for row in rows}) == len(rows)
    assert all(row.split == ("unlabelled" if row.faq_id is None else "train") for row in rows)


@WRITERS
def test_answer_column_may_be_missing(write: Writer, tmp_path: Path) -> None:
    source = make(tmp_path / "acme", write, None)
    write(source / "faqs", [{k: row[k] for k in ("question", "faq_id")} for row in FAQ_ROWS])
    assert import_tenant(source, tmp_path / "out").counts["faqs_with_answer"] == 0


def test_source_without_queries_is_a_tenant(tmp_path: Path) -> None:
    source = make(tmp_path / "acme", write_csv, None)
    assert imported(source, tmp_path / "out", k=3) == []


def test_kept_rows_are_the_first_k_of_the_nested_order(tmp_path: Path) -> None:
    source = make(tmp_path / "acme", write_jsonl)
    kept = {}
    for k in (1, 3, 1000):
        kept[k] = imported(source, tmp_path / str(k), k=k, seed=5)
    for faq_id in "ab":
        rows = [r for r in QUERY_ROWS if r["faq_id"] == faq_id and r["split"] == "train"]
        order = nested_order([row["text"] for row in rows], seed=5, tenant="acme")
        expected = {rows[i]["query_id"] for i in order[:3]}
        assert expected == {
            q.query_id for q in kept[3] if q.faq_id == faq_id and q.split == "train"
        }
    assert set(kept[1]) < set(kept[3]) < set(kept[1000])
    assert [row_of(query) for query in kept[1000]] == QUERY_ROWS
    out_of_scope = [r["query_id"] for r in QUERY_ROWS if r["faq_id"] is None]
    assert [q.query_id for q in kept[1] if q.faq_id is None] == out_of_scope


def test_k_zero_keeps_no_training_row_and_every_other(tmp_path: Path) -> None:
    rows = imported(make(tmp_path / "acme", write_csv), tmp_path / "out", k=0)
    assert {row.split for row in rows} == {"test"} and len(rows) == 30


def test_fractions_move_training_rows_the_same_way_at_every_k(tmp_path: Path) -> None:
    source = make(tmp_path / "acme", write_csv)
    options = {"valid_fraction": 0.3, "test_fraction": 0.9 - 0.3, "seed": 2}
    full = imported(source, tmp_path / "full", **options)
    few = imported(source, tmp_path / "few", k=2, **options)
    valid = {row for row in full if row.split == "valid"}
    # The source has test rows of its own, so none is made; it has no valid ones.
    assert {row.query_id for row in full if row.split == "test"} == {
        f"q{i}" for i in range(90, 120)
    }
    assert 10 < len(valid) < 45
    assert valid == {row for row in few if row.split == "valid"}
    assert full == imported(source, tmp_path / "same", **options)


def test_equal_texts_fall_on_one_side(tmp_path: Path) -> None:
    queries = [
        {"query_id": str(i), "text": f"text {i % 40}", "faq_id": "a", "split": "train"}
        for i in range(200)
    ]
    source = make(tmp_path / "acme", write_parquet, queries)
    rows = imported(source, tmp_path / "out", valid_fraction=0.3, test_fraction=0.3)
    sides = {
        text: {row.split for row in rows if row.text == text} for text in {r.text for r in rows}
    }
    assert all(len(splits) == 1 for splits in sides.values())
    assert set.union(*sides.values()) == {"train", "valid", "test"}


def test_row_order_does_not_change_what_is_chosen(tmp_path: Path) -> None:
    forward = make(tmp_path / "acme", write_csv)
    (tmp_path / "turned").mkdir()
    backward = make(tmp_path / "turned" / "acme", write_csv, QUERY_ROWS[::-1])
    options = {"k": 4, "valid_fraction": 0.2}
    assert set(imported(forward, tmp_path / "1", **options)) == set(
        imported(backward, tmp_path / "2", **options)
    )


@pytest.mark.parametrize(
    "options",
    [
        {"k": -1},
        {"valid_fraction": 1.0},
        {"test_fraction": -0.1},
        {"valid_fraction": 0.5, "test_fraction": 0.5},
        {"valid_fraction": float("nan")},
    ],
)
def test_senseless_options_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be"):
        import_tenant(make(tmp_path / "acme", write_csv), tmp_path / "out", **options)


CANARY = b"canary77"
GOOD_CSV = b"query_id,text,faq_id,split\n1,hello,a,train\n"
GOOD_JSON = b'{"query_id": "1", "text": "hello", "faq_id": "a", "split": "train"}\n'
FAULTY = {
    "csv without header": ("queries.csv", b"", None, None),
    "csv column missing": ("queries.csv", b"query_id,faq_id\n1,a\n", None, "text"),
    "csv column twice": ("queries.csv", b"text,text,faq_id\nx,y,a\n", None, "text"),
    "csv short row": ("queries.csv", GOOD_CSV + b"2,canary77\n", 1, None),
    "csv open quote": ("queries.csv", GOOD_CSV + b'2,"canary77', 1, None),
    "csv bad utf8": ("queries.csv", GOOD_CSV + b"2,canary77\xff,a,train\n", 1, "text"),
    "csv empty text": ("queries.csv", GOOD_CSV + b"2,,a,train\n", 1, "text"),
    "csv duplicate id": ("queries.csv", GOOD_CSV + b"1,canary77,a,train\n", 1, "query_id"),
    "csv unknown faq": ("queries.csv", GOOD_CSV + b"2,x,canary77,train\n", 1, "faq_id"),
    "csv unknown split": ("queries.csv", GOOD_CSV + b"2,x,a,canary77\n", 1, "split"),
    "json broken": ("queries.jsonl", GOOD_JSON + b'{"text": "canary77', 1, None),
    "json array": ("queries.jsonl", GOOD_JSON + b'["canary77"]\n', 1, None),
    "json too deep": ("queries.jsonl", GOOD_JSON + b"[" * 100_000, 1, None),
    "json key missing": ("queries.jsonl", GOOD_JSON + b'{"text": "canary77"}\n', 1, "faq_id"),
    "json number": ("queries.jsonl", GOOD_JSON + b'{"text": 7719, "faq_id": "a"}\n', 1, "text"),
    "json bad utf8": (
        "queries.jsonl",
        GOOD_JSON + b'{"text": "canary77\xff", "faq_id": "a"}\n',
        1,
        "text",
    ),
    "json lone surrogate": (
        "queries.jsonl",
        GOOD_JSON + rb'{"text": "canary77\ud800", "faq_id": "a"}',
        1,
        "text",
    ),
    "json blank lines are no rows": (
        "queries.jsonl",
        b"\n" + GOOD_JSON + b'\n\n{"text": " ", "faq_id": "a"}\n',
        1,
        "text",
    ),
    "parquet that is none": ("queries.parquet", b"canary77", None, None),
}


@pytest.mark.parametrize("case", FAULTY)
def test_source_fault_is_named_and_nothing_is_written(case: str, tmp_path: Path) -> None:
    file, payload, row, column = FAULTY[case]
    source = make(tmp_path / "acme", write_csv, None)
    (source / file).write_bytes(payload)
    with pytest.raises(DataError) as caught:
        import_tenant(source, tmp_path / "new" / "out")
    place = file + ("" if row is None else f", row {row}")
    place += "" if column is None else f", column {column}"
    assert f" {place}: " in str(caught.value)
    assert CANARY.decode() not in str(caught.value) and "7719" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["acme"]


def test_csv_with_byte_order_mark_and_windows_lines_is_read(tmp_path: Path) -> None:
    source = make(tmp_path / "acme", write_csv, None)
    payload = GOOD_CSV.replace(b"\n", b"\r\n")
    (source / "queries.csv").write_bytes(b"\xef\xbb\xbf" + payload + b"\r\n2,off,,test\r\n")
    rows = imported(source, tmp_path / "out")
    assert rows == [Query("1", "hello", "a", "train"), Query("2", "off", None, "test")]


def test_source_without_faqs_or_with_two_of_them_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"faqs\.csv"):
        import_tenant(tmp_path / "empty", tmp_path / "out")
    source = make(tmp_path / "acme", write_csv)
    write_jsonl(source / "faqs", FAQ_ROWS)
    with pytest.raises(DataError, match="expected one"):
        import_tenant(source, tmp_path / "out")


def test_existing_target_is_kept_unless_overwriting(tmp_path: Path) -> None:
    source = make(tmp_path / "acme", write_csv)
    import_tenant(source, tmp_path / "out")
    digest = TenantDataset.open(tmp_path / "out").digest()
    with pytest.raises(DataError, match="already holds"):
        import_tenant(source, tmp_path / "out", k=1)
    assert TenantDataset.open(tmp_path / "out").digest() == digest
    import_tenant(source, tmp_path / "out", k=1, overwrite=True)
    assert TenantDataset.open(tmp_path / "out").digest() != digest


@pytest.mark.parametrize("address", ["s3://bucket/x", "file:///tmp/x", "https://host/x"])
def test_addresses_are_refused_as_source_and_as_target(address: str, tmp_path: Path) -> None:
    source = make(tmp_path / "acme", write_csv)
    with pytest.raises(DataError, match="local path"):
        import_tenant(Path(address), tmp_path / "out")
    with pytest.raises(DataError, match="local path"):
        import_tenant(source, Path(address))


def test_reading_goes_on_after_a_broken_row(tmp_path: Path) -> None:
    source = make(tmp_path / "acme", write_csv, None)
    (source / "queries.jsonl").write_bytes(b"{\n" + GOOD_JSON + b"[]\n" + GOOD_JSON)
    with pytest.raises(DataError) as caught:
        import_tenant(source, tmp_path / "out")
    for place in ("row 0: ", "row 2: ", "row 3, column query_id: "):
        assert place in str(caught.value)


def test_a_tenant_may_lie_within_its_source_and_be_made_again(tmp_path: Path) -> None:
    source = make(tmp_path / "acme", write_csv)
    rows = imported(source, source / "tenant")
    assert imported(source, source / "tenant", overwrite=True) == rows


def test_a_tenant_is_a_source_too(tmp_path: Path) -> None:
    source = make(tmp_path / "acme", write_jsonl, QUERY_ROWS[1:])
    with (source / "queries.jsonl").open("a") as stream:
        row = QUERY_ROWS[1] | {"query_id": "two", "text": "both", "faq_id": ["a", "b"]}
        stream.write(json.dumps(row) + "\n")
    import_tenant(source, tmp_path / "once")
    import_tenant(tmp_path / "once", tmp_path / "again")
    digests = {TenantDataset.open(tmp_path / name).digest() for name in ("once", "again")}
    assert len(digests) == 1


def test_links_and_pipes_are_named(tmp_path: Path) -> None:
    source = make(tmp_path / "acme", write_csv, None)
    os.mkfifo(source / "queries.csv")
    (tmp_path / "elsewhere").mkdir()
    (source / "test").symlink_to(tmp_path / "elsewhere")
    (source / "gone.csv").symlink_to(tmp_path / "nothing")
    said = "\n".join(import_tenant(source, tmp_path / "out").report.lines())
    for line in (
        "queries.csv: not a regular file",
        "gone.csv: not a regular file",
        "test: a link to a folder is not followed",
    ):
        assert f"ignored: {line}" in said
    with pytest.raises(DataError, match="nowhere: does not exist"):
        import_tenant(tmp_path / "nowhere", tmp_path / "other")


def test_source_that_changes_during_the_import_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make(tmp_path / "acme", write_jsonl)
    real = check_queries

    def checked(*args: Any) -> list[Fault]:
        faults = real(*args)
        (source / "queries.jsonl").write_bytes(GOOD_JSON + b"{}\n")
        return faults

    monkeypatch.setattr("adapterdistill.data.sources.queries.check_queries", checked)
    with pytest.raises(DataError, match="was changed"):
        import_tenant(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
