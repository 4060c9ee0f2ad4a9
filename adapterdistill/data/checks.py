"""Checks that find every fault of a tenant's tables, whatever their format.

Duplicate ids are found by sorting 8-byte digests at the end. That takes at most 16 bytes a row,
where a set of the ids would take a hundred. A false alarm needs a 64-bit collision.
"""

import hashlib
import unicodedata
from array import array
from collections.abc import Iterable, Iterator

import numpy as np

from adapterdistill.data.reading import Cell, CellBatch, Defect, UnreadableTableError
from adapterdistill.data.schema import FAQ_COLUMNS, NULLABLE_COLUMNS, QUERY_COLUMNS, SPLITS, Fault

MAX_FAULTS = 10_000
_INVISIBLE = frozenset(("Cc", "Cf", "Zl", "Zp", "Zs"))
"""Unicode's categories of controls, format characters and separators."""
# Letters, marks and symbols that show nothing: fillers, a joiner, the empty Braille cell.
_FILLERS = frozenset("\u034f\u115f\u1160\u2800\u3164\uffa0")


class _FaultList:
    """The faults of one file. Raises `_EnoughError` past `MAX_FAULTS`, to stay cheap."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.faults: list[Fault] = []

    def add(self, row: int | None, column: str | None, problem: str) -> None:
        if len(self.faults) >= MAX_FAULTS:
            self.faults.append(
                Fault(self.file, None, None, f"stopped looking after {MAX_FAULTS} faults")
            )
            raise _EnoughError
        self.faults.append(Fault(self.file, row, column, problem))

    def in_order(self) -> list[Fault]:
        columns = (*QUERY_COLUMNS, *FAQ_COLUMNS)
        last = (float("inf"), len(columns))

        def place(fault: Fault) -> tuple[float, int]:
            if fault.row is None:
                return last
            return fault.row, columns.index(fault.column) if fault.column else 0

        return sorted(self.faults, key=place)


class _EnoughError(Exception):
    pass


class _UniqueIds:
    """The ids of one column, to find the rows that repeat an earlier id."""

    def __init__(self) -> None:
        self._digests = array("Q")
        self._rows = array("Q")

    def add(self, row: int, key: str) -> None:
        digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
        self._digests.append(int.from_bytes(digest, "little"))
        self._rows.append(row)

    def repeated_rows(self) -> Iterator[int]:
        if not self._digests:
            return
        digests = np.frombuffer(self._digests, dtype=np.uint64)
        order = np.argsort(digests, kind="stable")
        repeats = np.flatnonzero(np.diff(digests[order]) == 0) + 1
        rows = np.frombuffer(self._rows, dtype=np.uint64)[order[repeats]]
        yield from np.sort(rows).tolist()


def _check_cell(faults: _FaultList, row: int, column: str, cell: Cell, *, nullable: bool) -> bool:
    """Say whether the cell is usable: sound text, or a null where one is allowed."""
    if cell is None:
        if not nullable:
            faults.add(row, column, "is null or empty")
        return nullable
    if isinstance(cell, Defect):
        faults.add(row, column, cell.value)
        return False
    if not cell.strip():
        faults.add(row, column, "is empty or only white space")
        return False
    if not any(map(_is_visible, cell)):
        faults.add(row, column, "holds only characters that cannot be seen")
        return False
    return True


def _is_visible(character: str) -> bool:
    selects_variant = "\ufe00" <= character <= "\ufe0f"
    return not (
        selects_variant or character in _FILLERS or unicodedata.category(character) in _INVISIBLE
    )


def check_faqs(
    batches: Iterable[CellBatch], file: str
) -> tuple[list[Fault], frozenset[str] | None]:
    """Find the faults of the FAQ table, and the FAQs' ids (None if it could not be read)."""
    faults, unique, ids = _FaultList(file), _UniqueIds(), set[str]()
    nullable = NULLABLE_COLUMNS["faqs"]
    count = 0
    try:
        for batch in batches:
            for row, cells in batch.rows():
                count += 1
                if row in batch.broken:
                    faults.add(row, None, batch.broken[row])
                    continue
                for column, cell in zip(FAQ_COLUMNS, cells, strict=True):
                    sound = _check_cell(faults, row, column, cell, nullable=column in nullable)
                    if column == "faq_id" and sound and isinstance(cell, str):
                        unique.add(row, cell)
                        ids.add(cell)
        if count < 2:
            held = "no FAQ" if count == 0 else "one FAQ only"
            faults.add(None, None, f"holds {held}; a tenant needs two or more")
        for row in unique.repeated_rows():
            faults.add(row, "faq_id", "repeats the id of an earlier row")
    except UnreadableTableError as error:
        return faults.in_order() + error.faults, None
    except _EnoughError:
        return faults.in_order(), None
    return faults.in_order(), frozenset(ids)


def check_queries(
    batches: Iterable[CellBatch], file: str, faq_ids: frozenset[str] | None
) -> list[Fault]:
    """Find the faults of the query table; without `faq_ids`, do not check that FAQs exist.

    Rows that follow each other with one id, text and split, and with different FAQs, are one query
    with several right FAQs.
    """
    faults, unique = _FaultList(file), _UniqueIds()
    query: tuple[Cell, ...] = ()
    right: set[Cell] = set()
    nullable = NULLABLE_COLUMNS["queries"]
    try:
        for batch in batches:
            for row, cells in batch.rows():
                if row in batch.broken:
                    faults.add(row, None, batch.broken[row])
                    continue
                sound = {
                    column: _check_cell(faults, row, column, cell, nullable=column in nullable)
                    for column, cell in zip(QUERY_COLUMNS, cells, strict=True)
                }
                query_id, text, faq_id, split = cells
                goes_on = query == (query_id, text, split) and None not in right | {faq_id}
                if goes_on and faq_id not in right:
                    right.add(faq_id)
                elif sound["query_id"] and isinstance(query_id, str):
                    unique.add(row, query_id)
                    query, right = (query_id, text, split), {faq_id}
                if sound["split"] and split not in SPLITS:
                    faults.add(row, "split", f"is not one of {', '.join(SPLITS)}")
                if sound["faq_id"] and faq_id is not None:
                    if split == "unlabelled":
                        faults.add(row, "faq_id", "must be null where split is unlabelled")
                    elif faq_ids is not None and faq_id not in faq_ids:
                        faults.add(row, "faq_id", "names a FAQ that is not in the FAQ table")
        for row in unique.repeated_rows():
            faults.add(row, "query_id", "repeats the id of an earlier row")
    except UnreadableTableError as error:
        return faults.in_order() + error.faults
    except _EnoughError:
        pass
    return faults.in_order()
