"""Reading streams, the digest names content and not encoding, writing is all or nothing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adapterdistill.data import Faq, Query, TenantDataset, find_faults, write_tenant
from adapterdistill.data.reading import read_table
from adapterdistill.errors import DataError

FAQS = [Faq("a", "How?", None), Faq("b", "Größe?", "Ünïcode ☂."), Faq("c", "Where?", "Here.")]
QUERIES = [
    Query("1", "how so", "a", "train"),
    Query("2", "what on earth", None, "train"),
    Query("3", "wann", "b", "valid"),
    Query("4", "nobody labelled me", None, "unlabelled"),
    Query("5", "where to", "c", "test"),
    Query("6", "off topic", None, "test"),
]


@pytest.fixture
def tenant(tmp_path: Path) -> TenantDataset:
    write_tenant(tmp_path / "acme", FAQS, QUERIES)
    return TenantDataset.open(tmp_path / "acme")


def test_what_was_written_is_read_back(tenant: TenantDataset) -> None:
    assert tenant.faqs() == FAQS
    assert list(tenant.queries()) == QUERIES
    assert [q.query_id for q in tenant.queries("train")] == ["1", "2"]
    assert [q.query_id for q in tenant.queries("test", batch_rows=1)] == ["5", "6"]


def test_counts_follow_the_definition(tenant: TenantDataset) -> None:
    assert tenant.counts() == {
        "faqs": 3,
        "faqs_with_answer": 2,
        "train": 2,
        "valid": 1,
        "test": 2,
        "unlabelled": 1,
        "out_of_scope": 2,
        "oos_train": 1,
        "oos_valid": 0,
        "oos_test": 1,
    }


def test_unknown_split_or_batch_is_the_callers_error(tenant: TenantDataset) -> None:
    with pytest.raises(ValueError, match="split"):
        tenant.queries("dev")
    with pytest.raises(ValueError, match="batch_rows"):
        tenant.queries(batch_rows=0)


def test_tenant_without_queries_is_valid(tmp_path: Path) -> None:
    write_tenant(tmp_path / "empty", FAQS, [])
    write_tenant(tmp_path / "none", FAQS, [])
    (tmp_path / "none" / "queries.parquet").unlink()
    empty, none = TenantDataset.open(tmp_path / "empty"), TenantDataset.open(tmp_path / "none")
    assert list(empty.queries()) == list(none.queries()) == []
    assert empty.digest() == none.digest()
    assert none.counts()["train"] == 0


def _table(kind: pa.DataType) -> tuple[pa.Table, pa.Table]:
    def array(values: list[str | None]) -> pa.Array:
        return pa.array(values, pa.string()).cast(kind)

    faqs = pa.table(
        {n: array([getattr(f, n) for f in FAQS]) for n in ("faq_id", "question", "answer")}
    )
    names = ("split", "text", "faq_id", "query_id")
    queries = pa.table({n: array([getattr(q, n) for q in QUERIES]) for n in names})
    return faqs, queries.append_column("extra", pa.array(range(len(QUERIES))))


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.dictionary(pa.int8(), pa.large_string()),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "gzip", "row_group_size": 2, "use_dictionary": False}, {"version": "1.0"}],
    ids=["default", "gzip", "v1"],
)
def test_digest_is_independent_of_encoding(
    kind: pa.DataType, options: dict[str, Any], tenant: TenantDataset, tmp_path: Path
) -> None:
    faqs, queries = _table(kind)
    pq.write_table(faqs, tmp_path / "faqs.parquet", **options)
    pq.write_table(queries, tmp_path / "queries.parquet", **options)
    other = TenantDataset.open(tmp_path)
    assert list(other.queries()) == QUERIES
    assert other.digest() == tenant.digest()


def test_digest_changes_with_any_value_and_with_the_order(tmp_path: Path) -> None:
    changed = [
        (FAQS, QUERIES),
        (FAQS[::-1], QUERIES),
        (FAQS, QUERIES[::-1]),
        (FAQS, QUERIES[:-1]),
        ([*FAQS[:2], Faq("c", "Where?", None)], QUERIES),
        (FAQS, [Query("1", "how so", "b", "train"), *QUERIES[1:]]),
        (FAQS, [Query("1", "how so", "a", "test"), *QUERIES[1:]]),
    ]
    digests = set()
    for i, (faqs, queries) in enumerate(changed):
        write_tenant(tmp_path / str(i), faqs, queries)
        digests.add(TenantDataset.open(tmp_path / str(i)).digest())
    assert len(digests) == len(changed)


def test_null_typed_columns_are_accepted_where_nulls_are(tmp_path: Path) -> None:
    faqs, _ = _table(pa.string())
    faqs = faqs.set_column(2, "answer", pa.nulls(3))
    pq.write_table(faqs, tmp_path / "faqs.parquet")
    assert [faq.answer for faq in TenantDataset.open(tmp_path).faqs()] == [None] * 3


def test_reading_never_holds_more_than_some_batches(tmp_path: Path) -> None:
    rows = 40_000
    bulk = (Query(f"q{i}", f"{i} " + "words " * 60, "a", "train") for i in range(rows))
    write_tenant(tmp_path / "big", FAQS, bulk)
    # One row group, incompressible by dictionary: the worst case for a streaming reader.
    table = pq.read_table(tmp_path / "big" / "queries.parquet")
    text_bytes = table.nbytes
    pq.write_table(
        table, tmp_path / "big" / "queries.parquet", row_group_size=rows, use_dictionary=False
    )
    del table
    before = pa.total_allocated_bytes()
    peak = 0
    for query in TenantDataset(tmp_path / "big").queries(batch_rows=256):
        if query.query_id.endswith("00"):
            peak = max(peak, pa.total_allocated_bytes() - before)
    assert text_bytes > 14_000_000
    assert peak < text_bytes / 3


def test_first_query_comes_before_the_last_is_read(
    tenant: TenantDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def watched(*args: Any, **options: Any) -> Iterator[Any]:
        for batch in read_table(*args, **options):
            asked.append(batch.first_row)
            yield batch

    monkeypatch.setattr("adapterdistill.data.dataset.read_table", watched)
    stream = tenant.queries(batch_rows=2)
    assert asked == []
    next(stream)
    assert asked == [0]
    list(stream)
    assert asked == [0, 2, 4]


def test_file_changed_after_opening_is_an_error_without_text(tenant: TenantDataset) -> None:
    (tenant.path / "queries.parquet").write_bytes(b"gone wrong")
    with pytest.raises(DataError, match=r"queries\.parquet") as caught:
        list(tenant.queries())
    assert "gone wrong" not in str(caught.value)


@pytest.mark.parametrize(
    "queries",
    [
        [Query("1", "x", "nowhere", "train")],
        [Query("1", "x", "a", "train"), Query("1", "y", "a", "train")],
        [Query("1", "  ", "a", "train")],
        [Query("1", "bad \ud800 surrogate", "a", "train")],
        [Query("1", None, "a", "train")],  # type: ignore[arg-type]
    ],
)
def test_nothing_is_written_when_rows_are_unsound(queries: list[Query], tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        write_tenant(tmp_path / "acme", FAQS, queries)
    assert list(tmp_path.iterdir()) == []
    assert "nowhere" not in str(caught.value) and "surrogate" not in str(caught.value)


def test_source_that_breaks_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    def rows() -> Iterator[Query]:
        yield QUERIES[0]
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        write_tenant(tmp_path / "acme", FAQS, rows())
    assert list(tmp_path.iterdir()) == []


def test_existing_tenant_is_replaced_only_when_asked(tenant: TenantDataset) -> None:
    digest = tenant.digest()
    with pytest.raises(DataError, match="already holds"):
        write_tenant(tenant.path, FAQS[:2], [])
    assert tenant.digest() == digest
    with pytest.raises(DataError):
        write_tenant(tenant.path, FAQS[:1], [], overwrite=True)
    assert tenant.digest() == digest
    write_tenant(tenant.path, FAQS[:2], [], overwrite=True)
    assert tenant.faqs() == FAQS[:2]
    assert [p.name for p in tenant.path.parent.iterdir()] == ["acme"]


def test_folder_with_other_files_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="other files"):
        write_tenant(tmp_path, FAQS, [], overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_failed_replacement_puts_the_old_tenant_back(
    tenant: TenantDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, real = tenant.digest(), Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.name == "tenant":
            raise OSError(28, "disk is full")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(DataError, match="disk is full"):
        write_tenant(tenant.path, FAQS[:2], [], overwrite=True)
    assert tenant.digest() == digest and find_faults(tenant.path) == []


def test_queries_with_several_right_faqs_are_rows_of_one_id(tmp_path: Path) -> None:
    queries = [*QUERIES, Query("7", "how and where", "a", "test", ("c", "b"))]
    write_tenant(tmp_path / "acme", FAQS, queries)
    tenant = TenantDataset.open(tmp_path / "acme")
    assert list(tenant.queries()) == queries
    assert list(tenant.queries("test", batch_rows=1))[-1].faq_ids == ("a", "c", "b")
    table = pq.read_table(tmp_path / "acme" / "queries.parquet").to_pylist()
    assert [row["faq_id"] for row in table if row["query_id"] == "7"] == ["a", "c", "b"]
    assert tenant.counts()["test"] == 3
    assert tenant.digest() != TenantDataset.open(alone(tmp_path, queries[:-1])).digest()


def alone(tmp_path: Path, queries: list[Query]) -> Path:
    write_tenant(tmp_path / "alone", FAQS, queries)
    return tmp_path / "alone"


@pytest.mark.parametrize(
    "second",
    [
        Query("2", "another text", "b", "train"),
        Query("2", "what on earth", "b", "valid"),
        Query("2", "what on earth", "a", "train"),
        Query("2", "what on earth", None, "train"),
    ],
)
def test_rows_of_one_id_that_are_not_one_query_are_a_fault(tmp_path: Path, second: Query) -> None:
    first = Query("2", "what on earth", "a", "train")
    with pytest.raises(DataError, match="row 1, column query_id: repeats the id"):
        write_tenant(tmp_path / "acme", FAQS, [first, second])
