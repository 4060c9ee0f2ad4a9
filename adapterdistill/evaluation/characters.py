"""A view of a query's letters: TF-IDF of character n-grams, for words that the encoder splits.

The features of scikit-learn's `TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4),
sublinear_tf=True)`.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

NGRAMS = (2, 3, 4)
_SPACES = re.compile(r"\s\s+")


def ngrams(text: str) -> Counter[str]:
    """Counts of the n-grams inside each word, which is padded with a space on both sides."""
    counts: Counter[str] = Counter()
    for word in _SPACES.sub(" ", text.lower()).split():
        padded = f" {word} "
        for n in NGRAMS:
            counts.update(padded[i : i + n] for i in range(max(1, len(padded) - n + 1)))
            if len(padded) <= n:
                break
    return counts


@dataclass(frozen=True)
class CharacterView:
    """Unit-length TF-IDF centroids of the FAQs, as a sparse table by n-gram."""

    idf: Mapping[str, float]
    postings: Mapping[str, tuple[Tensor, Tensor]]
    """N-gram to the FAQs that hold it, [n] int64, and its weight in each, [n] float32."""
    num_faqs: int

    @classmethod
    def fit(cls, texts: Sequence[str], labels: Sequence[int], num_faqs: int) -> "CharacterView":
        """Each FAQ's centroid of its texts' unit-length vectors.

        Raises:
            ValueError: there is no text, or as many labels as texts are not given.
        """
        if not texts or len(texts) != len(labels):
            raise ValueError(f"need texts with a label each, got {len(texts)} and {len(labels)}")
        counted = [ngrams(text) for text in texts]
        documents = Counter(gram for counts in counted for gram in counts)
        idf = {g: math.log((1 + len(texts)) / (1 + df)) + 1 for g, df in documents.items()}
        sums: list[Counter[str]] = [Counter() for _ in range(num_faqs)]
        for counts, label in zip(counted, labels, strict=True):
            for gram, value in _unit(counts, idf).items():
                sums[label][gram] += value  # type: ignore[assignment]
        postings: dict[str, list[tuple[int, float]]] = {}
        for faq, total in enumerate(sums):
            length = math.sqrt(sum(value * value for value in total.values())) or 1.0
            for gram, value in total.items():
                postings.setdefault(gram, []).append((faq, value / length))
        table = {
            gram: (torch.tensor([f for f, _ in found]), torch.tensor([v for _, v in found]))
            for gram, found in postings.items()
        }
        return cls(idf, table, num_faqs)

    def __call__(self, texts: Sequence[str]) -> Float[Tensor, "texts faqs"]:
        """Cosine of each text with each FAQ's centroid; zero where no n-gram is known."""
        scores = torch.zeros(len(texts), self.num_faqs)
        for row, text in enumerate(texts):
            for gram, value in _unit(ngrams(text), self.idf).items():
                faqs, weights = self.postings[gram]
                scores[row].index_add_(0, faqs, weights * value)
        return scores


def _unit(counts: Mapping[str, int], idf: Mapping[str, float]) -> dict[str, float]:
    """Known n-grams' (1 + ln count) * idf, at unit length."""
    values = {g: (1 + math.log(n)) * idf[g] for g, n in counts.items() if g in idf}
    length = math.sqrt(sum(value * value for value in values.values())) or 1.0
    return {gram: value / length for gram, value in values.items()}
