"""Judges how an adapter ranks a tenant's FAQs, and sets the threshold of abstention."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adapterdistill.backbone import Embedder, Encoder
from adapterdistill.distill.batches import TrainingRows
from adapterdistill.distill.held_out import centroids, cross_entropy
from adapterdistill.distill.rows import TenantRows, in_scope, join, out_of_scope
from adapterdistill.evaluation.metrics import (
    faq_scores,
    gold_ranks,
    mean_reciprocal_rank,
    recall_at,
    top1,
)
from adapterdistill.manifest import Metric
from adapterdistill.store.bundle import NEVER_ABSTAIN

FALSE_REJECTION = 0.05
"""Share of answerable held-out queries that abstention may turn away."""


@dataclass(frozen=True)
class Ranking:
    """Per-row results on labelled queries, and best scores of out-of-scope ones."""

    ranks: Tensor
    """[queries] int64, 1-based rank of the gold FAQ."""
    best: Tensor
    """[queries] float32, score of the first FAQ."""
    best_out_of_scope: Tensor
    """[out-of-scope queries] float32."""
    score: float | None = None
    """Minus the calibrated cross-entropy of the gold FAQ; None without labelled queries."""
    times_out_of_scope: int = 1
    """Number of times that each out-of-scope query is ranked: once a fold, fold after fold."""

    def metrics(self) -> dict[str, Metric]:
        """top1, mrr and recall_at_5 with their counts; empty without labelled queries."""
        count = len(self.ranks)
        if not count:
            return {}
        values = {
            "top1": top1(self.ranks),
            "mrr": mean_reciprocal_rank(self.ranks),
            "recall_at_5": recall_at(self.ranks, 5),
        }
        return {name: Metric(value=round(v, 6), count=count) for name, v in values.items()}


@torch.no_grad()
def build_index(
    encoder: Encoder, delta: Embedder | None, rows: TrainingRows, num_faqs: int
) -> tuple[Tensor, Tensor]:
    """One unit-length vector an FAQ, the centroid of its rows: ([faqs, d], [faqs])."""
    vectors = encoder.embed_ids(rows.ids, delta)
    return centroids(vectors, rows.labels, num_faqs).cpu(), torch.arange(num_faqs)


@torch.no_grad()
def rank_queries(
    encoder: Encoder, delta: Embedder | None, index: tuple[Tensor, Tensor], queries: TrainingRows
) -> Ranking:
    """Rank `queries` (labels -1 are out of scope) against an index built with the same adapter."""
    vectors, faq_of_vector = index
    num_faqs = int(faq_of_vector.max()) + 1

    def scores(rows: TrainingRows) -> Tensor:
        return faq_scores(
            encoder.embed_ids(rows.ids, delta).cpu(), vectors, faq_of_vector, num_faqs
        )

    labelled = in_scope(queries)
    of_labelled = scores(labelled)
    return Ranking(
        ranks=gold_ranks(of_labelled, labelled.labels),
        best=of_labelled.amax(1),
        best_out_of_scope=scores(out_of_scope(queries)).amax(1),
        score=-cross_entropy(of_labelled, labelled.labels) if labelled.ids else None,
    )


@dataclass(frozen=True)
class Judged:
    """One adapter on a tenant's rows."""

    held: Ranking
    """Held-out rows: for choices."""
    test: Ranking
    """Test rows: for the record."""


def judge(
    encoder: Encoder, delta: Embedder, rows: TenantRows, folds: Sequence[Embedder] = ()
) -> Judged:
    """Rank held-out and test rows, each against an index that does not hold them.

    Args:
        folds: where `rows` has folds, the adapter of each: it ranks what the fold holds out, and
            the out-of-scope rows, which no adapter was trained on.
    """
    index = build_index(encoder, delta, rows.index(), rows.num_faqs)
    held_index = index
    if rows.held_from_train:
        held_index = build_index(encoder, delta, rows.held_index(), rows.num_faqs)
    held = [rank_queries(encoder, delta, held_index, rows.held)]
    if folds:
        held = [
            rank_queries(
                encoder,
                of_fold,
                build_index(encoder, of_fold, part.held_index, rows.num_faqs),
                join(part.held_queries, rows.held),
            )
            for of_fold, part in zip(folds, rows.stage().splits(), strict=True)
        ]
    return Judged(
        held=replace(pool(held), times_out_of_scope=len(held)),
        test=rank_queries(encoder, delta, index, rows.test),
    )


def pool(parts: Sequence[Ranking]) -> Ranking:
    """Rankings of several sets of queries as one."""
    scored = [(part.score, len(part.ranks)) for part in parts if part.score is not None]
    rows = sum(count for _, count in scored)
    return Ranking(
        ranks=torch.cat([part.ranks for part in parts]),
        best=torch.cat([part.best for part in parts]),
        best_out_of_scope=torch.cat([part.best_out_of_scope for part in parts]),
        score=sum(score * count for score, count in scored) / rows if rows else None,
    )


def abstention_threshold(ranking: Ranking) -> float:
    """Top score under which a query is turned away.

    If the held-out rows hold out-of-scope queries, it is the cut with the best balanced accuracy
    among those that turn away at most 5% of answerable queries; otherwise the cut that turns away
    5%. Without held-out rows no query is turned away.
    """
    if not len(ranking.best):
        return NEVER_ABSTAIN
    # An order statistic, not an interpolated quantile: that one turns away 1 of 2 rows, or 1 of 10.
    allowed = float(ranking.best.sort().values[int(FALSE_REJECTION * len(ranking.best))])
    if not len(ranking.best_out_of_scope):
        return _down(allowed)
    cuts = torch.cat([ranking.best, ranking.best_out_of_scope, torch.tensor([allowed])]).double()
    cuts = cuts[cuts <= allowed]
    kept = (ranking.best[None] >= cuts[:, None]).double().mean(1)
    refused = (ranking.best_out_of_scope[None] < cuts[:, None]).double().mean(1)
    return _down(float(cuts[(kept + refused).argmax()]))


def _down(cut: float) -> float:
    """Rounded down: rounded up, the cut would turn away the very query that it was set at."""
    return max(NEVER_ABSTAIN, math.floor(cut * 1e6) / 1e6)
