"""Laws of the import: one tenant in every dialect, and no row lost in silence."""

import codecs
import csv
import io
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from adapterdistill.data import TenantDataset, import_tenant
from adapterdistill.errors import DataError

# Without the signs that would make a text HTML, a title or a list; with quotes, breaks and accents.
TEXTS = st.text(st.sampled_from("abz ,;|\t\"'\n.?éß日🙂"), min_size=1, max_size=12).map(
    lambda text: f"x{text}x"
)
ROWS = st.lists(st.tuples(TEXTS, st.sampled_from(["a", "b", ""])), min_size=1, max_size=8)
ENCODINGS = {
    "utf-8": b"",
    "utf-8-sig": b"",
    "utf-16": b"",
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
}
NAMES = st.tuples(
    st.sampled_from(["text", "Text", " TEXT", "Query ", "utterance"]),
    st.sampled_from(["faq_id", "FAQ ID", "faq-id ", "Label", "INTENT"]),
    st.sampled_from(["split", "Split", "split ", "SPLIT", "Subset"]),
)
SPLITS = st.lists(st.sampled_from(["train", "test", "valid"]), min_size=8, max_size=8)


def written(header: Any, rows: Any, dialect: dict[str, Any], encoding: str) -> bytes:
    out = io.StringIO(newline="")
    if dialect.pop("sep"):
        out.write(f"sep={dialect['delimiter']}{dialect['lineterminator']}")
    if dialect["lineterminator"] == "\r":  # a "\n" would not be put in quotes, and end the row
        dialect["quoting"] = csv.QUOTE_ALL
    writer = csv.writer(out, **dialect)
    writer.writerow(header)
    writer.writerows(rows)
    return ENCODINGS[encoding] + out.getvalue().encode(encoding)


def tenant_of(folder: Path, name: str, content: bytes) -> list[tuple[str, tuple[str, ...], str]]:
    source = folder / "source"
    source.mkdir()
    (source / "faqs.csv").write_text("faq_id,question\na,First?\nb,Second?\n")
    (source / name).write_bytes(content)
    import_tenant(source, folder / "tenant")
    queries = TenantDataset.open(folder / "tenant").queries()
    return [(q.text, q.faq_ids, q.split) for q in queries]


@given(
    rows=ROWS,
    splits=SPLITS,
    header=NAMES,
    dialect=st.fixed_dictionaries(
        {
            "delimiter": st.sampled_from(",;\t|"),
            "quoting": st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
            "lineterminator": st.sampled_from(["\n", "\r\n", "\r"]),
            "sep": st.booleans(),
        }
    ),
    encoding=st.sampled_from(sorted(ENCODINGS)),
    suffix=st.sampled_from(["csv", "CSV", "tsv", "txt"]),
)
@settings(max_examples=60, deadline=None)
def test_any_dialect_encoding_and_header_of_the_same_rows_is_one_tenant(
    rows: Any, splits: Any, header: Any, dialect: Any, encoding: str, suffix: str
) -> None:
    # Made unique: rows of one text and split with two FAQs are one query.
    numbered = [
        (f"{n} {text}", faq, split)
        for n, ((text, faq), split) in enumerate(zip(rows, splits, strict=False))
    ]
    content = written(header, numbered, dict(dialect), encoding)
    folder = Path(tempfile.mkdtemp())
    try:
        found = tenant_of(folder, f"queries.{suffix}", content)
    finally:
        shutil.rmtree(folder)
    assert found == [(text, (faq,) if faq else (), split) for text, faq, split in numbered]


CELLS = st.sampled_from(["a", "b", "", "a;b", "oos", "nan", "-1", "c", "When?", " a "])
LINES = st.lists(
    st.tuples(
        st.sampled_from(["one", "two", " ONE", "", "<b>three</b>", "<br>", "fo\0ur", "First?"]),
        CELLS,
        st.sampled_from(["train", "Test", "dev", "unlabelled", "", "fold7"]),
    ),
    max_size=6,
)


@given(rows=LINES, short=st.integers(0, 6), empty=st.integers(0, 3))
@settings(max_examples=120, deadline=None)
def test_every_row_is_in_the_tenant_or_named(rows: Any, short: int, empty: int) -> None:
    lines = ["text,faq_id,split", *(",".join(row) for row in rows)]
    if short < len(rows):
        lines[short + 1] = lines[short + 1].rsplit(",", 1)[0]
    content = "\n".join([*lines, *[",,"] * empty]) + "\n"
    folder = Path(tempfile.mkdtemp())
    source = folder / "source"
    source.mkdir()
    (source / "faqs.csv").write_text("faq_id,question\na,First?\nb,Second?\n")
    (source / "queries.csv").write_bytes(content.encode())
    there = [line for line in lines[1:] if line.strip(", ")]
    refused = ""
    try:
        report = import_tenant(source, folder / "tenant").report
        kept = sum(1 for _ in TenantDataset.open(folder / "tenant").queries())
    except DataError as error:
        refused = str(error)
    left = (folder / "tenant").exists()
    shutil.rmtree(folder)
    if refused:  # names a row, and has written nothing
        assert re.search(r"queries\.csv, row \d+", refused) and not left
        return
    said = "\n".join(report.lines())
    merged = re.search(r"several FAQs are right \((\d+):", said)
    assert kept + (int(merged[1]) if merged else 0) == len(there)
    blank = len(rows) - len(there) + empty
    assert (f"{blank} empty row(s)" in said) == (blank > 0)
