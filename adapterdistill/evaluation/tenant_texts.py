"""A tenant's private rows as texts: what an arrival begins with."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from adapterdistill.backbone import Encoder
from adapterdistill.data import TenantDataset
from adapterdistill.data.splits import row_key
from adapterdistill.distill.labels import first_labels, labels_of
from adapterdistill.distill.rows import HeldOutRule, TenantRows

MOST_UNLABELLED = 1000
"""Unlabelled queries that prototypes are refined with, evenly spread over all."""
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
    right: Tensor | None = None
    """Labels of the queries with every right FAQ (`distill.labels`); None: `faqs` are all."""

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

    def row_ids(self, encoder: Encoder) -> list[list[int]]:
        """The token ids of `rows()`: questions are read as passages, queries as queries."""
        texts, _ = self.rows()
        questions = len(texts) - len(self.queries)
        ids = encoder.tokenize(texts[:questions], "passage")
        return ids + encoder.tokenize(texts[questions:])

    def right_of(self, places: Int[Tensor, " held"]) -> Tensor:
        """Labels, with every right FAQ, of queries at these places of `rows()`."""
        labels = self.faqs if self.right is None else self.right
        return labels[places - (len(self.rows()[0]) - len(self.queries))]

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
    return keep_a_row(folds, labels)


def keep_a_row(folds: Int[Tensor, " rows"], labels: Tensor) -> Int[Tensor, " rows"]:
    """The folds, except that an FAQ whose rows would all be held out at once keeps them all."""
    folds = folds.clone()
    for faq in labels.unique():
        of_faq = folds[labels == faq]
        if int(of_faq[0]) >= 0 and bool((of_faq == of_faq[0]).all()):
            folds[labels == faq] = -1
    return folds


def read_texts(
    dataset: TenantDataset, rows: TenantRows, *, seed: int, held_out_fraction: float
) -> tuple[TenantTexts, Int[Tensor, " rows"]]:
    """Read a tenant's texts, and the fold that holds each of `TenantTexts.rows()` out.

    The folds are those that trained the adapters: the cross-validation's, or one fold of the rows
    that no adapter was trained on. -1 stands for rows that are never held out.

    Args:
        rows: the same rows as token ids (`tokenise`), read with the same seed and fraction.
    """
    faqs = dataset.faqs()
    position = {faq.faq_id: place for place, faq in enumerate(faqs)}
    held = HeldOutRule.of(dataset, seed=seed, fraction=held_out_fraction)
    train = [query for query in dataset.queries("train") if held.trains(query)]
    out = [*filter(held, dataset.queries("train")), *dataset.queries("valid")]
    judges = [query for query in out if not query.out_of_scope]
    queries = train + judges
    right = labels_of([[position[faq] for faq in query.faq_ids] for query in queries])
    unlabelled = [query.text for query in dataset.queries("unlabelled")]
    tenant = TenantTexts(
        questions=tuple(faq.question for faq in faqs),
        queries=tuple(query.text for query in queries),
        faqs=first_labels(right),
        unlabelled=tuple(unlabelled[:: math.ceil(len(unlabelled) / MOST_UNLABELLED) or 1]),
        out_of_scope=tuple(query.text for query in out if query.out_of_scope),
        answers=tuple(faq.answer for faq in faqs) if any(faq.answer for faq in faqs) else (),
        right=right,
    )
    of_train = rows.folds if rows.folds is not None else torch.full((len(train),), -1)
    of_judges = torch.zeros(len(judges), dtype=torch.int64)
    texts, labels = tenant.rows()
    questions = torch.full((len(texts) - len(queries),), -1)
    return tenant, keep_a_row(torch.cat([questions, of_train, of_judges]), labels)
