"""A tenant's private rows as texts: what an arrival begins with."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from adapterdistill.data.splits import row_key

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


@dataclass(frozen=True)
class TenantTexts:
    """What a tenant arrives with."""

    questions: tuple[str, ...]
    queries: tuple[str, ...]
    faqs: Int[Tensor, " queries"]
    """The FAQ that answers each query, its place among `questions`."""
    unlabelled: tuple[str, ...] = ()
    out_of_scope: tuple[str, ...] = ()
    """Examples of what no FAQ answers."""
    answers: tuple[str | None, ...] = ()
    """Each FAQ's answer; empty where there is none at all."""

    def __post_init__(self) -> None:
        if len(self.queries) != len(self.faqs):
            raise ValueError(f"{len(self.queries)} queries but {len(self.faqs)} FAQs of them")
        if len(self.faqs) and not 0 <= int(self.faqs.min()) <= int(self.faqs.max()) < self.num_faqs:
            raise ValueError(f"a query's FAQ must be from 0 to {self.num_faqs - 1}")
        if self.answers and len(self.answers) != self.num_faqs:
            raise ValueError(f"{len(self.answers)} answers of {self.num_faqs} FAQs")

    @property
    def num_faqs(self) -> int:
        return len(self.questions)

    def rows(self) -> tuple[tuple[str, ...], Tensor]:
        """The labelled texts and their FAQs: questions first, then queries.

        A question that says nothing, such as a number, is left out where its FAQ has a query.
        """
        answered = set(self.faqs.tolist())
        kept = [
            faq
            for faq, question in enumerate(self.questions)
            if faq not in answered or says_something(question)
        ]
        texts = (*(self.questions[faq] for faq in kept), *self.queries)
        return texts, torch.cat([torch.tensor(kept, dtype=torch.int64), self.faqs])

    def sentences(self) -> tuple[tuple[str, ...], Tensor]:
        """The answers' sentences and their FAQs."""
        found = [
            (sentence, faq)
            for faq, answer in enumerate(self.answers)
            for sentence in _SENTENCE_END.split(answer or "")
            if says_something(sentence)
        ]
        return tuple(s for s, _ in found), torch.tensor([f for _, f in found], dtype=torch.int64)


def says_something(question: str) -> bool:
    """Whether the text has two letters: a number or a dash is no question."""
    return sum(character.isalpha() for character in question) >= 2


def deal_folds(
    texts: Sequence[str], labels: Tensor, questions: Sequence[str], num_folds: int, *, seed: int
) -> Int[Tensor, " rows"]:
    """Each row's fold, dealt in turn within an FAQ and on into the next; -1 for questions.

    Equal texts share a fold, and a query that is a question to the letter is never held out:
    another row would give its answer away. Nor are an FAQ's rows that are all of it.
    """
    fold_of_text = dict.fromkeys(map(str.casefold, questions), -1)
    rows = sorted(
        range(len(texts)), key=lambda row: (int(labels[row]), row_key(texts[row], seed=seed))
    )
    turn = 0
    for row in rows:
        text = texts[row].casefold()
        if text not in fold_of_text:
            fold_of_text[text] = turn % num_folds
            turn += 1
    folds = torch.tensor([fold_of_text[text.casefold()] for text in texts], dtype=torch.int64)
    for faq in labels.unique():
        of_faq = folds[labels == faq]
        if int(of_faq[0]) >= 0 and bool((of_faq == of_faq[0]).all()):
            folds[labels == faq] = -1
    return folds
