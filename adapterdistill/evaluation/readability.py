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
from adapterdistill.data.repeats import same_text
from adapterdistill.distill.batches import TrainingRows
from adapterdistill.distill.labels import right_labels
from adapterdistill.errors import DataError, UnreadableTextError
from adapterdistill.manifest import UNDETERMINED

UNKNOWN_SHARE = 0.5
"""A text is unread if this share of its tokens, or more, is unknown to the encoder."""
MOST_UNREAD = 0.1
"""A tenant with a larger share of unread FAQs is refused."""
_SAME = 1e-5
"""Cosine distance of vectors that count as equal: float32 rounds at about 1e-7 a product."""
_VECTORS = 1000
"""Most questions that are embedded to compare their vectors."""
_LETTERS_PER_TOKEN = 1.2
_SPELLED = ("\u0250", "\u2e80")
"""Letters from here to there are of alphabets other than Latin, not of syllables or words."""
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
    """Whether the questions are in an alphabet of which it knows little but the letters."""

    @property
    def num_alike(self) -> int:
        """Number of FAQs that cannot be told apart."""
        return sum(map(len, self.alike + self.cut_alike))

    def require(self) -> None:
        """Refuse a tenant that could not be served.

        Raises:
            UnreadableTextError: the encoder cannot read over `MOST_UNREAD` of the FAQs.
            DataError: no FAQ can be told apart from every other.
        """
        if len(self.unread) > MOST_UNREAD * self.faqs:
            raise UnreadableTextError(self._about_unread())
        if self.num_alike == self.faqs:
            raise DataError("; ".join(self._about_alike()))

    def warnings(self, language: str = UNDETERMINED) -> list[str]:
        """List what the owner should look at, one sentence each. `language` is a BCP 47 tag."""
        found = [*([self._about_unread()] if self.unread else []), *self._about_alike()]
        if self.without_letters:
            found.append(
                f"{_count(self.without_letters)} without a letter in the question "
                f"({_ids(self.without_letters)}): few texts will match, unless they have queries"
            )
        spoken, known = language.partition("-")[0], languages_of(self.encoder)
        if self.unread:
            return found
        if spoken != UNDETERMINED and known is not None and spoken not in known:
            found.append(
                f"encoder {self.encoder} was not trained on {language}: {self._remedy(spoken)}"
            )
        elif self.letter_by_letter:
            found.append(
                f"encoder {self.encoder} reads the questions letter by letter, as it does a "
                f"language that it was not trained on: {self._remedy()}"
            )
        return found

    def _about_unread(self) -> str:
        return (
            f"encoder {self.encoder} cannot read {len(self.unread)} of {self.faqs} FAQs "
            f"({_ids(self.unread)}), whose tokens are mostly unknown to it: {self._remedy()}"
        )

    def _remedy(self, language: str | None = None) -> str:
        better = reader_of(self.encoder)
        if better is None or (language is not None and language not in better.languages):
            return "set encoder.name to an encoder that was trained on their language"
        return (
            f'set encoder.name = "{better.name}", which reads {len(better.languages)} languages '
            f"({better.install})"
        )

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
    special = {*encoder.tokenize([""], "passage")[0], *encoder.tokenize([""])[0]}
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
    own_queries = {label for labels in right[len(faqs) :] for label in labels}
    groups = defaultdict(list)
    for i in sorted(read - told):
        groups[tuple(questions[i])].append(i)
    cut = {
        ids
        for ids, group in groups.items()
        if len(ids) >= encoder.max_tokens and len({faqs[i].question for i in group}) > 1
    }
    alone = sorted((read & told) - own_queries)
    equal = [group for ids, group in groups.items() if ids not in cut and len(group) > 1]
    equal += _equal_questions(encoder, [(i, faqs[i].question, questions[i]) for i in alone])

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


def _equal_questions(
    encoder: Encoder, questions: Sequence[tuple[int, str, Sequence[int]]]
) -> list[list[int]]:
    """Group FAQs (label, question, tokens) with one text but for case, or with equal vectors."""
    by_text: dict[str, list[int]] = defaultdict(list)
    for label, text, _ in questions:
        by_text[same_text(text)].append(label)
    found = [group for group in by_text.values() if len(group) > 1]
    grouped = {label for group in found for label in group}
    left = [one for one in questions if one[0] not in grouped][:_VECTORS]
    if not left:
        return found
    vectors = encoder.embed_ids([ids for _, _, ids in left])
    near = (vectors @ vectors.T > 1 - _SAME).cpu().numpy()
    by_first: dict[int, list[int]] = defaultdict(list)
    for row, first in enumerate(near.argmax(axis=1).tolist()):  # numpy's is the first of equals
        by_first[first].append(left[row][0])
    return found + [group for group in by_first.values() if len(group) > 1]


def _letter_by_letter(texts: Sequence[str], tokens: int) -> bool:
    """Say whether the texts are not in Latin letters, and have about a token a letter."""
    letters = [one for text in texts for one in unicodedata.normalize("NFD", text) if one.isalpha()]
    beyond = sum(_SPELLED[0] <= letter < _SPELLED[1] for letter in letters)
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
