"""The role of each table: FAQs, queries of a split, or left out with the reason.

The names decide, else the columns. A role has one table, or one for each split; the parts of one
table are joined.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from adapterdistill.data.schema import Fault
from adapterdistill.data.sources.columns import (
    FAQ_NAMES,
    QUERY_NAMES,
    Match,
    match_columns,
    plain_name,
    shown_names,
)
from adapterdistill.data.sources.naming import group_of, role_of, split_of
from adapterdistill.data.sources.opening import ReadOptions
from adapterdistill.data.sources.raw import RawTable

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
    """The tables of a source."""

    faqs: SourceTable | None = None
    queries: list[SourceTable] = field(default_factory=list)
    """One, or one a split."""
    class_names: tuple[str, ...] | None = None
    """Names of integer labels, from a file such as `labels.txt`."""
    ignored: list[tuple[str, str]] = field(default_factory=list)
    """(what, why)."""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Found:
    """A table before its role is settled."""

    raw: RawTable
    role: str | None
    """"faqs" or "queries" where the names say so."""
    split: str | None = None
    group: str = ""
    """Equal for the parts of one table."""

    @classmethod
    def of(cls, raw: RawTable) -> "Found":
        """The table with what its names say, those of its sheet or key first."""
        part = raw.part or ""
        return cls(
            raw,
            role_of(part) or role_of(raw.file),
            split_of(part) or split_of(raw.file),
            group_of(raw.file, raw.part),
        )

    @property
    def own_role(self) -> str | None:
        """The role that the sheet or key names by itself."""
        return None if self.raw.part is None else role_of(self.raw.part)


def assign(
    found: Sequence[Found], options: ReadOptions, source: Source, *, single: bool
) -> list[Fault]:
    """Settle each table's role, and see that a role has one table, or one for each split."""
    named: dict[str, list[Found]] = {role: [] for role in _NAMES}
    guessed: dict[str, list[Found]] = {role: [] for role in _NAMES}
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


def _by_split(tables: Sequence[Found]) -> dict[str | None, list[Found]]:
    splits: dict[str | None, list[Found]] = {}
    for table in tables:
        splits.setdefault(table.split, []).append(table)
    return splits


def _role_by_columns(table: Found, options: ReadOptions, *, single: bool) -> str | None:
    faq = match_columns(table.raw.columns, FAQ_NAMES, options.mapped)
    query = match_columns(table.raw.columns, QUERY_NAMES, options.mapped)
    if "question" in faq and "answer" in faq:
        return "faqs"
    if "text" in query and ("faq_id" in query or table.split is not None):
        return "queries"
    return "faqs" if single and "question" in faq else None


def _is_other_sheet(table: Found, found: Sequence[Found], options: ReadOptions) -> bool:
    """Whether the file's name means another of its sheets or keys."""
    if table.raw.part is None or table.own_role is not None:
        return False

    def usable(one: Found) -> bool:
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


def _rivals(role: str, chosen: Sequence[Found]) -> list[Fault]:
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


def _absent_columns(tables: Sequence[Found], options: ReadOptions) -> list[Fault]:
    there = {plain_name(column) for table in tables for column in table.raw.columns}
    return [
        Fault(f"--map {name}={column}", None, None, "no file has a column of that name")
        for name, column in options.mapped
        if plain_name(column) not in there
    ]
