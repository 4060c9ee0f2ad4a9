"""A view of a query's letters: TF-IDF of character n-grams, for words that the encoder splits.

The features of scikit-learn's `TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4),
sublinear_tf=True)`, and each FAQ's unit-length centroid of them as a sparse table by n-gram.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

NGRAMS = (2, 3, 4)
_MOST_GRAMS = 2**32
_CACHED_WORDS = 256
_LONGEST_CACHED = 20
"""Characters. Both bound a tenant's cache to about 100 kB."""


def ngrams(text: str) -> list[str]:
    """The n-grams inside each word, which is padded with a space on both sides."""
    return [gram for word in text.lower().split() for gram in _of_word(word)]


def _of_word(word: str) -> list[str]:
    padded = f" {word} "
    found: list[str] = []
    for n in NGRAMS:
        found += [padded[i : i + n] for i in range(max(1, len(padded) - n + 1))]
        if len(padded) <= n:
            break
    return found


@dataclass(frozen=True)
class CharacterView:
    """The FAQs' centroids; N-gram g is held by `faqs[starts[g] : starts[g + 1]]`."""

    grams: tuple[str, ...]
    idf: Float[Tensor, " grams"]
    starts: Int[Tensor, " ends"]
    """[grams + 1]"""
    faqs: Int[Tensor, " entries"]
    weights: Float[Tensor, " entries"]
    """N-gram's weight in the FAQ's centroid."""
    num_faqs: int

    @classmethod
    def fit(cls, texts: Sequence[str], labels: Sequence[int], num_faqs: int) -> "CharacterView":
        """Each FAQ's centroid of its texts' unit-length vectors.

        Raises:
            ValueError: there is no text, or not a label for each.
        """
        if not texts or len(texts) != len(labels):
            raise ValueError(f"need texts with a label each, got {len(texts)} and {len(labels)}")
        counted = [ngrams(text) for text in texts]
        documents = Counter(gram for found in counted for gram in set(found))
        grams = tuple(sorted(documents))
        column = {gram: i for i, gram in enumerate(grams)}
        idf = np.array([math.log((1 + len(texts)) / (1 + documents[g])) + 1 for g in grams])
        sums: dict[tuple[int, int], float] = {}
        for found, label in zip(counted, labels, strict=True):
            places, values = _unit(map(column.__getitem__, found), idf)
            for place, value in zip(places.tolist(), values.tolist(), strict=True):
                sums[place, label] = sums.get((place, label), 0.0) + value
        entries = sorted(sums)
        places, faqs = np.array(entries, dtype=np.int64).reshape(-1, 2).T
        weights = np.array([sums[entry] for entry in entries])
        lengths = np.sqrt(np.bincount(faqs, weights=weights**2, minlength=num_faqs))
        starts = np.concatenate([[0], np.bincount(places, minlength=len(grams)).cumsum()])
        return cls(
            grams,
            torch.from_numpy(idf).float(),
            torch.from_numpy(starts.astype(np.int64)),
            torch.from_numpy(faqs.copy()),
            torch.from_numpy(weights / lengths[faqs]).float(),
            num_faqs,
        )

    @cached_property
    def table(self) -> "Table":
        """The numbers as arrays, built at the first use."""
        parts = (self.idf, self.starts[:-1], self.starts.diff(), self.faqs, self.weights)
        return Table(_places_of_words(self.grams), *(part.numpy() for part in parts))

    def __call__(self, texts: Sequence[str]) -> Float[Tensor, "texts faqs"]:
        """Cosine of each text with each FAQ's centroid; zero where no n-gram is known."""
        scores = score_rows([self] * len(texts), texts)
        return torch.from_numpy(scores).reshape(len(texts), self.num_faqs)


class Table(NamedTuple):
    """The numbers of a `CharacterView`, for `score_rows`."""

    places_of: Callable[[str], tuple[int, ...]]
    """A word's known n-grams."""
    idf: NDArray[np.float32]
    firsts: NDArray[np.int64]
    """[grams], the first entry of each."""
    counts: NDArray[np.int64]
    """[grams], the number of its entries."""
    faqs: NDArray[np.int64]
    """[entries]"""
    weights: NDArray[np.float32]
    """[entries]"""


def _places_of_words(grams: Sequence[str]) -> Callable[[str], tuple[int, ...]]:
    column = {gram: i for i, gram in enumerate(grams)}

    def places(word: str) -> tuple[int, ...]:
        return tuple(column[gram] for gram in _of_word(word) if gram in column)

    # A tenant's users repeat their words, and cutting these up costs the most. The cache is the
    # tenant's own, and goes with it.
    cached = lru_cache(_CACHED_WORDS)(places)
    return lambda word: cached(word) if len(word) <= _LONGEST_CACHED else places(word)


def score_rows(views: Sequence[CharacterView], texts: Sequence[str]) -> NDArray[np.float32]:
    """Cosine of each text with each FAQ of its own view, for a batch of tenants.

    A row's own share of the work is small, so what rows have in common is done once for all.

    Args:
        views: [rows], each row's.
        texts: [rows].

    Returns:
        [FAQs of all rows], one row after the other.
    """
    if not views:
        return np.zeros(0, np.float32)
    tables, rows = [view.table for view in views], np.arange(len(views))
    found = [
        list(chain.from_iterable(map(table.places_of, text.lower().split())))
        for table, text in zip(tables, texts, strict=True)
    ]
    keys = np.repeat(rows * _MOST_GRAMS, [*map(len, found)])
    keys += np.fromiter(chain.from_iterable(found), np.int64, len(keys))
    keys, times = np.unique(keys, return_counts=True)
    row_of = keys // _MOST_GRAMS
    grams = np.split(keys % _MOST_GRAMS, np.searchsorted(row_of, rows[1:]))
    of_grams = [
        (table.idf.take(own), table.firsts.take(own), table.counts.take(own))
        for table, own in zip(tables, grams, strict=True)
    ]
    idf, firsts, counts = map(np.concatenate, zip(*of_grams, strict=True))
    values = (1 + np.log(times)) * idf
    values /= np.sqrt(np.bincount(row_of, values * values, len(rows)))[row_of]

    ends = counts.cumsum()
    entries = np.repeat(firsts - (ends - counts), counts) + np.arange(counts.sum())
    row_of = np.repeat(row_of, counts)
    own_entries = np.split(entries, np.searchsorted(row_of, rows[1:]))
    of_entries = [
        (table.faqs.take(own), table.weights.take(own))
        for table, own in zip(tables, own_entries, strict=True)
    ]
    faqs, weights = map(np.concatenate, zip(*of_entries, strict=True))
    sizes = np.array([view.num_faqs for view in views])
    places = faqs + (sizes.cumsum() - sizes)[row_of]
    scores = np.bincount(places, weights * np.repeat(values, counts), sizes.sum())
    return scores.astype(np.float32)


def _unit(found: Iterable[int], idf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different n-grams of a text, and their (1 + ln count) * idf at unit length."""
    counted = Counter(found)
    if not counted:
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    places = np.fromiter(counted, np.int64, len(counted))
    times = np.fromiter(counted.values(), np.float64, len(counted))
    values = (1 + np.log(times)) * idf[places]
    return places, values / math.sqrt(values @ values)
