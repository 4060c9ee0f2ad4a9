"""The tenant format: two tables, their rows, and faults in them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adapterdistill.errors import DataError, listed

FAQ_COLUMNS = ("faq_id", "question", "answer")
QUERY_COLUMNS = ("query_id", "text", "faq_id", "split")
NULLABLE_COLUMNS = {"faqs": frozenset({"answer"}), "queries": frozenset({"faq_id"})}
SPLITS = ("train", "valid", "test", "unlabelled")
FAQS_FILE = "faqs.parquet"
QUERIES_FILE = "queries.parquet"
TASKS_FOLDER = "tasks"
FAULTS_IN_MESSAGE = 20

# "s3://bucket" as typed, "s3:/bucket" once pathlib has seen it; one letter is a Windows drive.
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|file:")


@dataclass(frozen=True)
class Faq:
    """One entry of a tenant's FAQ page."""

    faq_id: str
    question: str
    answer: str | None


@dataclass(frozen=True)
class Query:
    """A question that a user asked.

    `faq_id` is None for a query that nobody labelled (split "unlabelled") and for one that no FAQ
    answers (any other split: out of scope).
    """

    query_id: str
    text: str
    faq_id: str | None
    split: str
    further: tuple[str, ...] = ()
    """Further FAQs that are right too, in the order of the rows."""

    @property
    def faq_ids(self) -> tuple[str, ...]:
        """Every FAQ that is right."""
        return () if self.faq_id is None else (self.faq_id, *self.further)

    @property
    def out_of_scope(self) -> bool:
        return self.faq_id is None and self.split != "unlabelled"


@dataclass(frozen=True)
class Fault:
    """A place where a file breaks the format. Quotes neither texts nor ids, as logs may show it.

    `row` counts records from 0, without a header; None where the whole file or column is meant.
    """

    file: str
    row: int | None
    column: str | None
    problem: str

    def __str__(self) -> str:
        place = self.file
        if self.row is not None:
            place += f", row {self.row}"
        if self.column is not None:
            place += f", column {self.column}"
        return f"{place}: {self.problem}"


def faults_message(folder: Path, faults: Sequence[Fault], read_as: Sequence[str] = ()) -> str:
    """Make a message of how many faults there are, the first of them, and how files were read.

    Each fault, and each file with its columns, is one line.
    """
    told = [*map(str, faults[:FAULTS_IN_MESSAGE])]
    if len(faults) > FAULTS_IN_MESSAGE:
        told.append(f"... and {len(faults) - FAULTS_IN_MESSAGE} more")
    told += [f"read as: {table}" for table in read_as]
    return listed(f"{folder}: {len(faults)} fault(s); rows count from 0", told)


def local_folder(folder: Path | str) -> Path:
    """Return `folder` unless it is a URI: private data stay on the owner's disk.

    Raises:
        DataError: `folder` has the form of a URI.
    """
    if _URI.match(str(folder)):
        scheme = str(folder).split(":", 1)[0]
        raise DataError(f"a tenant folder must be a local path; came a {scheme}: address")
    return Path(folder)
