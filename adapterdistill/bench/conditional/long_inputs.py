"""Tenants with long queries, made from other data: FAQ answers, and pairs of long and short texts.

In the former the answer of each FAQ has to find its question; in the latter a long question has to
the short one that asks the same.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapterdistill.data.reading import UnreadableTableError, read_table
from adapterdistill.data.schema import faults_message
from adapterdistill.data.splits import held_out
from adapterdistill.data.tasks import read_task
from adapterdistill.errors import DataError

WORDS = 45
"""A text of so many words is long: about 64 tokens. Valid and test rows are long."""
TRAINING_WORDS = 30
"""Training rows have at least so many words."""
MATCHES = frozenset({"true", "yes", "1", "entailment", "duplicate"})
"""Labels of pairs whose texts ask the same."""
_HELD_OUT, _VALID = 0.8, 0.3
"""Share of the long texts that are valid or test rows, and of these the valid ones."""


@dataclass(frozen=True)
class Match:
    """A long text, and the short one that it is to find."""

    long: str
    short: str


def long_tenants(data: Path, workspace: Path) -> list[Path]:
    """Writes a tenant folder into `workspace` for each FAQ table and task of pairs that has enough.

    Tables are `*/faqs.jsonl` of `data` itself, tasks its `pairs/*.jsonl`.

    Raises:
        DataError: a file is not what its place says.
    """
    found = []
    sources = [(path.parent.name, _of_faqs(path)) for path in sorted(data.glob("*/faqs.jsonl"))]
    sources += [(path.stem, _of_pairs(path)) for path in sorted((data / "pairs").glob("*.jsonl"))]
    for name, matches in sources:
        once = {match.long: match for match in matches if _words(match.long) >= TRAINING_WORDS}
        if sum(_words(text) >= WORDS for text in once) >= 20:
            found.append(_written(workspace / f"{name}.long", list(once.values())))
    return found


def _words(text: str) -> int:
    return len(text.split())


def _of_faqs(path: Path) -> Iterator[Match]:
    columns = ("question", "answer")
    try:
        for batch in read_table(path, columns, optional=frozenset({"answer"})):
            for _, (question, answer) in batch.rows():
                if isinstance(question, str) and isinstance(answer, str):
                    yield Match(" ".join(answer.split()), question)
    except UnreadableTableError as error:
        raise DataError(faults_message(path.parent, error.faults)) from None


def _of_pairs(path: Path) -> Iterator[Match]:
    task = read_task(path)
    if not task.pairs:
        return
    for row in (*task.train, *task.valid, *task.test):
        if row.label.lower() in MATCHES and row.text_pair and row.text != row.text_pair:
            yield Match(row.text, row.text_pair)


def _written(folder: Path, matches: Sequence[Match]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    faqs = {
        short: f"f{place}" for place, short in enumerate(dict.fromkeys(m.short for m in matches))
    }
    _write(folder / "faqs.jsonl", [{"faq_id": i, "question": q} for q, i in faqs.items()])
    _write(
        folder / "queries.jsonl",
        [
            {
                "query_id": f"q{place}",
                "text": match.long,
                "faq_id": faqs[match.short],
                "split": _split(match.long),
            }
            for place, match in enumerate(matches)
        ],
    )
    return folder


def _split(text: str) -> str:
    if _words(text) < WORDS or not held_out(text, seed=0, fraction=_HELD_OUT):
        return "train"
    return "valid" if held_out(text, seed=1, fraction=_VALID) else "test"


def _write(path: Path, rows: Sequence[dict[str, str]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
