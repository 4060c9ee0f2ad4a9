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

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

NGRAMS = (2, 3, 4)
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
    def _table(
        self,
    ) -> tuple[Callable[[str], tuple[int, ...]], np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """A word's known n-grams, and the arrays."""
        column = {gram: i for i, gram in enumerate(self.grams)}

        def places(word: str) -> tuple[int, ...]:
            return tuple(column[gram] for gram in _of_word(word) if gram in column)

        # A tenant's users repeat their words, and cutting these up costs the most. The cache is the
        # tenant's own, and goes with it.
        cached = lru_cache(_CACHED_WORDS)(places)

        def of(word: str) -> tuple[int, ...]:
            return cached(word) if len(word) <= _LONGEST_CACHED else places(word)

        arrays = (part.numpy() for part in (self.idf, self.starts, self.faqs, self.weights))
        return (of, *arrays)  # type: ignore[return-value]

    def __call__(self, texts: Sequence[str]) -> Float[Tensor, "texts faqs"]:
        """Cosine of each text with each FAQ's centroid; zero where no n-gram is known."""
        of_word, idf, starts, faqs, weights = self._table
        scores = np.zeros((len(texts), self.num_faqs), dtype=np.float32)
        for row, text in enumerate(texts):
            places, values = _unit(chain.from_iterable(map(of_word, text.lower().split())), idf)
            first = starts[places]
            counts = starts[places + 1] - first
            entries = np.repeat(first - (counts.cumsum() - counts), counts)
            entries += np.arange(len(entries))
            shares = weights[entries] * np.repeat(values, counts)
            scores[row] = np.bincount(faqs[entries], weights=shares, minlength=self.num_faqs)
        return torch.from_numpy(scores)


def _unit(found: Iterable[int], idf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different n-grams of a text, and their (1 + ln count) * idf at unit length."""
    counted = Counter(found)
    if not counted:
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    places = np.fromiter(counted, np.int64, len(counted))
    times = np.fromiter(counted.values(), np.float64, len(counted))
    values = (1 + np.log(times)) * idf[places]
    return places, values / math.sqrt(values @ values)
