"""Which tables of a source are FAQs, which are queries, and what is left out.

A file's role is told by the words of its name and of its folders (`faqs.xlsx`, `queries-test.csv`,
`queries/part-00000.parquet`, `data/train-00000-of-00001.parquet`, `split=test/`), else by its
columns. Every file that is not read is named with the reason.
"""

from collections.abc import Sequence
from pathlib import Path

from adapterdistill.data.schema import Fault
from adapterdistill.data.sources.columns import shown_names
from adapterdistill.data.sources.naming import (
    SUFFIXES,
    is_class_file,
    is_named,
    role_of,
    suffix_of,
)
from adapterdistill.data.sources.opening import Opened, ReadOptions
from adapterdistill.data.sources.raw import UnreadableSourceError
from adapterdistill.data.sources.roles import Found, Source, assign
from adapterdistill.data.sources.walking import files_of


class SourceError(Exception):
    """Internal: the source cannot be read; holds the faults and how its tables were read."""

    def __init__(self, faults: Sequence[Fault], read_as: Sequence[str] = ()) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = list(faults)
        self.read_as = list(read_as)


def find_source(
    place: Path,
    *,
    encoding: str | None = None,
    mapped: Sequence[tuple[str, str]] = (),
    leave_out: Path | None = None,
) -> Source:
    """Find and match the tables of a folder, or of one file.

    Args:
        encoding: of text files without a byte order mark; None is UTF-8.
        mapped: (field, column) pairs that go before what the names say.
        leave_out: a folder within the source that is no part of it.

    Raises:
        SourceError: two candidates of one role, or a file that cannot be read.
    """
    options, opened = ReadOptions(encoding, mapped), Opened()
    strangers: list[str] = []
    faults: list[Fault] = []
    try:
        files = list(files_of(place, opened.ignored, leave_out=leave_out))
    except UnreadableSourceError as error:
        raise SourceError([Fault(place.name, None, None, error.problem)]) from None
    for path, file in files:
        named = not place.is_dir() or is_named(path, file)
        if not _is_readable(path, named=named):
            strangers.append(file)
            continue
        try:
            opened.add(path, file, options)
        except UnreadableSourceError as error:
            if named:
                faults.append(Fault(file, error.row, None, error.problem))
            else:
                opened.ignored.append((file, error.problem))
    found = [Found.of(raw) for raw in opened.tables]
    if opened.rasa.files:
        faqs, queries = opened.rasa.tables()
        found += [Found(faqs, "faqs"), Found(queries, "queries")]
        opened.ignored += opened.rasa.ignored
    source = Source(class_names=opened.class_names, ignored=opened.ignored, notes=opened.notes)
    faults += assign(found, options, source, single=not place.is_dir())
    faults += _lost(source, strangers)
    if faults:
        raise SourceError(
            faults,
            [
                f"{f.raw.name}: {f.raw.kind}; the columns are {shown_names(f.raw.columns)}"
                for f in found
            ],
        )
    source.ignored += [(file, "not a table that is read") for file in strangers]
    return source


def _is_readable(path: Path, *, named: bool) -> bool:
    """A text file is a table only where its name says so; README.txt is none."""
    suffix = suffix_of(path)
    return suffix in SUFFIXES and (suffix != ".txt" or named or is_class_file(path))


def _lost(source: Source, strangers: Sequence[str]) -> list[Fault]:
    """Files that are named like tables, where nothing else stands for them."""
    there = {"faqs": source.faqs is not None, "queries": bool(source.queries)}
    return [
        Fault(file, None, None, f"is not of a format that is read: {', '.join(SUFFIXES)}")
        for file in strangers
        if (role := role_of(file)) is not None and not there[role]
    ]
