"""Equal texts among a tenant's queries: one query with several right FAQs, or a likely mistake.

Candidates are found by sorting 8-byte digests, 32 bytes a row at the peak; only the rows among them
are then compared, with their texts in memory.
"""

import hashlib
from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from adapterdistill.data.schema import Fault, Query


@dataclass(frozen=True)
class PlacedQuery:
    """A query with where it lies."""

    file: str
    row: int
    query: Query
    own_id: bool = True
    """Whether the source gave the id, or it was made from the row's place."""

    def __str__(self) -> str:
        return f"{self.file}, row {self.row}"


@dataclass
class Repeats:
    """The meaning of equal texts and ids."""

    merged: dict[int, tuple[str, ...]] = field(default_factory=dict)
    """Right FAQs of each row that stands for several, by its number."""
    gone: dict[int, int] = field(default_factory=dict)
    """Rows that another row stands for, and that row."""
    faults: list[Fault] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def same_text(text: str) -> str:
    """`text` as it is compared: without regard to case and white space."""
    return " ".join(text.casefold().split())


class Suspects:
    """Collects rows, and tells those whose id or text another row has too."""

    def __init__(self) -> None:
        self._digests = array("Q")
        self._numbers = array("Q")

    def add(self, number: int, placed: PlacedQuery) -> None:
        keys = [f"text {same_text(placed.query.text)}"]
        if placed.own_id:
            keys.append(f"id {placed.query.query_id}")
        for key in keys:
            digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
            self._digests.append(int.from_bytes(digest, "little"))
            self._numbers.append(number)

    def numbers(self) -> frozenset[int]:
        if not self._digests:
            return frozenset()
        digests = np.frombuffer(self._digests, dtype=np.uint64)
        order = np.argsort(digests, kind="stable")
        equal = np.flatnonzero(np.diff(digests[order]) == 0)
        rows = np.frombuffer(self._numbers, dtype=np.uint64)[order[np.union1d(equal, equal + 1)]]
        return frozenset(rows.tolist())


def find_repeats(rows: Iterable[tuple[int, PlacedQuery]]) -> Repeats:
    """Compare rows that share a text or an id.

    Rows of one text and split with different FAQs are one query with several right FAQs, if they
    share the id, or if the source gave no ids. Another repeated id is a fault. A text in two
    splits, and one with contradicting labels, are warned of.
    """
    repeats = Repeats()
    by_number = dict(rows)
    _merge_by_id(by_number, repeats)
    _merge_by_text(by_number, repeats)
    left = {
        number: replace(placed, query=with_faqs(placed.query, repeats.merged.get(number)))
        for number, placed in by_number.items()
        if number not in repeats.gone
    }
    _warn(left.values(), repeats)
    return repeats


def with_faqs(query: Query, faq_ids: Sequence[str] | None) -> Query:
    """The query with these right FAQs; as it is where None is given."""
    if faq_ids is None:
        return query
    return replace(query, faq_id=faq_ids[0], further=tuple(faq_ids[1:]))


def _merge_by_id(rows: Mapping[int, PlacedQuery], repeats: Repeats) -> None:
    first: dict[str, int] = {}
    for number, placed in rows.items():
        if not placed.own_id:
            continue
        query, start = placed.query, first.setdefault(placed.query.query_id, number)
        if start == number:
            continue
        other = rows[start].query
        ids = repeats.merged.get(start, other.faq_ids)
        new = [one for one in query.faq_ids if one not in ids]
        if new and ids and (query.text, query.split) == (other.text, other.split):
            repeats.merged[start] = (*ids, *new)
            repeats.gone[number] = start
        else:
            problem = f"repeats the id of an earlier row ({rows[start].row})"
            repeats.faults.append(Fault(placed.file, placed.row, "query_id", problem))
            repeats.gone[number] = start


def _merge_by_text(rows: Mapping[int, PlacedQuery], repeats: Repeats) -> None:
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, placed in rows.items():
        if not placed.own_id and placed.query.faq_ids:
            groups[placed.query.text, placed.query.split].append(number)
    for numbers in groups.values():
        if len({frozenset(rows[n].query.faq_ids) for n in numbers}) > 1:
            ids = dict.fromkeys(one for n in numbers for one in rows[n].query.faq_ids)
            repeats.merged[numbers[0]] = tuple(ids)
            repeats.gone |= dict.fromkeys(numbers[1:], numbers[0])


def _warn(rows: Iterable[PlacedQuery], repeats: Repeats) -> None:
    first_of: dict[str, PlacedQuery] = {}
    for placed in rows:
        first = first_of.setdefault(same_text(placed.query.text), placed)
        if first is not placed:
            repeats.warnings += [
                f"{placed}: the text of {first} {what}"
                for what in _doubts(first.query, placed.query)
            ]


def _doubts(first: Query, again: Query) -> list[str]:
    """Say what is odd about two queries of one text."""
    doubts = []
    if first.split != again.split:
        doubts.append(f"is also in another split ({again.split} here, {first.split} there)")
    if "unlabelled" in (first.split, again.split) or set(first.faq_ids) == set(again.faq_ids):
        return doubts
    if not (first.faq_ids and again.faq_ids):
        return [*doubts, "again, once with a FAQ and once out of scope"]
    hint = "" if doubts else "; if both are right, give both rows one query_id"
    return [*doubts, f"again, with another FAQ{hint}"]
