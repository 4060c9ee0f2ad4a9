"""Whether an encoder reads a tenant's FAQs and tells them apart: checked before training.

A text in a script that a vocabulary lacks becomes unknown tokens, and all such texts get one
vector: every question would find the first of them with score 1.0.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from adapterdistill.backbone import Encoder
from adapterdistill.backbone.packaged import languages_of, reader_of
from adapterdistill.data import Faq
from adapterdistill.distill.batches import TrainingRows
from adapterdistill.distill.labels import right_labels
from adapterdistill.errors import DataError, UnreadableTextError
from adapterdistill.manifest import UNDETERMINED

UNKNOWN_SHARE = 0.5
"""A text is unread if this share of its tokens, or more, is unknown to the encoder."""
MOST_UNREAD = 0.1
"""A tenant with a larger share of unread FAQs is refused."""
MOST_ALIKE = 0.5
"""A tenant with a larger share of FAQs that cannot be told apart is refused."""
_SAME = 1e-5
"""Cosine distance of vectors that count as equal: float32 rounds at about 1e-7 a product."""
_VECTORS = 1000
"""Most questions that are embedded to compare their vectors."""
_LETTERS_PER_TOKEN = 1.2
_LATIN_END = "\u024f"
_NAMED = 5


@dataclass(frozen=True)
class Readability:
    """What an encoder makes of a tenant's FAQs; they are named by their ids."""

    encoder: str
    max_tokens: int
    faqs: int
    unknown_share: float
    """Share of the questions' tokens that are unknown to the encoder."""
    unread: tuple[str, ...]
    """FAQs whose question and training queries are all unread."""
    alike: tuple[tuple[str, ...], ...]
    """Groups of FAQs with equal tokens or vectors and no training query of their own."""
    cut_alike: tuple[tuple[str, ...], ...]
    """Groups of FAQs with different questions whose tokens, cut at `max_tokens`, are equal."""
    without_letters: tuple[str, ...]
    """FAQs whose question holds digits, punctuation or signs only."""
    letter_by_letter: bool
    """Whether the questions are in a script other than Latin of which it knows little but the
    letters."""

    @property
    def num_alike(self) -> int:
        """Number of FAQs that cannot be told apart."""
        return sum(map(len, self.alike + self.cut_alike))

    def require(self) -> None:
        """Refuse a tenant that could not be served.

        Raises:
            UnreadableTextError: the encoder cannot read over `MOST_UNREAD` of the FAQs.
            DataError: over `MOST_ALIKE` of the FAQs cannot be told apart.
        """
        if len(self.unread) > MOST_UNREAD * self.faqs:
            raise UnreadableTextError(f"{self._about_unread()}; {self._remedy()}")
        if self.num_alike > MOST_ALIKE * self.faqs:
            raise DataError("; ".join(self._about_alike()))

    def warnings(self, language: str = UNDETERMINED) -> list[str]:
        """List what the owner should look at, one sentence each. `language` is a BCP 47 tag."""
        found = []
        if self.unread:
            found.append(f"{self._about_unread()}; {self._remedy()}")
        found += self._about_alike()
        if self.without_letters:
            found.append(
                f"{_count(self.without_letters)} without a letter in the question "
                f"({_ids(self.without_letters)}): few texts will match, unless they have queries"
            )
        spoken, known = language.partition("-")[0], languages_of(self.encoder)
        if spoken != UNDETERMINED and known is not None and spoken not in known:
            found.append(f"encoder {self.encoder} was not trained on {language}; {self._remedy()}")
        elif self.letter_by_letter and not self.unread:
            found.append(
                f"encoder {self.encoder} reads the questions letter by letter, as it does a "
                f"language that it was not trained on; {self._remedy()}"
            )
        return found

    def _about_unread(self) -> str:
        return (
            f"encoder {self.encoder} cannot read {len(self.unread)} of {self.faqs} FAQs "
            f"({_ids(self.unread)}): half or more of their tokens are unknown to it"
        )

    def _remedy(self) -> str:
        better = reader_of(self.encoder)
        if better is None:
            return "choose an encoder that was trained on their language (encoder.name)"
        return f'an encoder that could is encoder.name = "{better.name}" ({better.install})'

    def _about_alike(self) -> list[str]:
        found = []
        if self.alike:
            found.append(
                f"FAQs with equal questions ({_groups(self.alike)}) cannot be told apart: reword "
                "or merge them, or give each training queries"
            )
        if self.cut_alike:
            found.append(
                f"FAQs cut to equal beginnings at {self.max_tokens} tokens "
                f"({_groups(self.cut_alike)}) cannot be told apart: raise encoder.max_tokens"
            )
        return found


def check_readable(faqs: Sequence[Faq], rows: TrainingRows, encoder: Encoder) -> Readability:
    """Look at the tokens and vectors of a tenant's FAQs.

    Args:
        rows: the questions, one row an FAQ in order, then its labelled training queries.
    """
    special = set(encoder.tokenize([""])[0])
    unknown = encoder.unknown_id
    right = [[one for one in labels if one >= 0] for labels in right_labels(rows.labels).tolist()]
    known = [_unknown_share(ids, special, unknown) < UNKNOWN_SHARE for ids in rows.ids]
    read = {label for labels, good in zip(right, known, strict=True) if good for label in labels}
    unread = [i for i in range(len(faqs)) if i not in read]

    means: dict[tuple[int, ...], set[int]] = defaultdict(set)
    for ids, labels in zip(rows.ids, right, strict=True):
        means[tuple(ids)].update(labels)
    told = {label for labels in means.values() if len(labels) == 1 for label in labels}
    questions = rows.ids[: len(faqs)]
    groups = defaultdict(list)
    for i in read - told:
        groups[tuple(questions[i])].append(i)
    cut = {
        ids
        for ids, group in groups.items()
        if len(ids) >= encoder.max_tokens and len({faqs[i].question for i in group}) > 1
    }
    own_queries = {label for labels in right[len(faqs) :] for label in labels}
    alone = sorted((read & told) - own_queries)[:_VECTORS]
    equal = [group for ids, group in groups.items() if ids not in cut and len(group) > 1]
    equal += _equal_vectors(encoder, [questions[i] for i in alone], alone)

    def named(found: list[list[int]]) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(faqs[i].faq_id for i in sorted(group)) for group in sorted(found))

    tokens = [one for ids in questions for one in ids if one not in special]
    return Readability(
        encoder=encoder.ref.name,
        max_tokens=encoder.max_tokens,
        faqs=len(faqs),
        unknown_share=tokens.count(unknown) / max(1, len(tokens)) if unknown is not None else 0.0,
        unread=tuple(faqs[i].faq_id for i in unread),
        alike=named(equal),
        cut_alike=named([groups[ids] for ids in cut]),
        without_letters=tuple(
            faq.faq_id for faq in faqs if not any(map(str.isalpha, faq.question))
        ),
        letter_by_letter=_letter_by_letter([faq.question for faq in faqs], len(tokens)),
    )


def _unknown_share(ids: Sequence[int], special: set[int], unknown: int | None) -> float:
    """Share of unknown tokens; 1 if there is no token but special ones."""
    content = [one for one in ids if one not in special]
    if not content:
        return 1.0
    return 0.0 if unknown is None else content.count(unknown) / len(content)


def _equal_vectors(
    encoder: Encoder, rows: Sequence[Sequence[int]], labels: Sequence[int]
) -> list[list[int]]:
    """Group the labels whose rows have equal vectors; those that are alone are left out."""
    if not rows:
        return []
    vectors = encoder.embed_ids(rows)
    near = (vectors @ vectors.T > 1 - _SAME).cpu().numpy()
    groups: dict[int, list[int]] = defaultdict(list)
    for row, first in enumerate(near.argmax(axis=1).tolist()):  # numpy's is the first of equals
        groups[first].append(labels[row])
    return [group for group in groups.values() if len(group) > 1]


def _letter_by_letter(texts: Sequence[str], tokens: int) -> bool:
    """Say whether the texts are not in Latin letters, and have about a token a letter."""
    letters = [one for text in texts for one in unicodedata.normalize("NFD", text) if one.isalpha()]
    beyond = sum(letter > _LATIN_END for letter in letters)
    return beyond > len(letters) / 2 and len(letters) < _LETTERS_PER_TOKEN * tokens


def _count(ids: Sequence[str]) -> str:
    return "1 FAQ" if len(ids) == 1 else f"{len(ids)} FAQs"


def _ids(ids: Sequence[str]) -> str:
    more = len(ids) - _NAMED
    return ", ".join(ids[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _groups(groups: Sequence[Sequence[str]]) -> str:
    more = len(groups) - _NAMED
    shown = "; ".join(" = ".join(group[:_NAMED]) for group in groups[:_NAMED])
    return shown + (f"; and {more} more groups" if more > 0 else "")
