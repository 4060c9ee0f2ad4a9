"""Questions that a tenant's endpoint answered badly or not at all, and a few others, to label.

They are private: they stay in STORE/TENANT/feedback.sqlite (mode 0600), in the store's folder, and
go nowhere else. The file is bounded: questions that nobody has asked for 90 days are
removed, and beyond 5,000 those that were asked longest ago. Replicas and commands share it.
"""

import contextlib
import hashlib
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from adapterdistill.data import Query, TenantDataset
from adapterdistill.data.dataset import write_tenant
from adapterdistill.errors import ConfigError, FileError, ServingError
from adapterdistill.files import private_folder
from adapterdistill.store.bundle import Place
from adapterdistill.store.objects import Folder, open_objects
from adapterdistill.store.release import has_release

FILE = "feedback.sqlite"
MAX_QUESTIONS = 5_000
MAX_AGE_S = 90 * 24 * 3600.0
UNCERTAIN = 0.7
"""A question whose best FAQ is right with a smaller probability is kept."""
SAMPLED = 0.02
"""Share of the other questions that is kept, drawn at random."""
_BUSY_TIMEOUT_S = 10.0
_OUT_OF_SCOPE = ""
_QUERY_ID = "feedback-"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS questions (
    text TEXT PRIMARY KEY,
    times INTEGER NOT NULL,
    last REAL NOT NULL,
    faq_id TEXT,
    confidence REAL,
    wrong INTEGER NOT NULL DEFAULT 0,
    label TEXT
) STRICT
"""


@dataclass(frozen=True)
class Asked:
    """A question and how it was answered. `text` is private: no repr shows it."""

    text: str = field(repr=False)
    faq_id: str | None
    """The best FAQ; None: it was turned away."""
    confidence: float | None


@dataclass(frozen=True)
class Question:
    """A question that was kept."""

    text: str = field(repr=False)
    times: int
    """How often it was asked."""
    faq_id: str | None
    """What answered it last; None: it was turned away."""
    confidence: float | None
    wrong: bool
    """Whether somebody said that the answer was wrong."""
    label: str | None
    """The right FAQ, or "" where none is; None: nobody has said."""

    @property
    def out_of_scope(self) -> bool:
        return self.label == _OUT_OF_SCOPE


class Feedback:
    """The kept questions of one tenant. Open it with `opened`."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def keep(self, asked: Iterable[Asked], *, now: float | None = None) -> None:
        """Keep questions, or count them again; then remove what is too old or too much."""
        now = time.time() if now is None else now
        with self._database:
            self._database.executemany(
                "INSERT INTO questions (text, times, last, faq_id, confidence) "
                "VALUES (?, 1, ?, ?, ?) ON CONFLICT (text) DO UPDATE SET times = times + 1, "
                "last = excluded.last, faq_id = excluded.faq_id, confidence = excluded.confidence",
                [(one.text, now, one.faq_id, one.confidence) for one in asked],
            )
            self._trim(now)

    def tell(
        self, text: str, *, right: str | None = None, wrong: bool = False, now: float | None = None
    ) -> None:
        """Note what somebody says of an answer; a question that was not kept is kept now.

        Args:
            right: the FAQ that answers the question, or "" where none does.
            wrong: the answer was wrong, and it is not known which is right.
        """
        now = time.time() if now is None else now
        with self._database:
            self._database.execute(
                "INSERT INTO questions (text, times, last, wrong, label) VALUES (?, 1, ?, ?, ?) "
                "ON CONFLICT (text) DO UPDATE SET last = excluded.last, "
                "wrong = excluded.wrong, label = coalesce(excluded.label, label)",
                (text, now, int(wrong), right),
            )
            self._trim(now)

    def questions(self, *, labelled: bool | None = None) -> list[Question]:
        """The kept questions, in the order in which to label them.

        First those that somebody called wrong, then those that were asked most often. Equals are
        in a random order that stays the same: the least certain first would label hardly anything
        but what no FAQ answers (docs/measurements/feedback.md).
        """
        where = {None: "", True: "WHERE label IS NOT NULL", False: "WHERE label IS NULL"}
        rows = self._database.execute(
            f"SELECT text, times, faq_id, confidence, wrong, label FROM questions {where[labelled]}"
        )
        found = [
            Question(text, times, faq_id, confidence, bool(wrong), label)
            for text, times, faq_id, confidence, wrong, label in rows
        ]
        return sorted(found, key=lambda one: (not one.wrong, -one.times, _digest(one.text)))

    def forget(self, texts: Iterable[str]) -> None:
        """Remove questions."""
        with self._database:
            self._database.executemany(
                "DELETE FROM questions WHERE text = ?", [(text,) for text in texts]
            )

    def _trim(self, now: float) -> None:
        self._database.execute("DELETE FROM questions WHERE last < ?", (now - MAX_AGE_S,))
        self._database.execute(
            "DELETE FROM questions WHERE text IN (SELECT text FROM questions "
            "ORDER BY label IS NOT NULL DESC, last DESC LIMIT -1 OFFSET ?)",
            (MAX_QUESTIONS,),
        )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def keeps(store: Place, tenant: str) -> bool:
    """Whether the store has kept questions of the tenant."""
    place = open_objects(store)
    return isinstance(place, Folder) and (place.path / tenant / FILE).is_file()


@contextlib.contextmanager
def opened(store: Place, tenant: str) -> Iterator[Feedback]:
    """Open the kept questions of a tenant; the file is made if need be.

    Raises:
        ServingError: the store has no such tenant.
        FileError: the file cannot be read or written, or is damaged.
    """
    place = open_objects(store)
    if not isinstance(place, Folder):
        raise ServingError(f"{place.where} keeps no questions: they lie on each serving node")
    if not has_release(place, tenant):
        raise ServingError(f"tenant {tenant}: nothing is served in {place.where}")
    path = place.path / tenant / FILE
    try:
        private_folder(path.parent)
        path.touch(mode=0o600)
        database = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S)
        with contextlib.closing(database):
            database.execute("PRAGMA secure_delete = ON")
            database.execute(_SCHEMA)
            yield Feedback(database)
    except (OSError, sqlite3.Error) as error:
        # Without the store's path: callers of the endpoint read this, too.
        raise FileError(f"{tenant}/{FILE} cannot be used ({type(error).__name__})") from None


class Taken(NamedTuple):
    """Queries that were added to a tenant's data."""

    labelled: int
    unlabelled: int


def take_into(feedback: Feedback, data: Path) -> Taken:
    """Take kept questions into a tenant's folder of data, for its next onboarding.

    Labelled ones become training queries or out-of-scope ones, and leave the store; the others
    become unlabelled queries. A question that the folder has already is not added again.

    Raises:
        ConfigError: a label names an FAQ that the folder has not got.
        DataError: the folder cannot be read.
    """
    dataset = TenantDataset.open(data)
    kept = feedback.questions()
    strange = {one.label for one in kept if one.label} - {faq.faq_id for faq in dataset.faqs()}
    if strange:
        raise ConfigError(f"{data} has not got FAQs that labels name: {', '.join(sorted(strange))}")
    named = {one.text for one in kept if one.label is not None}
    queries = [
        query
        for query in dataset.queries()
        if query.split != "unlabelled" or query.text not in named
    ]
    have = {query.text for query in queries}
    new = [one for one in kept if one.text not in have]

    def rows() -> Iterator[Query]:
        yield from queries
        for one in new:
            query_id = f"{_QUERY_ID}{hashlib.sha256(one.text.encode()).hexdigest()[:16]}"
            split = "unlabelled" if one.label is None else "train"
            yield Query(query_id, one.text, one.label or None, split)

    write_tenant(data, dataset.faqs(), rows(), overwrite=True)
    feedback.forget(named)
    labelled = sum(one.label is not None for one in new)
    return Taken(labelled, len(new) - labelled)


def exported(data: Path) -> list[Query]:
    """Read the queries that `take_into` added to a folder of data; none if there is no folder.

    Raises:
        DataError: the folder cannot be read.
    """
    if not data.is_dir():
        return []
    queries = TenantDataset.open(data).queries()
    return [query for query in queries if query.query_id.startswith(_QUERY_ID)]


def add_queries(data: Path, more: Collection[Query]) -> None:
    """Add queries to a folder of data: those of FAQs that it has, and with texts that it has not.

    Raises:
        DataError: the folder cannot be read.
    """
    if not more:
        return
    dataset = TenantDataset.open(data)
    queries, known = list(dataset.queries()), {None, *(faq.faq_id for faq in dataset.faqs())}
    have = {query.text for query in queries}
    new = [query for query in more if query.text not in have and query.faq_id in known]
    write_tenant(data, dataset.faqs(), [*queries, *new], overwrite=True)
