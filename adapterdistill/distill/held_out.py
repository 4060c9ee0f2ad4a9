"""Held-out rows, which bound the steps and compare adapters."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from adapterdistill.backbone import Embedder, Encoder
from adapterdistill.distill.batches import TrainingRows
from adapterdistill.distill.labels import first_labels, joined, pairs

TEMPERATURES = (0.01, 0.02, 0.05, 0.1)


@dataclass(frozen=True)
class HeldOutRows:
    """Labelled queries that no training saw, ranked against an index of rows that it may see."""

    encoder: Encoder
    index: TrainingRows
    queries: TrainingRows
    num_faqs: int

    def __post_init__(self) -> None:
        labels = joined([self.index.labels, self.queries.labels])
        if bool((first_labels(labels) < 0).any() or (labels >= self.num_faqs).any()):
            raise ValueError(f"held-out labels must be from 0 to {self.num_faqs - 1}")

    def __call__(self, delta: Embedder) -> float:
        """Minus the calibrated cross-entropy of the gold FAQ among centroids."""
        queries = self.encoder.embed_ids(self.queries.ids, delta)
        return -cross_entropy(queries @ self.centroids(delta).T, self.queries.labels)

    def centroids(self, delta: Embedder) -> Tensor:
        """[faqs, hidden] unit-length means of each FAQ's index vectors."""
        vectors = self.encoder.embed_ids(self.index.ids, delta)
        return centroids(vectors, self.index.labels, self.num_faqs)


def centroids(vectors: Tensor, labels: Tensor, num_faqs: int) -> Tensor:
    """Unit-length mean of each FAQ's vectors, [faqs, hidden]; FAQs without one get zeros.

    A vector of several FAQs counts for each of them.
    """
    row, faq = pairs(labels.to(vectors.device))
    sums = torch.zeros(num_faqs, vectors.shape[1], device=vectors.device)
    return F.normalize(sums.index_add(0, faq, vectors.float()[row]), dim=-1)


def cross_entropy(scores: Tensor, gold: Tensor) -> float:
    """Cross-entropy of the gold FAQ, smoother than top-1, at the best of `TEMPERATURES`.

    Training first narrows the range of the cosines and widens it later; at one fixed temperature
    that alone would move the score, and training would be stopped before it has begun.

    Args:
        scores: [queries, faqs] cosines.
        gold: [queries] int64, or [queries, right]: then it is the entropy of any right FAQ.
    """
    labels = gold.to(scores.device)
    return min(float(_cross_entropy(scores.float() / t, labels)) for t in TEMPERATURES)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    if labels.ndim == 1:
        return F.cross_entropy(logits, labels)
    of_right = logits.log_softmax(-1).gather(1, labels.clamp(min=0))
    return -of_right.masked_fill(labels < 0, -torch.inf).logsumexp(-1).mean()
