"""A source's FAQs: ids made where there are none, phrasings put together, labels as FAQs."""

import hashlib
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from adapterdistill.data.checks import check_faqs
from adapterdistill.data.reading import Cell, CellBatch, Defect
from adapterdistill.data.repeats import same_text
from adapterdistill.data.schema import FAQ_COLUMNS, Faq, Fault
from adapterdistill.data.sources.cells import (
    GARBLED,
    first_text,
    id_cell,
    is_garbled,
    label_words,
    plain_question,
    texts_of,
)
from adapterdistill.data.sources.raw import Record
from adapterdistill.data.sources.report import ImportReport
from adapterdistill.data.sources.roles import SourceTable
from adapterdistill.data.sources.rows import broken_row, missing, numbered, one_row


@dataclass(frozen=True)
class Phrasing:
    """A further question of a FAQ: a training query."""

    table: str
    row: int
    text: str
    faq_id: str


@dataclass
class SourceFaqs:
    """The FAQs of a source, in its order."""

    faqs: list[Faq] = field(default_factory=list)
    phrasings: list[Phrasing] = field(default_factory=list)
    by_question: dict[str, str] = field(default_factory=dict)
    """FAQ ids by `same_text` of each phrasing."""
    ids: frozenset[str] | None = frozenset()
    """None where the table could not be read."""
    faults: list[Fault] = field(default_factory=list)


def question_id(question: str) -> str:
    """An id that follows from the question alone, whatever else the file holds."""
    text = unicodedata.normalize("NFC", " ".join(question.split()))
    return f"faq-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def read_faqs(table: SourceTable, report: ImportReport) -> SourceFaqs:
    """Read a FAQ table whole.

    A row with the id of an earlier one is a further phrasing of that FAQ, if its answer is equal or
    empty, and becomes a training query; a row that says nothing new is left out and told.
    """
    name = table.raw.name
    report.add_table(table, "FAQs")
    if "question" not in table.match:
        return SourceFaqs(faults=[missing(table, "question")], ids=None)
    reader = _FaqReader(table, report)
    faults, ids = check_faqs(reader.batches(), name)
    if "faq_id" not in table.match:
        report.notes.append(f"{name}: has no column faq_id; ids are made from the questions")
    if "answer" not in table.match:
        report.notes.append(f"{name}: has no column answer; no FAQ has one")
    return SourceFaqs(list(reader.faqs.values()), reader.phrasings, reader.by_question, ids, faults)


class _FaqReader:
    """Puts the rows of a FAQ table together, and passes on what is to be checked."""

    def __init__(self, table: SourceTable, report: ImportReport) -> None:
        self._table = table
        self._name = table.raw.name
        self._report = report
        self._first_row: dict[str, int] = {}
        self.faqs: dict[str, Faq] = {}
        self.phrasings: list[Phrasing] = []
        self.by_question: dict[str, str] = {}

    def batches(self) -> Iterator[CellBatch]:
        """The first row of each FAQ, and every row that has a fault."""
        for row, record in numbered(self._table, self._report):
            problem, cells = self._row(row, record)
            if problem is not None:
                yield broken_row(row, FAQ_COLUMNS, problem)
            elif cells is not None:
                yield one_row(row, FAQ_COLUMNS, cells)

    def _row(self, row: int, record: Record) -> tuple[str | None, tuple[Cell, ...] | None]:
        """(what is wrong with the row as a whole, its cells where they are to be checked)."""
        if isinstance(record, str) or record is None:
            return record, None
        faq_id, questions, answer = self._cells(row, record)
        texts = [cell for cell in questions if isinstance(cell, str)]
        if "faq_id" not in self._table.match and texts:
            faq_id = question_id(texts[0])
        if not isinstance(faq_id, str) or not texts or len(texts) < len(questions):
            question = next((q for q in questions if not isinstance(q, str)), first_text(questions))
            return None, (faq_id, question, answer)
        if not (answer is None or isinstance(answer, str)):
            return None, (faq_id, texts[0], answer)
        if faq_id not in self.faqs:
            self.faqs[faq_id] = Faq(faq_id, texts[0], answer)
            self._first_row[faq_id] = row
            other = self.by_question.setdefault(same_text(texts[0]), faq_id)
            if other != faq_id:
                twice = f"has the question of the FAQ of row {self._first_row[other]}"
                self._report.warnings.append(f"{self._name}, row {row}: {twice}")
            self._add_phrasings(row, faq_id, texts[1:])
            return None, (faq_id, texts[0], answer)
        return self._again(row, faq_id, texts, answer), None

    def _again(self, row: int, faq_id: str, texts: list[str], answer: str | None) -> str | None:
        """Add a later row of a FAQ; says what is wrong if it cannot be one."""
        faq, first = self.faqs[faq_id], self._first_row[faq_id]
        if answer is not None and faq.answer is not None and answer != faq.answer:
            return f"repeats the FAQ of row {first} with another answer"
        if answer is not None:
            self.faqs[faq_id] = replace(faq, answer=answer)
        if not self._add_phrasings(row, faq_id, texts):
            self._report.row(self._name, f"left out: says what row {first} says", row)
        return None

    def _add_phrasings(self, row: int, faq_id: str, texts: Sequence[str]) -> bool:
        """Whether any of the texts is new."""
        new = [t for t in dict.fromkeys(texts) if self.by_question.get(same_text(t)) != faq_id]
        for text in new:
            self.phrasings.append(Phrasing(self._name, row, text, faq_id))
            self.by_question.setdefault(same_text(text), faq_id)
        if new:
            self._report.row(self._name, "further phrasings are training queries", row)
        return bool(new)

    def _cells(self, row: int, record: Sequence[object]) -> tuple[Cell, list[Cell], Cell]:
        places = self._table.match.places
        faq_id = id_cell(record[places["faq_id"][0]]) if "faq_id" in places else None
        questions: list[Cell] = []
        for place in places["question"]:
            for cell in texts_of(record[place]):
                if isinstance(cell, str):
                    cell, had_html = plain_question(cell)
                    if had_html:
                        self._report.row(self._name, "HTML was taken out of the question", row)
                if cell is not None and (cell is not Defect.ABSENT or not questions):
                    questions.append(cell or None)
        answers = texts_of(record[places["answer"][0]]) if "answer" in places else []
        if len(answers) > 1:
            self._report.row(self._name, "only the first of several answers is kept", row)
        answer = first_text(answers)
        if any(isinstance(cell, str) and is_garbled(cell) for cell in (*questions, answer)):
            self._report.row(self._name, GARBLED, row)
        return faq_id, questions, None if answer is Defect.ABSENT else answer


def faqs_of_labels(labels: Sequence[str]) -> SourceFaqs:
    """FAQs made from the names of labels, for a source that has no FAQ table."""
    faqs = [Faq(name, label_words(name) or name, None) for name in labels]
    return SourceFaqs(
        faqs,
        by_question={same_text(faq.question): faq.faq_id for faq in faqs},
        ids=frozenset(labels),
    )
