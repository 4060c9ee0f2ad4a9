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
    ANSWERS_IN_EVIDENCE,
    ANSWERS_IN_RANKING,
    BEHIND,
    CHARACTERS_BESIDE_QUESTIONS,
    CHARACTERS_IN_EVIDENCE,
    CHARACTERS_IN_RANKING,
    Scorer,
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
        )

    def scored(self, queries: NDArray[np.float32], texts: Sequence[str]) -> Scored:
        """Score rows as `Scorer.__call__` does: [rows, hidden] and [rows] texts."""
        products = (queries @ self.vectors.T)[:, self.columns]
        count = self.characters.num_faqs
        cosine = products[:, :count]
        letters = self.characters(texts).numpy()
        views = {"cosine": cosine}
        if self.bias is None:
            ranking = _scaled(cosine, 1.0) + _scaled(letters, CHARACTERS_BESIDE_QUESTIONS)
            sentences = products[:, count:]
        else:
            views["head"] = head = products[:, count : 2 * count] + self.bias
            ranking = _scaled(head, 1.0) + _scaled(letters, CHARACTERS_IN_RANKING)
            sentences = products[:, 2 * count :]
        views["characters"] = letters
        evidence = cosine.max(1) + CHARACTERS_IN_EVIDENCE * letters.max(1)
        total = 1.0 + CHARACTERS_IN_EVIDENCE
        if len(self.starts):
            views["answers"] = answers = self._answers(sentences)
            ranking += _scaled(answers, ANSWERS_IN_RANKING)
            evidence += ANSWERS_IN_EVIDENCE * answers.max(1)
            total += ANSWERS_IN_EVIDENCE
        ranking -= ranking.max(1, keepdims=True)
        ranking *= BEHIND
        ranking += (evidence / total)[:, None]
        return Scored(ranking, views)

    def _answers(self, sentences: NDArray[np.float32]) -> NDArray[np.float32]:
        """Largest cosine over each FAQ's sentences: [rows, sentences] to [rows, FAQs]."""
        best = np.maximum.reduceat(sentences, self.starts, axis=1)
        found = np.full((len(best), self.characters.num_faqs), _NO_SENTENCE, np.float32)
        found[:, self.answered] = np.maximum(best, _NO_SENTENCE)
        return found


def _scaled(scores: NDArray[np.float32], weight: float) -> NDArray[np.float32]:
    """`weight` times the standardised scores (`adapterdistill.evaluation.scorer.standardised`)."""
    # `reduce` and `einsum`: numpy's `mean` and `std` cost more than all of this on short rows.
    count = scores.shape[1]
    mean = np.add.reduce(scores, axis=1, keepdims=True) / np.float32(count)
    centred: NDArray[np.float32] = scores - mean
    spread = np.sqrt(np.einsum("ij,ij->i", centred, centred) / np.float32(count))
    centred *= (np.float32(weight) / np.maximum(spread, np.float32(1e-6)))[:, None]
    return centred
