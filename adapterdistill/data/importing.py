"""Import of tenants from CSV, JSON Lines or Parquet, and the sample tenants.

The source is read three times: to check it, to choose the k rows of each FAQ, and to write. Memory
holds only the FAQs' ids, 8-byte digests of query ids and the k best keys of each FAQ.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from heapq import heappush, heappushpop
from importlib.resources import files
from pathlib import Path

from adapterdistill.data.checks import check_faqs, check_queries
from adapterdistill.data.dataset import TenantDataset, refuse_to_replace, write_tenant
from adapterdistill.data.reading import (
    SUFFIXES,
    Cell,
    CellBatch,
    Defect,
    UnreadableTableError,
    read_table,
)
from adapterdistill.data.schema import (
    FAQ_COLUMNS,
    QUERY_COLUMNS,
    Faq,
    Query,
    faults_message,
    local_folder,
)
from adapterdistill.data.splits import held_out, nested_key
from adapterdistill.errors import DataError

_OPTIONAL = frozenset({"answer", "query_id", "split"})


@dataclass(frozen=True)
class _Selection:
    """Which training rows move to valid or test, and which of the rest are kept."""

    seed: int
    tenant: str
    test: float
    valid: float
    k: int | None

    def split_of(self, query: Query) -> str:
        # By text, so that equal texts are never on both sides; nested, so that valid and test rows
        # never overlap.
        if query.split != "train":
            return query.split
        if held_out(query.text, seed=self.seed, fraction=self.test):
            return "test"
        if held_out(query.text, seed=self.seed, fraction=self.test + self.valid):
            return "valid"
        return "train"


def import_tenant(
    source: Path,
    target: Path,
    *,
    k: int | None = None,
    seed: int = 0,
    valid_fraction: float = 0.0,
    test_fraction: float = 0.0,
    tenant: str | None = None,
    overwrite: bool = False,
) -> dict[str, int]:
    """Make the tenant folder `target` from faqs.* and, if present, queries.* in `source`.

    Columns `answer`, `query_id` and `split` may be missing: no answers; ids made from the row's
    position; every row train, or unlabelled where `faq_id` is null. In CSV an empty `faq_id` or
    `answer` is null.

    Args:
        k: how many training queries of each FAQ to keep, by `nested_order`. Out-of-scope training
            rows are kept, except that 0 keeps no training row at all. None keeps everything.
        valid_fraction: training rows that become valid ones before k is applied; without effect
            if the source has valid rows. `test_fraction` likewise.
        tenant: a part of the nested sample's key, with seed and text; the source folder's name by
            default, so that imports to several targets nest.

    Returns:
        The counts of the written tenant (`TenantDataset.counts`).

    Raises:
        ValueError: k is negative, or the fractions are outside [0, 1) or add up to 1 or more.
        DataError: the source has faults (all in its own rows), or the target is in the way.
            Nothing was written.
    """
    _check_arguments(k, valid_fraction, test_fraction)
    source, target = local_folder(source), local_folder(target)
    refuse_to_replace(target, overwrite=overwrite)
    faqs_path, queries_path = _source_table(source, "faqs"), _source_table(source, "queries")
    if faqs_path is None:
        raise DataError(f"{source} has no faqs.csv, faqs.jsonl or faqs.parquet")
    faults, faq_ids = check_faqs(_faq_batches(faqs_path), faqs_path.name)
    if queries_path is not None:
        faults += check_queries(_query_batches(queries_path), queries_path.name, faq_ids)
    if faults:
        raise DataError(faults_message(source, faults))

    splits = {query.split for query in _source_queries(queries_path)}
    selection = _Selection(
        seed=seed,
        tenant=tenant if tenant is not None else source.resolve().name,
        test=0.0 if "test" in splits else test_fraction,
        valid=0.0 if "valid" in splits else valid_fraction,
        k=k,
    )
    write_tenant(
        target, _source_faqs(faqs_path), _selected(queries_path, selection), overwrite=overwrite
    )
    return TenantDataset(target).counts()


def sample_names() -> list[str]:
    """List the invented organisations that ship with the project."""
    return sorted(entry.name for entry in _samples().iterdir() if (entry / "faqs.jsonl").is_file())


def import_samples(name: str, target: Path, *, overwrite: bool = False) -> dict[str, int]:
    """Write the sample tenant `name` to `target`. Raises DataError if there is no such sample."""
    if name not in sample_names():
        raise DataError(f"no such sample tenant; there are {', '.join(sample_names())}")
    return import_tenant(_samples() / name, target, overwrite=overwrite)


def _samples() -> Path:
    return Path(str(files("adapterdistill"))) / "samples"


def _check_arguments(k: int | None, valid_fraction: float, test_fraction: float) -> None:
    if k is not None and k < 0:
        raise ValueError(f"k must be 0 or more, got {k}")
    sound = 0.0 <= valid_fraction < 1.0 and 0.0 <= test_fraction < 1.0
    if not sound or valid_fraction + test_fraction >= 1.0:
        raise ValueError("valid and test fractions must be in [0, 1) and add up to less than 1")


def _source_table(source: Path, stem: str) -> Path | None:
    found = [path for suffix in SUFFIXES if (path := source / f"{stem}{suffix}").exists()]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise DataError(f"{source} has {names}: expected one of them")
    return found[0] if found else None


def _faq_batches(path: Path) -> Iterator[CellBatch]:
    for batch in read_table(path, FAQ_COLUMNS, optional=_OPTIONAL):
        answers = [_null_if_empty(cell) for cell in batch.columns["answer"]]
        yield replace(batch, columns={**batch.columns, "answer": answers})


def _query_batches(path: Path) -> Iterator[CellBatch]:
    for batch in read_table(path, QUERY_COLUMNS, optional=_OPTIONAL):
        ids, _, faq_ids, splits = (batch.columns[column] for column in QUERY_COLUMNS)
        if path.suffix == ".csv":
            faq_ids = [None if cell == "" else cell for cell in faq_ids]
        filled: dict[str, list[Cell]] = {
            "query_id": [
                _positional_id(row) if cell is Defect.ABSENT else cell
                for row, cell in enumerate(ids, start=batch.first_row)
            ],
            "faq_id": faq_ids,
            "split": [
                ("unlabelled" if faq_id is None else "train") if cell is Defect.ABSENT else cell
                for cell, faq_id in zip(splits, faq_ids, strict=True)
            ],
        }
        yield replace(batch, columns={**batch.columns, **filled})


def _null_if_empty(cell: Cell) -> Cell:
    blank = cell is Defect.ABSENT or (isinstance(cell, str) and not cell.strip())
    return None if blank else cell


def _positional_id(row: int) -> str:
    return f"q-{hashlib.sha256(str(row).encode()).hexdigest()[:16]}"


def _source_faqs(path: Path) -> Iterator[Faq]:
    for faq_id, question, answer in _values(path, _faq_batches(path)):
        yield Faq(_still(path, faq_id), _still(path, question), answer)


def _source_queries(path: Path | None) -> Iterator[Query]:
    if path is None:
        return
    for query_id, text, faq_id, split in _values(path, _query_batches(path)):
        yield Query(_still(path, query_id), _still(path, text), faq_id, _still(path, split))


def _still(path: Path, value: str | None) -> str:
    if value is None:
        raise DataError(f"{path} was changed while it was being imported")
    return value


def _values(path: Path, batches: Iterator[CellBatch]) -> Iterator[list[str | None]]:
    try:
        for batch in batches:
            for _, cells in batch.rows():
                yield [None if isinstance(cell, Defect) else cell for cell in cells]
    except UnreadableTableError as error:
        raise DataError(faults_message(path.parent, error.faults)) from None


def _selected(path: Path | None, selection: _Selection) -> Iterator[Query]:
    kept = None if selection.k is None else _kept_rows(path, selection)
    for row, query in enumerate(_source_queries(path)):
        split = selection.split_of(query)
        if split == "train" and kept is not None:
            dropped = selection.k == 0 if query.faq_id is None else row not in kept
            if dropped:
                continue
        yield replace(query, split=split)


def _kept_rows(path: Path | None, selection: _Selection) -> set[int]:
    """Find the rows of the first k training queries of each FAQ, in the order of `nested_order`."""
    if not selection.k:
        return set()
    # A heap removes its smallest entry, and the largest key must go: keys are negated.
    best: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for row, query in enumerate(_source_queries(path)):
        if query.faq_id is None or selection.split_of(query) != "train":
            continue
        key = nested_key(query.text, seed=selection.seed, tenant=selection.tenant)
        entry = (-int.from_bytes(key, "big"), -row)
        heap = best[query.faq_id]
        if len(heap) < selection.k:
            heappush(heap, entry)
        else:
            heappushpop(heap, entry)
    return {-row for heap in best.values() for _, row in heap}
