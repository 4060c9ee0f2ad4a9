"""Match a file's column names to the tenant format's fields, whatever way they are written.

Case, spaces, hyphens and underscores do not count. A name of the format wins over its synonyms, and
`--map field=COLUMN` over both. The caller is told each choice and each column that was left out.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FAQ_FIELDS = ("faq_id", "question", "answer")
QUERY_FIELDS = ("query_id", "text", "faq_id", "split")
FIELDS = tuple(dict.fromkeys((*FAQ_FIELDS, *QUERY_FIELDS)))

# In order of preference; written as `plain_name` gives them.
FAQ_NAMES: Mapping[str, Sequence[str]] = {
    "faq_id": ("faqid", "faq", "id", "questionid", "faqnumber", "key", "intent", "tag", "label"),
    "question": ("question", "questions", "faqquestion", "title", "query", "patterns", "q"),
    "answer": ("answer", "answers", "faqanswer", "response", "responses", "reply", "a"),
}
QUERY_NAMES: Mapping[str, Sequence[str]] = {
    "query_id": ("queryid", "id", "uid", "idx"),
    "text": (
        "text",
        "query",
        "queries",
        "userquestion",
        "utterance",
        "sentence",
        "message",
        "input",
        "phrase",
        "example",
        "question",
    ),
    "faq_id": (
        "faqid",
        "faqids",
        "faq",
        "faqs",
        "intent",
        "category",
        "labeltext",
        "labelname",
        "label",
        "labels",
        "class",
        "target",
        "faqquestion",
        "question",
    ),
    "split": ("split", "set", "subset", "partition"),
}
SPLIT_WORDS: Mapping[str, str] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(
        ("valid", "validation", "val", "dev", "development", "eval", "evaluation"), "valid"
    ),
    **dict.fromkeys(("test", "testing", "holdout", "heldout"), "test"),
    **dict.fromkeys(("unlabelled", "unlabeled", "unsupervised"), "unlabelled"),
}
_LONGEST_NAME = 40
_MOST_WORDS = 3


def plain_name(name: object) -> str:
    """`name` without case, spaces and signs: `FAQ ID`, `faq-id` and `faqId` are one name."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", str(name)).casefold())


def split_of_words(text: str) -> str | None:
    """Return the split that one word of `text` names; None where no word does, or two differ."""
    words = re.findall(r"[a-z]+", text.casefold())
    found = {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}
    return found.pop() if len(found) == 1 else None


def shown_name(name: str, place: int) -> str:
    """Return `name` in quotes, or only its place where it looks like a text and not like a name."""
    name = name.strip()
    if not name:
        return f"column {place + 1} without a name"
    if (
        not name.isprintable()
        or len(name) > _LONGEST_NAME
        or len(name.split()) > _MOST_WORDS
        or re.search(r"[?!.,;]", name)
    ):
        return f"column {place + 1} (not shown: it looks like a text, not like a name)"
    return f'"{name}"'


def shown_names(names: Sequence[str]) -> str:
    return ", ".join(shown_name(name, place) for place, name in enumerate(names)) or "none"


@dataclass(frozen=True)
class Match:
    """Which column each field comes from."""

    places: Mapping[str, tuple[int, ...]]
    """Field to places in the header. More than one only for the phrasings of a question."""
    twice: tuple[str, ...]
    """Fields that two columns of one name claim."""
    unused: tuple[int, ...]
    """Places of the columns that no field takes."""

    def __contains__(self, field: str) -> bool:
        return field in self.places


def match_columns(
    header: Sequence[str],
    names: Mapping[str, Sequence[str]],
    mapped: Sequence[tuple[str, str]] = (),
) -> Match:
    """Match `header` to the fields of `names` (`FAQ_NAMES` or `QUERY_NAMES`).

    Args:
        mapped: (field, column) pairs that the user asked for; those of absent columns do not count.
    """
    plain = [plain_name(name) for name in header]
    places: dict[str, tuple[int, ...]] = {}
    twice = []
    taken: set[int] = set()
    for field, column in mapped:
        if field not in names:
            continue
        found = [n for n, name in enumerate(header) if name.strip() == column.strip()]
        found = found or [n for n, name in enumerate(plain) if name == plain_name(column)]
        if found:
            if field in places or len(found) > 1:
                twice.append(field)
            places[field] = (found[0],)
            taken.add(found[0])
    for field, synonyms in names.items():
        if field in places:
            continue
        for synonym in synonyms:
            found = [n for n, name in enumerate(plain) if name == synonym and n not in taken]
            if not found:
                continue
            if len(found) > 1:
                twice.append(field)
            places[field] = (found[0],)
            taken.update(found)
            break
    if "question" in names:
        further = tuple(n for n, name in enumerate(plain) if _is_phrasing(name) and n not in taken)
        if further:
            places["question"] = (*places.get("question", ()), *further)
            taken.update(further)
    unused = tuple(n for n in range(len(header)) if n not in taken)
    return Match(places, tuple(twice), unused)


def _is_phrasing(name: str) -> bool:
    """Whether the column holds a further phrasing: `Question 2`, `phrasings`, `alternative`."""
    return bool(
        re.fullmatch(
            r"(question|phrasing|variant|alternative|alternativequestion|altquestion|synonym)s?\d*",
            name,
        )
    ) and name not in ("question", "questions")


KNOWN_NAMES = frozenset(
    name for table in (FAQ_NAMES, QUERY_NAMES) for names in table.values() for name in names
)
"""Every name of a column that means something."""
