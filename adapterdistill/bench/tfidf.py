"""TF-IDF in a few lines: the classical baseline, with smoothed idf and unit-length vectors."""

import math
import re
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

_WORD = re.compile(r"\w\w+")


def words(text: str) -> list[str]:
    """Lower-case words of two characters or more."""
    return _WORD.findall(text.lower())


class TfIdf:
    """Term weights learnt from a tenant's index texts; unknown words count nothing."""

    def __init__(self, texts: Sequence[str]) -> None:
        documents = Counter(word for text in texts for word in set(words(text)))
        self._column = {word: i for i, word in enumerate(sorted(documents))}
        # ln((1 + n) / (1 + df)) + 1, the usual smoothing: no word has weight zero.
        self._idf = {w: math.log((1 + len(texts)) / (1 + df)) + 1 for w, df in documents.items()}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Unit-length vectors, [texts, vocabulary] float32; zero where no word is known."""
        vectors = torch.zeros(len(texts), max(1, len(self._column)))
        for row, text in enumerate(texts):
            for word, count in Counter(words(text)).items():
                if word in self._column:
                    vectors[row, self._column[word]] = count * self._idf[word]
        return torch.nn.functional.normalize(vectors, dim=-1)
