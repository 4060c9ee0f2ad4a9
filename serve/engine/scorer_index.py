"""A tenant's scorer in memory: `adapterdistill.evaluation.scorer.Scorer` in numpy, for few queries.

One matrix product gives the cosines, the head's scores and the answers' cosines of a tenant's rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from adapterdistill.evaluation.characters import CharacterView
from adapterdistill.evaluation.scorer import Scorer, evidence_weights, ranking_weights
from adapterdistill.serve.engine.faq_index import VIEWS, distinct_rows

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
        """Arrange a scorer's tensors for `write_views`."""
        parts = [scorer.prototypes] + ([scorer.head.weight] if scorer.head else [])
        faqs: NDArray[np.int64] = np.zeros(0, np.int64)
        if scorer.answers is not None:
            order = torch.argsort(scorer.answers.faqs, stable=True)
            faqs = scorer.answers.faqs[order].numpy()
            parts.append(scorer.answers.vectors[order])
        vectors, columns = distinct_rows(torch.cat(parts).numpy())
        starts = np.flatnonzero(np.diff(faqs, prepend=-1))
        assert scorer.characters.table  # built now, instead of at the first query
        return cls(
            vectors=vectors,
            columns=columns,
            characters=scorer.characters,
            bias=None if scorer.head is None else scorer.head.bias.numpy(),
            answered=faqs[starts],
            starts=starts,
            num_sentences=len(faqs),
        )

    @property
    def num_faqs(self) -> int:
        return self.characters.num_faqs

    @cached_property
    def weights(self) -> Mapping[str, tuple[float, float]]:
        """Each view's weight in the ranking and in the evidence."""
        has = {"head": self.bias is not None, "answers": bool(self.num_sentences)}
        names = [name for name in VIEWS if has.get(name, True)]
        ranking, evidence = ranking_weights(names), evidence_weights(names)
        return {name: (ranking[name], evidence.get(name, 0.0)) for name in names}

    def write_views(self, views: NDArray[np.float32], queries: NDArray[np.float32]) -> None:
        """Score rows by each view but the characters, as `Scorer.__call__` does."""
        cosine, head, _, answers = views
        products = (queries @ self.vectors.T)[:, self.columns]
        count = self.num_faqs
        cosine[:] = products[:, :count]
        if self.bias is not None:
            np.add(products[:, count : 2 * count], self.bias, out=head)
        if self.num_sentences:
            best = np.maximum.reduceat(products[:, -self.num_sentences :], self.starts, axis=1)
            answers[:] = _NO_SENTENCE
            answers[:, self.answered] = np.maximum(best, _NO_SENTENCE)
