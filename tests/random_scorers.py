"""Scorers of random tenants for tests and timings."""

import random

import torch
from torch.nn.functional import normalize

from adapterdistill.evaluation.scorer import AnswerSentences, Scorer, Texts, fit_scorer

_WORDS = (
    *(
        "where",
        "when",
        "how",
        "can",
        "I",
        "do",
        "you",
        "my",
        "the",
        "a",
        "parcel",
        "card",
        "refund",
    ),
    *("opening", "hours", "counter", "pay", "order", "invoice", "password", "delivery", "address"),
    *("return", "gift", "shop", "account", "change", "cancel", "size", "colour"),
)


def random_texts(count: int, *, seed: int, words: int = 9) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(_WORDS, k=words)) for _ in range(count)]


def random_scorer(
    num_faqs: int, hidden: int, *, seed: int, queries: int = 3, sentences: int = 2
) -> Scorer:
    """A scorer of random rows; FAQ n has `sentences` answer sentences unless n % 3 is 2.

    queries: labelled queries an FAQ; without any there is no head.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(rows: int) -> torch.Tensor:
        return normalize(torch.randn(rows, hidden, generator=generator), dim=1)

    labels = torch.arange(num_faqs * (queries + 1)) % num_faqs
    answered = torch.arange(num_faqs * sentences) % num_faqs
    answered = answered[answered % 3 != 2]
    none = torch.zeros(0, hidden)
    return fit_scorer(
        Texts(draw(len(labels)), labels, tuple(random_texts(len(labels), seed=seed))),
        num_faqs,
        unlabelled=none,
        negatives=none,
        answers=AnswerSentences(draw(len(answered)), answered) if len(answered) else None,
    )
