"""The meaning of a query's label: a FAQ's id, its question, a number, several FAQs, or none."""

import re
from collections.abc import Sequence
from enum import Enum

from adapterdistill.data.reading import Cell
from adapterdistill.data.repeats import same_text
from adapterdistill.data.sources.cells import (
    UNKNOWN_LABEL,
    ids_of,
    is_null_word,
    is_out_of_scope_word,
    parts_of,
)
from adapterdistill.data.sources.faqs import SourceFaqs
from adapterdistill.data.sources.roles import SourceTable


class Note(Enum):
    """The meaning that was given to a label that is no FAQ's id."""

    OUT_OF_SCOPE = "the label is a word for out of scope"
    UNKNOWN = f"the label {UNKNOWN_LABEL} stands for none: unlabelled"
    NULL = "the label is a word for an empty cell"
    QUESTION = "the label is a FAQ's question"
    NUMBER = "the label is a number, taken for the name at its place"
    SEVERAL = "the label names several right FAQs"


class Labels:
    """Resolves the labels of one table."""

    def __init__(
        self, table: SourceTable, faqs: SourceFaqs, class_names: Sequence[str] | None
    ) -> None:
        column = (
            table.raw.columns[table.match.places["faq_id"][0]] if "faq_id" in table.match else ""
        )
        self._names = class_names or table.raw.class_names.get(column, ())
        self._ids = faqs.ids
        self._by_question = faqs.by_question

    def resolve(self, value: object) -> tuple[list[Cell], Note | None]:
        """The FAQs that a label names. One that names none is returned as it is: a fault."""
        ids: dict[Cell, None] = {}
        note = None
        for cell in ids_of(value):
            if not isinstance(cell, str) or self._ids is None:
                ids[cell] = None
                continue
            found, said = self._resolved(cell, self._ids)
            ids |= dict.fromkeys(found)
            note = said or note
        if len(ids) > 1:
            note = Note.SEVERAL
        return list(ids), note

    def _resolved(self, label: str, known: frozenset[str]) -> tuple[Sequence[str], Note | None]:
        found, note = self._one(label, known)
        if found is not None:
            return [found], note
        parts = [self._one(part, known)[0] for part in parts_of(label)]
        sound = [part for part in parts if part is not None]
        if len(sound) == len(parts):
            return sound, Note.SEVERAL
        if label == UNKNOWN_LABEL:
            return [], Note.UNKNOWN
        if is_out_of_scope_word(label):
            return [], Note.OUT_OF_SCOPE
        if is_null_word(label):
            return [], Note.NULL
        return [label], None

    def _one(self, label: str, known: frozenset[str]) -> tuple[str | None, Note | None]:
        if label in known:
            return label, None
        number = re.fullmatch(r"(\d{1,18})(\.0+)?", label)
        if number is not None:
            if number[1] in known:
                return number[1], None
            if int(number[1]) < len(self._names):
                name = self._names[int(number[1])]
                return (
                    name if name in known else self._by_question.get(same_text(name))
                ), Note.NUMBER
        return self._by_question.get(same_text(label)), Note.QUESTION
