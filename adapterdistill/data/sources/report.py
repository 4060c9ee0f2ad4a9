"""The account of an import: columns, changes, doubts, and every row or file that is left out."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from adapterdistill.data.sources.columns import FIELDS, shown_name
from adapterdistill.data.sources.roles import SourceTable

MOST_ROWS_NAMED = 20
_MOST_LINES = 50


def shown_rows(rows: Sequence[int]) -> str:
    """`row 3`, or `rows 3, 5, 8`; of many the first, and how many more."""
    named = ", ".join(str(row) for row in rows[:MOST_ROWS_NAMED])
    more = len(rows) - MOST_ROWS_NAMED
    return f"{'row' if len(rows) == 1 else 'rows'} {named}" + (
        f" and {more} more" if more > 0 else ""
    )


@dataclass
class TableReport:
    """How one table was understood."""

    name: str
    role: str
    kind: str
    fields: dict[str, list[str]]
    """Column names by field."""
    ignored: list[str]
    """Columns that no field takes."""
    rows: int = 0
    """Rows that are not empty."""

    def __str__(self) -> str:
        fields = [f"{name} is {', '.join(found)}" for name, found in self.fields.items()]
        ignored = f"; ignored: {', '.join(self.ignored)}" if self.ignored else ""
        return f"{self.name}: {self.kind}; {', '.join(fields) or 'no known column'}{ignored}"


@dataclass
class ImportReport:
    """The account of an import, for a person and for machines."""

    tables: list[TableReport] = field(default_factory=list)
    ignored: list[tuple[str, str]] = field(default_factory=list)
    """(file or sheet, why)."""
    notes: list[str] = field(default_factory=list)
    """Changes, and values that were made."""
    warnings: list[str] = field(default_factory=list)
    """Likely mistakes in the source."""
    _rows: dict[tuple[str, str], list[int]] = field(default_factory=lambda: defaultdict(list))

    def row(self, table: str, what: str, row: int) -> None:
        """Note of a row that `what` was done; told once with all rows."""
        self._rows[table, what].append(row)

    def settle(self) -> None:
        """Turn what was noted of rows into notes."""
        for (table, what), rows in self._rows.items():
            once = sorted(set(rows))
            self.notes.append(f"{table}: {what} ({len(once)}: {shown_rows(once)})")
        self._rows.clear()

    def add_table(self, table: SourceTable, role: str) -> None:
        """Tell how the table was understood; `count` adds its rows."""
        raw, columns = table.raw, table.raw.columns
        if raw.above:
            self.notes.append(f"{raw.name}: {raw.above} row(s) above the header are not read")
        self.notes += [f"{raw.name}: {note}" for note in raw.notes]
        fields = {
            name: [shown_name(columns[n], n) for n in places]
            for name in FIELDS
            if (places := table.match.places.get(name))
        }
        ignored = [shown_name(columns[n], n) for n in table.match.unused]
        self.tables.append(TableReport(raw.name, role, raw.kind, fields, ignored))

    def count(self, table: str, rows: int, *, empty: int, headers: int) -> None:
        """Tell how many rows a table has, and how many were passed over."""
        for one in self.tables:
            if one.name == table:
                one.rows = rows
        if empty:
            self.notes.append(f"{table}: {empty} empty row(s) are not read")
        if headers:
            self.notes.append(f"{table}: {headers} row(s) that repeat the header are not read")

    def shown_tables(self) -> list[str]:
        """How each table was understood, one a line."""
        return [str(table) for table in self.tables]

    def lines(self) -> list[str]:
        """The account, one matter a line."""
        lines = [f"{table.role}: {table}; {table.rows} row(s)" for table in self.tables]
        lines += [f"ignored: {what}: {why}" for what, why in self.ignored]
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"warning: {warning}" for warning in self.warnings[:_MOST_LINES]]
        if len(self.warnings) > _MOST_LINES:
            lines.append(f"warning: and {len(self.warnings) - _MOST_LINES} more like these")
        return lines
