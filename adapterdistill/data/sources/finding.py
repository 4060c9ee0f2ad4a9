"""Which tables of a source are FAQs, which are queries, and what is left out.

A file's role is told by the words of its name and of its folders (`faqs.xlsx`, `queries-test.csv`,
`queries/part-00000.parquet`, `data/train-00000-of-00001.parquet`, `split=test/`), else by its
columns. Every file that is not read is named with the reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from adapterdistill.data.schema import Fault
from adapterdistill.data.sources.columns import (
    FAQ_NAMES,
    QUERY_NAMES,
    Match,
    match_columns,
    plain_name,
    shown_names,
)
from adapterdistill.data.sources.naming import (
    SUFFIXES,
    group_of,
    is_class_file,
    is_named,
    role_of,
    split_of,
    suffix_of,
)
from adapterdistill.data.sources.opening import Opened, ReadOptions
from adapterdistill.data.sources.raw import RawTable, UnreadableSourceError
from adapterdistill.data.sources.walking import files_of

_NAMES = {"faqs": FAQ_NAMES, "queries": QUERY_NAMES}


@dataclass(frozen=True)
class SourceTable:
    """A table with its role told and its columns matched."""

    raw: RawTable
    match: Match
    split: str | None = None
    """The split that the file's place names, for queries without a column of their own."""


@dataclass
class Source:
    """What a source holds."""

    faqs: SourceTable | None = None
    queries: list[SourceTable] = field(default_factory=list)
    """One, or one a split."""
    class_names: tuple[str, ...] | None = None
    """Names of integer labels, from a file such as `labels.txt`."""
    ignored: list[tuple[str, str]] = field(default_factory=list)
    """(what, why)."""
    notes: list[str] = field(default_factory=list)


class SourceError(Exception):
    """Internal: the source cannot be read; holds the faults and how its tables were read."""

    def __init__(self, faults: Sequence[Fault], read_as: Sequence[str] = ()) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = list(faults)
        self.read_as = list(read_as)


@dataclass(frozen=True)
class _Found:
    """A table before its role is settled."""

    raw: RawTable
    role: str | None
    """"faqs" or "queries" where the names say so."""
    split: str | None = None
    group: str = ""
    """Equal for the parts of one table."""

    @property
    def own_role(self) -> str | None:
        """What the sheet or key by itself says."""
        return None if self.raw.part is None else role_of(self.raw.part)


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
    found = [
        _Found(
            raw,
            (raw.part and role_of(raw.part)) or role_of(raw.file),
            (raw.part and split_of(raw.part)) or split_of(raw.file),
            group_of(raw.file, raw.part),
        )
        for raw in opened.tables
    ]
    if opened.rasa.files:
        faqs, queries = opened.rasa.tables()
        found += [_Found(faqs, "faqs"), _Found(queries, "queries")]
        opened.ignored += opened.rasa.ignored
    source = Source(class_names=opened.class_names, ignored=opened.ignored, notes=opened.notes)
    faults += _assign(found, options, source, single=not place.is_dir())
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


def _assign(
    found: Sequence[_Found], options: ReadOptions, source: Source, *, single: bool
) -> list[Fault]:
    """Settle each table's role, and see that a role has one table, or one for each split."""
    named: dict[str, list[_Found]] = {role: [] for role in _NAMES}
    guessed: dict[str, list[_Found]] = {role: [] for role in _NAMES}
    for table in found:
        role = _role_by_columns(table, options, single=single and len(found) == 1)
        if table.role is not None and not _is_other_sheet(table, found, options):
            named[table.role].append(table)
        elif table.role is None and role is not None:
            guessed[role].append(table)
        else:
            columns = shown_names(table.raw.columns)
            why = f"neither FAQs nor queries by its name and columns ({columns})"
            source.ignored.append((table.raw.name, why))
    faults = _absent_columns(found, options)
    for role, names in _NAMES.items():
        chosen = named[role] or guessed[role]
        if named[role]:
            why = f"{named[role][0].raw.name} holds the {role}"
            source.ignored += [(table.raw.name, why) for table in guessed[role]]
        rivals = _rivals(role, chosen)
        faults += rivals
        splits = {None: chosen} if role == "faqs" else _by_split(chosen)
        tables = []
        for split, parts in splits.items():
            if parts and not rivals:
                raw, differs = _joined([part.raw for part in parts])
                faults += differs
                tables.append(
                    SourceTable(raw, match_columns(raw.columns, names, options.mapped), split)
                )
        faults += [
            Fault(table.raw.name, None, field_name, "column is there more than once")
            for table in tables
            for field_name in table.match.twice
        ]
        if role == "queries":
            source.queries = tables
        elif tables:
            source.faqs = tables[0]
    return faults


def _by_split(tables: Sequence[_Found]) -> dict[str | None, list[_Found]]:
    splits: dict[str | None, list[_Found]] = {}
    for table in tables:
        splits.setdefault(table.split, []).append(table)
    return splits


def _role_by_columns(table: _Found, options: ReadOptions, *, single: bool) -> str | None:
    faq = match_columns(table.raw.columns, FAQ_NAMES, options.mapped)
    query = match_columns(table.raw.columns, QUERY_NAMES, options.mapped)
    if "question" in faq and "answer" in faq:
        return "faqs"
    if "text" in query and ("faq_id" in query or table.split is not None):
        return "queries"
    return "faqs" if single and "question" in faq else None


def _is_other_sheet(table: _Found, found: Sequence[_Found], options: ReadOptions) -> bool:
    """Whether the file's name means another of its sheets or keys."""
    if table.raw.part is None or table.own_role is not None:
        return False

    def usable(one: _Found) -> bool:
        column = "question" if one.role == "faqs" else "text"
        assert one.role is not None
        return column in match_columns(one.raw.columns, _NAMES[one.role], options.mapped)

    siblings = [
        one
        for one in found
        if one.raw.file == table.raw.file and one.role == table.role and one is not table
    ]
    return any(one.own_role is not None for one in siblings) or (
        not usable(table) and any(map(usable, siblings))
    )


def _rivals(role: str, chosen: Sequence[_Found]) -> list[Fault]:
    """Tables of one role that are not parts of one table."""
    faults = []
    for tables in _by_split(chosen).values():
        groups = {table.group: table.raw.name for table in tables}
        if len(groups) > 1:
            names = ", ".join(sorted(groups.values()))
            faults.append(
                Fault(names, None, None, f"all seem to hold the {role}: expected one of them")
            )
    return faults


def _joined(parts: Sequence[RawTable]) -> tuple[RawTable, list[Fault]]:
    """One table of the parts, in their order, and what keeps them from being one."""
    first = parts[0]
    if len(parts) == 1:
        return first, []
    faults = [
        Fault(part.name, None, None, f"has other columns than {first.name}")
        for part in parts[1:]
        if part.columns != first.columns
    ]
    joined = replace(
        first,
        file=f"{first.file} and {len(parts) - 1} more",
        records=lambda: chain.from_iterable(part.records() for part in parts),
    )
    return joined, faults


def _absent_columns(tables: Sequence[_Found], options: ReadOptions) -> list[Fault]:
    there = {plain_name(column) for table in tables for column in table.raw.columns}
    return [
        Fault(f"--map {name}={column}", None, None, "no file has a column of that name")
        for name, column in options.mapped
        if plain_name(column) not in there
    ]


def _lost(source: Source, strangers: Sequence[str]) -> list[Fault]:
    """Files that are named like tables, where nothing else stands for them."""
    there = {"faqs": source.faqs is not None, "queries": bool(source.queries)}
    return [
        Fault(file, None, None, f"is not of a format that is read: {', '.join(SUFFIXES)}")
        for file in strangers
        if (role := role_of(file)) is not None and not there[role]
    ]
