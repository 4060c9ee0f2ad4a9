"""A tenant's folder: open and check it, stream it, digest it, write it whole or not at all."""

import hashlib
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from adapterdistill.data.checks import check_faqs, check_queries
from adapterdistill.data.reading import BATCH_ROWS, Defect, UnreadableTableError, read_table
from adapterdistill.data.schema import (
    FAQ_COLUMNS,
    FAQS_FILE,
    QUERIES_FILE,
    QUERY_COLUMNS,
    SPLITS,
    TASKS_FOLDER,
    Faq,
    Fault,
    Query,
    faults_message,
    local_folder,
)
from adapterdistill.data.sources.naming import SUFFIXES, role_of, suffix_of
from adapterdistill.data.tasks import Task, check_task, read_task
from adapterdistill.errors import DataError
from adapterdistill.files import private_folder, sync
from adapterdistill.manifest import canonical_json

_IMPORT = "make a tenant with `adapterdistill data import SOURCE TARGET`"
_TASK_NAME = re.compile(r"[a-z0-9_]{1,40}")
_FAQ_SCHEMA = pa.schema([pa.field(c, pa.string(), nullable=c == "answer") for c in FAQ_COLUMNS])
_QUERY_SCHEMA = pa.schema([pa.field(c, pa.string(), nullable=c == "faq_id") for c in QUERY_COLUMNS])


def find_faults(folder: Path) -> list[Fault]:
    """Find all faults, in order of file and row; a sound tenant has none. Streams the tables.

    Raises:
        DataError: `folder` is not a local path.
    """
    folder = local_folder(folder)
    faqs, queries = folder / FAQS_FILE, folder / QUERIES_FILE
    is_there = faqs.exists()
    brought = _brought(folder)
    if brought and not is_there:
        shown = ", ".join(brought[:3]) + (", ..." if len(brought) > 3 else "")
        problem = f"does not exist, but {shown} does: {_IMPORT}"
        return [Fault(FAQS_FILE, None, None, problem)]
    faults, faq_ids = check_faqs(read_table(faqs, FAQ_COLUMNS), FAQS_FILE)
    if queries.exists():
        faults += check_queries(read_table(queries, QUERY_COLUMNS), QUERIES_FILE, faq_ids)
    else:
        lost = [name for name in brought if role_of(name) == "queries"]
        faults += [Fault(name, None, None, f"is not read: {_IMPORT}") for name in lost]
    for path in _task_files(folder):
        name = f"{TASKS_FOLDER}/{path.name}"
        if not _TASK_NAME.fullmatch(path.stem):
            problem = "holds a file whose name is not up to 40 of a-z, 0-9 and _"
            faults.append(Fault(TASKS_FOLDER, None, None, problem))
            continue
        found = check_task(path)
        if not isinstance(found, Task):
            faults += [replace(fault, file=name) for fault in found]
    return faults


def _read_queries(path: Path, batch_rows: int) -> Iterator[Query]:
    rows = _sound_rows(path, QUERY_COLUMNS, batch_rows)
    for query_id, of_query in groupby(rows, key=itemgetter(0)):
        (_, text, faq_id, split), *others = of_query
        further = tuple(_text(other[2]) for other in others)
        yield Query(_text(query_id), _text(text), faq_id, _text(split), further)


def _brought(folder: Path) -> list[str]:
    """Tables as people bring them, which are no part of a tenant's folder."""
    paths = folder.iterdir() if folder.is_dir() else [folder] if folder.is_file() else []
    return sorted(
        path.name
        for path in paths
        if suffix_of(path) in SUFFIXES and path.name not in (FAQS_FILE, QUERIES_FILE)
    )


def _task_files(folder: Path) -> list[Path]:
    return sorted((folder / TASKS_FOLDER).glob("*.jsonl"))


@dataclass(frozen=True)
class TenantDataset:
    """A tenant's folder that was found sound when it was opened."""

    path: Path

    @classmethod
    def open(cls, folder: Path) -> "TenantDataset":
        """Open a sound folder. Raises DataError with the first faults and how many there are."""
        folder = local_folder(folder)
        faults = find_faults(folder)
        if faults:
            raise DataError(faults_message(folder, faults))
        return cls(folder)

    def faqs(self) -> list[Faq]:
        """Read all FAQs, in the file's order."""
        rows = _sound_rows(self.path / FAQS_FILE, FAQ_COLUMNS, BATCH_ROWS)
        return [Faq(_text(i), _text(question), answer) for i, question, answer in rows]

    def queries(self, split: str | None = None, batch_rows: int = BATCH_ROWS) -> Iterator[Query]:
        """Stream the queries (of one split), in the file's order.

        Raises:
            ValueError: there is no such split, or `batch_rows` is not positive.
            DataError: the file was changed since it was opened and is no longer sound.
        """
        if split is not None and split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}")
        if batch_rows < 1:
            raise ValueError(f"batch_rows must be positive, got {batch_rows}")
        return self._queries(split, batch_rows)

    def _queries(self, split: str | None, batch_rows: int) -> Iterator[Query]:
        path = self.path / QUERIES_FILE
        if not path.exists():
            return
        for query in _read_queries(path, batch_rows):
            if split is None or query.split == split:
                yield query

    def tasks(self) -> list[Task]:
        """Read the tenant's further tasks, by name: the files of its folder `tasks`, if it has one.

        Raises:
            DataError: a file was changed since the tenant was opened and is no longer sound.
        """
        return [read_task(path) for path in _task_files(self.path)]

    def counts(self) -> dict[str, int]:
        """Count FAQs, and rows by split; `oos_*` counts a split's out-of-scope rows once more."""
        faqs = self.faqs()
        counts = {
            "faqs": len(faqs),
            "faqs_with_answer": sum(faq.answer is not None for faq in faqs),
            **dict.fromkeys(SPLITS, 0),
            "out_of_scope": 0,
            **{f"oos_{split}": 0 for split in SPLITS if split != "unlabelled"},
        }
        for query in self.queries():
            counts[query.split] += 1
            if query.out_of_scope:
                counts["out_of_scope"] += 1
                counts[f"oos_{query.split}"] += 1
        return counts

    def digest(self) -> str:
        """Digest the rows in the file's order, however Parquet encodes them.

        A tenant without a query file has the digest of one with an empty query file. Tasks are
        included if there are any.
        """
        digest = hashlib.sha256(b"adapterdistill tenant 1\n")
        for faq in self.faqs():
            digest.update(canonical_json([faq.faq_id, faq.question, faq.answer]) + b"\n")
        digest.update(b"queries\n")
        for query in self.queries():
            row = [query.query_id, query.text, query.faq_id, query.split, *query.further]
            digest.update(canonical_json(row) + b"\n")
        for task in self.tasks():
            digest.update(canonical_json(["task", asdict(task)]) + b"\n")
        return digest.hexdigest()


def _sound_rows(
    path: Path, columns: Sequence[str], batch_rows: int
) -> Iterator[tuple[str | None, ...]]:
    try:
        for batch in read_table(path, columns, batch_rows=batch_rows):
            for row, cells in batch.rows():
                if any(isinstance(cell, Defect) for cell in cells):
                    raise UnreadableTableError([Fault(path.name, row, None, "is no longer sound")])
                yield tuple(None if isinstance(cell, Defect) else cell for cell in cells)
    except UnreadableTableError as error:
        raise DataError(faults_message(path.parent, error.faults)) from None


def _text(cell: str | None) -> str:
    if cell is None:
        raise DataError("a required value became null since the tenant was opened")
    return cell


def write_tenant(
    folder: Path, faqs: Iterable[Faq], queries: Iterable[Query], *, overwrite: bool = False
) -> None:
    """Write a tenant beside its place, check it, and move it there in one rename.

    `overwrite` replaces a tenant folder; it never removes a folder that holds anything else.

    Raises:
        DataError: the rows break the format, or the folder is in the way. Nothing was written.
    """
    folder = local_folder(folder)
    refuse_to_replace(folder, overwrite=overwrite)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as staging:
            staged = Path(staging) / "tenant"
            private_folder(staged)
            faq_rows = ((f.faq_id, f.question, f.answer) for f in faqs)
            _write_table(staged / FAQS_FILE, _FAQ_SCHEMA, faq_rows)
            query_rows = (
                (q.query_id, q.text, faq_id, q.split)
                for q in queries
                for faq_id in q.faq_ids or (None,)
            )
            _write_table(staged / QUERIES_FILE, _QUERY_SCHEMA, query_rows)
            faults = find_faults(staged)
            if faults:
                raise DataError(faults_message(folder, faults))
            sync(staged)
            _move(staged, folder, replaced=Path(staging) / "replaced")
        sync(folder.parent)
    except OSError as error:
        reason = error.strerror or "the file system refused it"
        raise DataError(f"{folder} cannot be written: {reason}") from error


def _move(staged: Path, folder: Path, *, replaced: Path) -> None:
    """Put `staged` in the folder's place; if that fails, put the old tenant back."""
    if folder.exists():
        folder.rename(replaced)
    try:
        staged.rename(folder)
    except OSError:
        if replaced.exists():
            replaced.rename(folder)
        raise


def refuse_to_replace(folder: Path, *, overwrite: bool) -> None:
    """Raise DataError unless a tenant may be written to `folder`."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise DataError(f"{folder} is in the way: it is not a folder")
    names = {entry.name for entry in folder.iterdir()}
    if TASKS_FOLDER in names:
        raise DataError(f"{folder} is in the way: it holds tasks, which would be lost: move them")
    if names - {FAQS_FILE, QUERIES_FILE}:
        raise DataError(f"{folder} is in the way: it holds other files than a tenant's")
    if names and not overwrite:
        raise DataError(f"{folder} already holds a tenant; ask for overwriting to replace it")


def _write_table(path: Path, schema: pa.Schema, rows: Iterable[Sequence[str | None]]) -> None:
    stream = iter(rows)
    with (
        path.open("wb") as file,
        pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        while chunk := list(islice(stream, BATCH_ROWS)):
            columns = [[row[i] for row in chunk] for i in range(len(schema))]
            try:
                arrays = [pa.array(column, pa.string()) for column in columns]
                writer.write_batch(pa.record_batch(arrays, schema=schema))
            except (pa.ArrowException, UnicodeEncodeError, TypeError):
                # Arrow's and Python's messages quote the value.
                raise DataError(f"{path.name}: a row holds a null or what is not text") from None
    sync(path)
