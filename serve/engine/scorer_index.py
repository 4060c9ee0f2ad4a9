"""A tenant's scorer in memory: `adapterdistill.evaluation.scorer.Scorer` in numpy, for few queries.

One matrix product gives the cosines, the head's scores and the answers' cosines of a tenant's rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from adapterdistill.evaluation.characters import CharacterView
from adapterdistill.evaluation.scorer import (
    BEHIND,
    Scorer,
    evidence_weights,
    ranking_weights,
)
from serve.engine.faq_index import Scored, distinct_rows

_NO_SENTENCE = -1.0
"""Score by its answer of an FAQ that has none."""


@dataclass(frozen=True, eq=False)
class ScorerIndex:
    """The views of one tenant. Immutable; compared and grouped by identity."""

    vectors: NDArray[np.float32]
    """[distinct rows, hidden], the matrix rows below without repetition."""
    columns: NDArray[np.intp]
    """[matrix rows], the distinct row of each prototype, of each row of the head if there is one,
    and of each answer sentence, in the order of the FAQs."""
    characters: CharacterView
    bias: NDArray[np.float32] | None
    """[FAQs], of the head; None: there is no head."""
    answered: NDArray[np.intp]
    """FAQs that have an answer, in order."""
    starts: NDArray[np.intp]
    """[FAQs with an answer], the first sentence of each."""
    num_sentences: int

    @classmethod
    def of(cls, scorer: Scorer) -> "ScorerIndex":
        """Arrange a scorer's tensors for `scored`."""
        parts = [scorer.prototypes] + ([scorer.head.weight] if scorer.head else [])
        faqs: NDArray[np.int64] = np.zeros(0, np.int64)
        if scorer.answers is not None:
            order = torch.argsort(scorer.answers.faqs, stable=True)
            faqs = scorer.answers.faqs[order].numpy()
            parts.append(scorer.answers.vectors[order])
        vectors, columns = distinct_rows(torch.cat(parts).numpy())
        starts = np.flatnonzero(np.diff(faqs, prepend=-1))
        scorer.characters([""])  # builds its table of n-grams now, instead of at the first query
        return cls(
            vectors=vectors,
            columns=columns,
            characters=scorer.characters,
            bias=None if scorer.head is None else scorer.head.bias.numpy(),
            answered=faqs[starts],
            starts=starts,
            num_sentences=len(faqs),
        )

    def scored(self, queries: NDArray[np.float32], texts: Sequence[str]) -> Scored:
        """Score rows as `Scorer.__call__` does: [rows, hidden] and [rows] texts."""
        products = (queries @ self.vectors.T)[:, self.columns]
        count = self.characters.num_faqs
        cosine, letters = products[:, :count], self.characters(texts).numpy()
        views = {"cosine": cosine}
        if self.bias is not None:
            views["head"] = products[:, count : 2 * count] + self.bias
        views["characters"] = letters
        if len(self.starts):
            views["answers"] = self._answers(products[:, -self.num_sentences :])
        weights = ranking_weights(views)
        parts = _weighted(np.stack([views[name] for name in weights]), [*weights.values()])
        ranking = parts.sum(0)
        behind = ranking.max(1, keepdims=True) - ranking
        evidence = np.zeros(len(queries), np.float32)
        for name, weight in evidence_weights(views).items():
            evidence += np.float32(weight) * views[name].max(1)
        scores = evidence[:, None] - np.float32(BEHIND) * behind
        return Scored(scores, views, dict(zip(weights, parts, strict=True)))

    def _answers(self, sentences: NDArray[np.float32]) -> NDArray[np.float32]:
        """Largest cosine over each FAQ's sentences: [rows, sentences] to [rows, FAQs]."""
        best = np.maximum.reduceat(sentences, self.starts, axis=1)
        found = np.full((len(best), self.characters.num_faqs), _NO_SENTENCE, np.float32)
        found[:, self.answered] = np.maximum(best, _NO_SENTENCE)
        return found


def _weighted(scores: NDArray[np.float32], weights: Sequence[float]) -> NDArray[np.float32]:
    """Standardise each view's scores for each query, and weigh them, [views, rows, FAQs].

    The same as `adapterdistill.evaluation.scorer.standardised`.
    """
    # `reduce` and `einsum`: numpy's `mean` and `std` cost more than all of this on short rows.
    count = np.float32(scores.shape[2])
    scores -= np.add.reduce(scores, axis=2, keepdims=True) / count
    spread = np.sqrt(np.einsum("vrf,vrf->vr", scores, scores) / count)
    factors = np.array(weights, np.float32)[:, None] / np.maximum(spread, np.float32(1e-6))
    scores *= factors[:, :, None]
    return scores
