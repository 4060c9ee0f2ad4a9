"""A source's queries: labels resolved to FAQs, splits named, several right answers put together."""

import hashlib
from collections.abc import Iterator, Sequence

from adapterdistill.data.checks import check_queries
from adapterdistill.data.reading import Cell, CellBatch, Defect, UnreadableTableError
from adapterdistill.data.repeats import (
    PlacedQuery,
    Repeats,
    Suspects,
    find_repeats,
    same_text,
    with_faqs,
)
from adapterdistill.data.schema import QUERY_COLUMNS, SPLITS, Fault, Query
from adapterdistill.data.sources.cells import (
    GARBLED,
    id_cell,
    is_garbled,
    plain_question,
    split_cell,
    text_cell,
)
from adapterdistill.data.sources.faqs import SourceFaqs
from adapterdistill.data.sources.labels import Labels, Note
from adapterdistill.data.sources.report import ImportReport
from adapterdistill.data.sources.roles import SourceTable
from adapterdistill.data.sources.rows import broken_row, missing, numbered, one_row
from adapterdistill.errors import DataError


class SourceQueries:
    """The queries of a source, streamed anew at each pass."""

    def __init__(
        self,
        tables: Sequence[SourceTable],
        faqs: SourceFaqs,
        class_names: Sequence[str] | None,
        report: ImportReport,
    ) -> None:
        self._tables = tables
        self._faqs = faqs
        self._class_names = class_names
        self._report: ImportReport | None = report
        self._repeats = Repeats()

    def check(self) -> list[Fault]:
        """Find every fault; tell the report what was taken for what. To be called first, once."""
        report = self._report
        assert report is not None, "checked before"
        faults: list[Fault] = []
        suspects = Suspects()
        for table in self._tables:
            report.add_table(table, "queries")
            absent = _missing(table)
            if absent is not None:
                faults.append(absent)
                continue
            if table.split is not None and "split" not in table.match:
                report.notes.append(f"{table.raw.name}: every row is {table.split}, by its place")
            if "faq_id" not in table.match:
                report.notes.append(f"{table.raw.name}: no column faq_id; every row is unlabelled")
            faults += check_queries(self._batches(table), table.raw.name, self._faqs.ids)
        self._report = None
        for number, placed in enumerate(self._placed(sound_only=True)):
            suspects.add(number, placed)
            self._warn_of_question(placed, report)
        numbers = suspects.numbers()
        if numbers:
            placed_rows = enumerate(self._placed(sound_only=True))
            kept = {number: placed for number, placed in placed_rows if number in numbers}
            self._repeats = find_repeats(kept.items())
            for number in self._repeats.gone:
                what = "one query with an earlier row of the same text: several FAQs are right"
                report.row(kept[number].file, what, kept[number].row)
            report.warnings += self._repeats.warnings
        return list(dict.fromkeys(faults + self._repeats.faults))

    def __iter__(self) -> Iterator[Query]:
        """The queries as they will be written, before any are chosen."""
        for number, placed in enumerate(self._placed()):
            if number not in self._repeats.gone:
                yield with_faqs(placed.query, self._repeats.merged.get(number))

    def _warn_of_question(self, placed: PlacedQuery, report: ImportReport) -> None:
        query = placed.query
        asked = self._faqs.by_question.get(same_text(query.text))
        if asked is not None and query.split != "unlabelled" and asked not in query.faq_ids:
            report.warnings.append(f"{placed}: is the question of a FAQ, and has another label")

    def _placed(self, *, sound_only: bool = False) -> Iterator[PlacedQuery]:
        """Yield the rows as queries; skip those with faults, or refuse a file that changed."""
        for table in self._tables:
            if sound_only and _missing(table) is not None:
                continue
            try:
                for row, problem, cells, ids in self._rows(table):
                    query_id, text, split = cells
                    found = [one for one in ids if isinstance(one, str)]
                    sound = isinstance(query_id, str) and isinstance(text, str)
                    if problem or not sound or split not in SPLITS or len(found) < len(ids):
                        if sound_only:
                            continue
                        raise DataError(f"{table.raw.name} was changed while it was being imported")
                    query = Query(str(query_id), str(text), None, str(split))
                    own = "query_id" in table.match
                    yield PlacedQuery(table.raw.name, row, with_faqs(query, found or None), own)
            except UnreadableTableError as error:
                if not sound_only:
                    raise DataError("; ".join(map(str, error.faults))) from None
        for phrasing in self._faqs.phrasings:
            query_id = _made_id(f"{phrasing.faq_id}|{phrasing.text}")
            query = Query(query_id, phrasing.text, phrasing.faq_id, "train")
            yield PlacedQuery(phrasing.table, phrasing.row, query, own_id=False)

    def _batches(self, table: SourceTable) -> Iterator[CellBatch]:
        """One batch for each right FAQ of each row; repeated ids are found elsewhere."""
        for row, problem, (query_id, text, split), ids in self._rows(table):
            if problem is not None:
                yield broken_row(row, QUERY_COLUMNS, problem)
                continue
            for place, faq_id in enumerate(ids or [None]):
                one_id = f"{row} {place}" if isinstance(query_id, str) else query_id
                yield one_row(row, QUERY_COLUMNS, (one_id, text, faq_id, split))

    def _rows(
        self, table: SourceTable
    ) -> Iterator[tuple[int, str | None, tuple[Cell, Cell, Cell], list[Cell]]]:
        """(row, why it is broken, (query_id, text, split), its FAQs)."""
        places = {name: found[0] for name, found in table.match.places.items()}
        prefix = "" if len(self._tables) == 1 else f"{table.split or table.raw.name}-"
        labels = Labels(table, self._faqs, self._class_names)
        report, name = self._report, table.raw.name
        for row, record in numbered(table, report):
            if isinstance(record, str) or record is None:
                yield row, record, (None, None, None), []
                continue
            text = text_cell(record[places["text"]])
            if isinstance(text, str):
                text, had_html = plain_question(text)
                text = text or None
                if had_html and report is not None:
                    report.row(name, "HTML was taken out of the text", row)
                if report is not None and text is not None and is_garbled(text):
                    report.row(name, GARBLED, row)
            query_id = id_cell(record[places["query_id"]]) if "query_id" in places else None
            if "query_id" not in places or query_id is Defect.ABSENT:
                query_id = _made_id(f"{prefix}{row}")
            elif isinstance(query_id, str):
                query_id = prefix + query_id
            value = record[places["faq_id"]] if "faq_id" in places else None
            ids, note = labels.resolve(value)
            if note is not None and report is not None:
                report.row(name, note.value, row)
            if note is Note.UNKNOWN or "faq_id" not in places:
                split: Cell = "unlabelled"
            elif "split" in places:
                given = record[places["split"]]
                split = split_cell(given)
                if report is not None and isinstance(split, str) and split != str(given).strip():
                    report.row(name, f"the split is taken for {split}", row)
            elif table.split is not None:
                split = table.split
            else:
                split = "train" if ids or note is Note.OUT_OF_SCOPE else "unlabelled"
            yield row, None, (query_id, text, split), ids


def _missing(table: SourceTable) -> Fault | None:
    if "text" not in table.match:
        return missing(table, "text")
    named = [n for n in table.match.unused if table.raw.columns[n]]
    if "faq_id" not in table.match and (named or "split" in table.match):
        return missing(table, "faq_id")
    return None


def _made_id(key: str) -> str:
    return f"q-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
