"""Cells as the readers give them, made text, ids and splits of the tenant format."""

import ast
import json
import math
import re
from collections.abc import Sequence
from decimal import Decimal

from adapterdistill.data.html import has_html, without_html
from adapterdistill.data.reading import Cell, Defect
from adapterdistill.data.schema import SPLITS
from adapterdistill.data.sources.columns import plain_name, split_of_words

_NULLS = frozenset(("nan", "null", "na", "n/a", "<na>", "\\n"))
_OUT_OF_SCOPE = frozenset(
    (
        *("oos", "ood", "outofscope", "outofdomain", "nonodesdetected"),
        *("none", "nofaq", "noanswer", "nomatch", "unanswerable", "noneoftheabove"),
    )
)
_DASHES = re.compile(r"[-\u2013\u2014]+")
_ERROR_VALUES = frozenset(
    ("#N/A", "#NAME?", "#REF!", "#VALUE!", "#DIV/0!", "#NULL!", "#NUM!")  # of Excel, in CSV too
)
UNKNOWN_LABEL = "-1"
GARBLED = "characters were lost or changed before, by a wrong encoding; look at the text"


def text_cell(value: object) -> Cell:
    """A text as it is; null where there is only white space."""
    if value is None or isinstance(value, Defect):
        return value
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            return Defect.INVALID_UTF8
    if not isinstance(value, str):
        return Defect.NOT_TEXT
    value = value.removeprefix("\ufeff")  # of a file that was put after another
    if "\x00" in value:
        return Defect.NUL
    if value.strip() in _ERROR_VALUES:
        return Defect.ERROR_VALUE
    try:
        value.encode()
    except UnicodeEncodeError:
        return Defect.INVALID_UTF8
    return value if value.strip() else None


def id_cell(value: object) -> Cell:
    """An id as text: the integers 1 and 1.0 are `1`."""
    if isinstance(value, bool):
        return Defect.NOT_TEXT
    if isinstance(value, float | Decimal):
        if not math.isfinite(value):
            return None if math.isnan(value) else Defect.NOT_TEXT
        return str(int(value)) if value == int(value) else str(value)
    if isinstance(value, int):
        return str(value)
    cell = text_cell(value)
    return cell.strip() if isinstance(cell, str) else cell


def texts_of(value: object) -> list[Cell]:
    """The texts of a cell that may hold a list of them; those that are empty do not count."""
    if isinstance(value, dict) and "text" in value:  # as SQuAD has its answers
        return texts_of(value["text"])
    if isinstance(value, list | tuple):
        return [cell for one in value if (cell := text_cell(one)) is not None]
    return [text_cell(value)]


def ids_of(value: object) -> list[Cell]:
    """The ids of a cell that may hold a list of them; empty where there is none."""
    if isinstance(value, list | tuple):
        return [cell for one in value if (cell := id_cell(one)) is not None]
    cell = id_cell(value)
    if isinstance(cell, str) and cell.startswith("[") and cell.endswith("]"):
        found = _list_in(cell)
        if isinstance(found, list) and all(isinstance(one, str | int) for one in found):
            return [one for one in map(id_cell, found) if one is not None]
    return [] if cell is None else [cell]


def _list_in(cell: str) -> object:
    """The list that a cell spells, as JSON or as Python does; None if it spells none."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


def parts_of(label: str) -> list[str]:
    """Split a label that lists several, such as `price | pay` or `price; pay`."""
    for delimiter in ("|", ";", ","):
        parts = [part.strip() for part in label.split(delimiter)]
        if len(parts) > 1 and all(parts):
            return parts
    return [label]


def is_null_word(label: str) -> bool:
    return label.casefold() in _NULLS


def is_out_of_scope_word(label: str) -> bool:
    return plain_name(label) in _OUT_OF_SCOPE or _DASHES.fullmatch(label.strip()) is not None


def is_no_label(label: str) -> bool:
    """Whether the label says that there is no FAQ, or that nobody looked for one."""
    return label == UNKNOWN_LABEL or is_out_of_scope_word(label) or is_null_word(label)


def split_cell(value: object) -> Cell:
    """A split under the format's own name: `Validation`, `dev` and `val ` are `valid`."""
    cell = text_cell(value)
    if not isinstance(cell, str):
        return cell
    plain = cell.strip().casefold()
    return plain if plain in SPLITS else split_of_words(plain) or cell


def is_garbled(text: str) -> bool:
    """Whether characters were lost, or UTF-8 was read as cp1252 before: `Ã¶` stands for `ö`."""
    if "\ufffd" in text:
        return True
    try:
        return not text.isascii() and bool(text.encode("cp1252").decode("utf-8"))
    except UnicodeError:
        return False


def plain_question(question: str) -> tuple[str, bool]:
    """The question without HTML, and whether it held any."""
    return (without_html(question), True) if has_html(question) else (question, False)


def label_words(name: str) -> str:
    """A label as a question: `card_arrival` is `card arrival`."""
    return " ".join(re.sub(r"[_\-/.]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)).split())


def first_text(cells: Sequence[Cell]) -> Cell:
    return cells[0] if cells else None
