"""Open one file of a source as tables, or as names of labels, in plain words where that fails."""

import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from lzma import LZMAError
from pathlib import Path

import pyarrow as pa

from adapterdistill.data.reading import READ_EVENT
from adapterdistill.data.sources.columnar import read_arrow, read_parquet
from adapterdistill.data.sources.columns import KNOWN_NAMES, plain_name
from adapterdistill.data.sources.delimited import read_delimited
from adapterdistill.data.sources.json_tables import read_json, read_json_lines, read_plain_json
from adapterdistill.data.sources.naming import (
    ARROW,
    EXCEL,
    LINES,
    PARQUET,
    YAML,
    is_class_file,
    split_of,
    suffix_of,
)
from adapterdistill.data.sources.rasa import RasaProject
from adapterdistill.data.sources.raw import RawTable, Record, UnreadableSourceError
from adapterdistill.data.sources.text import encoding_of, is_also_utf8, read_whole
from adapterdistill.data.sources.workbook import read_workbook

_DAMAGED = (
    pa.ArrowException,
    OSError,
    EOFError,
    zlib.error,
    LZMAError,
    zipfile.BadZipFile,
    KeyError,
    ValueError,
)


@dataclass(frozen=True)
class ReadOptions:
    """How the user says that files are to be read."""

    encoding: str | None
    """Encoding of text files without a byte order mark; None is UTF-8."""
    mapped: Sequence[tuple[str, str]]
    """(field, column) pairs."""

    def is_known(self, name: str) -> bool:
        """Whether a column of that name means something."""
        plain = plain_name(name)
        return plain in KNOWN_NAMES or any(plain == plain_name(c) for _, c in self.mapped)


@dataclass
class Opened:
    """The content of the files that were opened."""

    tables: list[RawTable] = field(default_factory=list)
    rasa: RasaProject = field(default_factory=RasaProject)
    class_names: tuple[str, ...] | None = None
    """Names of integer labels, from a file such as `labels.txt`."""
    ignored: list[tuple[str, str]] = field(default_factory=list)
    """(what, why)."""
    notes: list[str] = field(default_factory=list)

    def add(self, path: Path, file: str, options: ReadOptions) -> None:
        """Add a file, whose suffix names its format.

        Raises:
            UnreadableSourceError: it is damaged, not of its format, or not to be read.
        """
        # Arrow opens files outside Python, where no audit hook would hear of it.
        sys.audit(READ_EVENT, str(path))
        suffix = suffix_of(path)
        with translating(suffix):
            if is_class_file(path) and self._add_class_names(path, file, options):
                return
            if suffix in YAML:
                split = split_of(file) or "train"
                if not self.rasa.read(path, file, split=split, told=options.encoding):
                    self.ignored.append((file, "YAML without `nlu` and `responses`"))
                return
            self.tables += [
                replace(raw, records=_translated(raw.records, suffix))
                for raw in self._tables(path, file, options)
            ]

    def _tables(self, path: Path, file: str, options: ReadOptions) -> list[RawTable]:
        suffix, told = suffix_of(path), options.encoding
        if suffix in PARQUET:
            return [read_parquet(path, file)]
        if suffix in ARROW:
            return [read_arrow(path, file)]
        if suffix in EXCEL:
            tables, ignored = read_workbook(path, file, is_known=options.is_known)
            self.ignored += ignored
            return tables
        used = told not in (None, "utf-8", "ascii") and encoding_of(path, told) == told
        if used and is_also_utf8(path):
            what = f"is valid UTF-8, but was read as {told}, as --encoding says"
            self.notes.append(f"{file} {what}")
        if suffix in LINES:
            return [read_json_lines(path, file, told=told)]
        if suffix == ".json":
            return read_json(path, file, told=told, is_known=options.is_known)
        return [read_delimited(path, file, told=told, is_known=options.is_known)]

    def _add_class_names(self, path: Path, file: str, options: ReadOptions) -> bool:
        """Whether the file is one with names of labels."""
        names = _class_names(path, options)
        if names is None:
            return False
        if self.class_names not in (None, names):
            raise UnreadableSourceError("names other labels than the file before it")
        self.class_names = names
        self.notes.append(f"{file}: names of {len(names)} labels")
        return True


@contextmanager
def translating(suffix: str) -> Iterator[None]:
    """Turn what libraries raise for a damaged file into one plain problem, without their words."""
    try:
        yield
    except UnreadableSourceError:
        raise
    except UnicodeError:
        raise UnreadableSourceError("is not text of its encoding; see --encoding") from None
    except PermissionError:
        raise UnreadableSourceError("may not be read by this user") from None
    except _DAMAGED:
        problem = f"cannot be read: damaged, truncated or not {suffix[1:]}"
        raise UnreadableSourceError(problem) from None


def _translated(
    records: Callable[[], Iterator[Record]], suffix: str
) -> Callable[[], Iterator[Record]]:
    def stream() -> Iterator[Record]:
        with translating(suffix):
            yield from records()

    return stream


def _class_names(path: Path, options: ReadOptions) -> tuple[str, ...] | None:
    """Names of the labels 0, 1, ...; None if the file is of another kind."""
    if suffix_of(path) == ".txt":
        text = read_whole(path, encoding_of(path, options.encoding))
        return tuple(line.strip() for line in text.splitlines() if line.strip())
    if suffix_of(path) == ".csv":
        raw = read_delimited(path, path.name, told=options.encoding, is_known=options.is_known)
        rows = [row for row in raw.records() if row is not None and not isinstance(row, str)]
        pairs = [(str(a), str(b)) for a, b in (row for row in rows if len(row) == 2)]
        return _numbered(pairs) or _numbered([(b, a) for a, b in pairs])
    value = read_plain_json(path)
    if isinstance(value, list) and value and all(isinstance(name, str) for name in value):
        return tuple(value)
    if isinstance(value, dict):
        pairs = [(str(a), str(b)) for a, b in value.items()]
        return _numbered(pairs) or _numbered([(b, a) for a, b in pairs])
    return None


def _numbered(pairs: Sequence[tuple[str, str]]) -> tuple[str, ...] | None:
    """The second of each pair, in order of the first, if those are 0, 1, 2, ..."""
    if not pairs or not all(number.isdecimal() for number, _ in pairs):
        return None
    names = {int(number): name for number, name in pairs}
    if sorted(names) != list(range(len(pairs))):
        return None
    return tuple(names[number] for number in range(len(names)))
