"""Names of files and folders: the format, role, split and parts that they tell."""

import re
from pathlib import Path

from adapterdistill.data.sources.columns import plain_name, split_of_words
from adapterdistill.data.sources.text import COMPRESSIONS

DELIMITED = (".csv", ".tsv", ".tab", ".txt")
LINES = (".jsonl", ".ndjson")
YAML = (".yml", ".yaml")
PARQUET = (".parquet", ".pq")
ARROW = (".arrow", ".feather")
EXCEL = (".xlsx", ".xlsm")
SUFFIXES = (*DELIMITED, *LINES, ".json", *YAML, *PARQUET, *ARROW, *EXCEL)
_PACKED_WITHIN = (*PARQUET, *ARROW, *EXCEL)
_FAQ_WORDS = frozenset(("faq", "faqs"))
_QUERY_WORDS = frozenset(("query", "queries", "utterance", "utterances"))
_LABEL_STEMS = frozenset(
    ("label", "labels", "labelnames", "categories", "classes", "classnames", "intents", "id2label")
)


def suffix_of(path: Path) -> str:
    """The suffix that tells the format: `.csv` for `FAQS.CSV.gz`."""
    if path.suffix.casefold() in COMPRESSIONS:
        inner = path.with_suffix("").suffix.casefold()
        return inner if inner not in _PACKED_WITHIN else f"{inner}{path.suffix.casefold()}"
    return path.suffix.casefold()


def stem_of(path: Path) -> str:
    name = path.name.casefold()
    for _ in range(2):
        inner, dot, suffix = name.rpartition(".")
        if inner and f"{dot}{suffix}" in (*COMPRESSIONS, *SUFFIXES):
            name = inner
    return name


def _names(file: str) -> list[str]:
    """The names that tell a role, nearest first: the file's own, then its folders'."""
    path = Path(file)
    return [stem_of(path), *(stem_of(Path(part)) for part in reversed(path.parent.parts))]


def role_of(file: str) -> str | None:
    for part in _names(file):
        words = set(re.findall(r"[a-z]+", part))
        if words & _QUERY_WORDS:
            return "queries"
        if words & _FAQ_WORDS:
            return None if split_of_words(part) else "faqs"
    return None


def is_named(path: Path, file: str) -> bool:
    """Whether the names say that the file is a table, or one with names of labels."""
    return role_of(file) is not None or split_of(file) is not None or is_class_file(path)


def split_of(file: str) -> str | None:
    return next((split for part in _names(file) if (split := split_of_words(part))), None)


def group_of(file: str, part: str | None) -> str:
    """The file's path without what numbers the parts of one table."""
    path = Path(file)
    stem = re.sub(r"-\d{5}-of-\d{5}$", "", stem_of(path))
    if re.fullmatch(r"part-\d+.*|\d+", stem):
        stem = "part"
    return f"{path.parent}/{stem}{suffix_of(path)}/{part}"


def is_class_file(path: Path) -> bool:
    return plain_name(stem_of(path)) in _LABEL_STEMS and suffix_of(path) in (
        ".txt",
        ".json",
        ".csv",
    )
