import math
from collections import Counter

import pytest
import torch

from adapterdistill.evaluation.characters import CharacterView, ngrams

TEXTS = ["Pay my bill", "bill payment", "open hours?", "hours"]
LABELS = [0, 0, 1, 1]


def test_ngrams_stay_inside_padded_words() -> None:
    assert ngrams("Ab") == [" a", "ab", "b ", " ab", "ab ", " ab "]
    assert ngrams("a") == [" a", "a ", " a "]
    assert not ngrams("  ")


def test_scores_equal_cosines_with_dense_vectors() -> None:
    grams = sorted({gram for text in TEXTS for gram in ngrams(text)})
    documents = [set(ngrams(text)) for text in TEXTS]
    idf = {g: math.log(5 / (1 + sum(g in d for d in documents))) + 1 for g in grams}

    def dense(text: str) -> torch.Tensor:
        counts = Counter(ngrams(text))
        vector = torch.tensor(
            [(1 + math.log(counts[g])) * idf[g] if counts[g] else 0.0 for g in grams],
            dtype=torch.float64,
        )
        return vector / vector.norm().clamp(min=1e-12)

    rows = torch.stack([dense(text) for text in TEXTS])
    centroids = torch.stack([rows[:2].mean(0), rows[2:].mean(0)])
    centroids = centroids / centroids.norm(dim=1, keepdim=True)
    queries = ["how do I pay", "bills bills bills", "what hours"]
    expected = torch.stack([dense(query) for query in queries]) @ centroids.T
    found = CharacterView.fit(TEXTS, LABELS, 2)(queries)
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-5)


def test_a_text_of_unknown_letters_scores_zero() -> None:
    view = CharacterView.fit(TEXTS, LABELS, 3)
    assert torch.equal(view(["qqq", ""]), torch.zeros(2, 3))


def test_view_refuses_texts_without_labels() -> None:
    with pytest.raises(ValueError, match="need texts with a label each"):
        CharacterView.fit(TEXTS, LABELS[:2], 2)
