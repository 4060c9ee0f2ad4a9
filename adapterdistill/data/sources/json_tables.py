"""Tables in JSON: a record a line, an array, an object with arrays, or an array a column."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from adapterdistill.data.reading import Defect
from adapterdistill.data.sources.columns import shown_name
from adapterdistill.data.sources.raw import RawTable, Record, UnreadableSourceError
from adapterdistill.data.sources.text import encoding_of, open_text, read_whole, shown_encoding

_MAX_KEYS = 1000


class _TwiceError(ValueError):
    pass


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise _TwiceError
    return record


def _record(text: str) -> dict[str, object] | str:
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except _TwiceError:
        return "has one key more than once"
    except (ValueError, RecursionError):
        return "is not a line of JSON"
    return value if isinstance(value, dict) else "is not a JSON object"


def read_json_lines(path: Path, file: str, *, told: str | None) -> RawTable:
    """The table of a file with one JSON object a line; its columns are all keys of all lines."""
    encoding = encoding_of(path, told)

    def values() -> Iterator[dict[str, object] | str]:
        with open_text(path, encoding) as lines:
            yield from (_record(line) for line in lines if line.strip())

    return _table(file, f"JSON Lines, {shown_encoding(encoding)}", values)


def read_json(
    path: Path, file: str, *, told: str | None, is_known: Callable[[str], bool]
) -> list[RawTable]:
    """The tables of a JSON file: one, or one a key where an object holds several arrays.

    An object may also hold an object for each id, or an answer for each question.

    Args:
        is_known: whether a key is the name of a column.

    Raises:
        UnreadableSourceError: the file is not JSON, or not made of objects.
    """
    encoding = encoding_of(path, told)
    text = read_whole(path, encoding)
    kind = f"JSON, {shown_encoding(encoding)}"
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except _TwiceError:
        raise UnreadableSourceError("has one key more than once in an object") from None
    except (ValueError, RecursionError):
        first = next((line for line in text.splitlines() if line.strip()), "")
        if isinstance(_record(first), dict):
            return [read_json_lines(path, file, told=told)]
        raise UnreadableSourceError("is not well-formed JSON") from None
    if isinstance(value, list):
        return [_of_array(file, kind, value)]
    if not isinstance(value, dict):
        raise UnreadableSourceError("is not an array of JSON objects")
    arrays = {key: v for key, v in value.items() if _is_array_of_objects(v)}
    if arrays:
        others = tuple(f"key {shown_name(k, 0)} is ignored" for k in value if k not in arrays)
        return [
            _of_array(
                file,
                kind,
                array,
                part=key if len(arrays) > 1 else None,
                notes=others if place == 0 else (),
            )
            for place, (key, array) in enumerate(arrays.items())
        ]
    by_id = [v for v in value.values() if isinstance(v, dict) and any(map(is_known, v))]
    if value and len(by_id) == len(value):
        return [_of_array(file, f"{kind}, an object an id", _with_keys(value, "id"))]
    if not any(map(is_known, value)) and all(isinstance(v, str) for v in value.values()):
        pairs = [{"question": key, "answer": v} for key, v in value.items()]
        return [_of_array(file, f"{kind}, an answer a question", pairs)]
    if value and all(isinstance(v, list | dict) for v in value.values()):
        return [_of_columns(file, kind, value)]
    return [_of_array(file, kind, [value])]


def read_plain_json(path: Path) -> object:
    """The file's value, whatever it is. Raises UnreadableSourceError if it is not JSON."""
    try:
        return json.loads(read_whole(path, encoding_of(path, None)))
    except (ValueError, RecursionError):
        raise UnreadableSourceError("is not well-formed JSON") from None


def _is_array_of_objects(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def _with_keys(value: Mapping[str, object], name: str) -> list[object]:
    return [{name: key, **v} for key, v in value.items() if isinstance(v, dict)]


def _of_array(
    file: str,
    kind: str,
    array: Sequence[object],
    *,
    part: str | None = None,
    notes: tuple[str, ...] = (),
) -> RawTable:
    def values() -> Iterator[dict[str, object] | str]:
        for value in array:
            # The hub's viewer puts each row into an object of its own.
            inner = value.get("row") if isinstance(value, dict) else None
            value = inner if isinstance(inner, dict) else value
            yield value if isinstance(value, dict) else "is not a JSON object"

    return replace(_table(file, kind, values), part=part, notes=notes)


def _of_columns(file: str, kind: str, value: Mapping[str, object]) -> RawTable:
    """The table of an object with an array, or an object by row number, for each column."""
    columns = [list(v.values()) if isinstance(v, dict) else v for v in value.values()]
    rows = [column for column in columns if isinstance(column, list)]
    if len({len(column) for column in rows}) != 1:
        raise UnreadableSourceError("holds neither an array of JSON objects nor equal columns")
    return RawTable(
        file=file,
        kind=f"{kind}, an array a column",
        columns=tuple(value),
        records=lambda: iter(list(zip(*rows, strict=True))),
    )


def _table(
    file: str, kind: str, values: Callable[[], Iterator[dict[str, object] | str]]
) -> RawTable:
    """The table of objects whose keys are the columns: all keys that any of them has."""
    keys: dict[str, None] = {}
    broken: str | None = None
    for value in values():
        if isinstance(value, dict):
            keys.update(dict.fromkeys(value))
        else:
            broken = broken or value
        if len(keys) > _MAX_KEYS:
            raise UnreadableSourceError(f"has more than {_MAX_KEYS} different keys")
    if broken is not None and not keys:
        raise UnreadableSourceError(broken, row=0)
    columns = tuple(keys)

    def records() -> Iterator[Record]:
        for value in values():
            if isinstance(value, str):
                yield value
            else:
                yield [value.get(column, Defect.ABSENT) for column in columns]

    return RawTable(file=file, kind=kind, columns=columns, records=records)
