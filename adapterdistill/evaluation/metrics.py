"""Ranking metrics and the paired bootstrap, as pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


def faq_scores(
    queries: Float[Tensor, "queries d"],
    vectors: Float[Tensor, "entries d"],
    faq_of_vector: Int[Tensor, " entries"],
    num_faqs: int,
) -> Float[Tensor, "queries faqs"]:
    """Each FAQ's score: the highest cosine of the query with one of its vectors."""
    similarity = queries @ vectors.T
    scores = similarity.new_full((len(queries), num_faqs), -1.0)
    index = faq_of_vector[None].expand(len(queries), -1)
    return scores.scatter_reduce(1, index, similarity, "amax")


def gold_ranks(
    scores: Float[Tensor, "queries faqs"], gold: Int[Tensor, " queries *right"]
) -> Int[Tensor, " queries"]:
    """1-based rank of the gold FAQ; ties go to the FAQ that comes first, NaN ranks last.

    Args:
        gold: where queries have several right FAQs, those of each, filled up with -1: the rank is
            that of the best of them.
    """
    if gold.ndim == 2:
        ranks = torch.stack([gold_ranks(scores, of.clamp(min=0)) for of in gold.T], 1)
        return ranks.masked_fill(gold < 0, scores.shape[1]).amin(1)
    own = scores.gather(1, gold[:, None])
    earlier = torch.arange(scores.shape[1], device=scores.device)[None] < gold[:, None]
    return 1 + (~(scores <= own)).sum(1) + ((scores == own) & earlier).sum(1)


def top1(ranks: Int[Tensor, " queries"]) -> float:
    return float((ranks == 1).double().mean())


def mean_reciprocal_rank(ranks: Int[Tensor, " queries"]) -> float:
    return float((1.0 / ranks.double()).mean())


def recall_at(ranks: Int[Tensor, " queries"], k: int) -> float:
    return float((ranks <= k).double().mean())


def auroc(positive: Float[Tensor, " p"], negative: Float[Tensor, " n"]) -> float:
    """Chance that a positive scores above a negative, ties half (Mann-Whitney)."""
    if not len(positive) or not len(negative):
        return float("nan")
    ordered = negative.double().sort().values
    below = torch.searchsorted(ordered, positive.double(), side="left")
    through = torch.searchsorted(ordered, positive.double(), side="right")
    return float(((below + through).double() / 2).mean() / len(negative))


@dataclass(frozen=True)
class Interval:
    """A mean with its 95% bootstrap interval."""

    mean: float
    low: float
    high: float


def paired_bootstrap(
    differences: Sequence[Tensor], *, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Mean over groups of mean differences; groups resampled first, then rows within each.

    Args:
        differences: per group (a tenant) the paired differences of its rows. One group: only its
            rows are resampled.
    """
    generator = torch.Generator().manual_seed(seed)
    groups = [d.double() for d in differences if len(d)]
    if not groups:
        return Interval(float("nan"), float("nan"), float("nan"))
    chosen = torch.randint(len(groups), (resamples, len(groups)), generator=generator)
    drawn = torch.empty(resamples, len(groups), dtype=torch.float64)
    for index, group in enumerate(groups):
        # A group that is drawn twice draws its rows again each time.
        places = chosen == index
        shape = (int(places.sum()), len(group))
        drawn[places] = group[torch.randint(len(group), shape, generator=generator)].mean(1)
    low, high = torch.quantile(
        drawn.mean(1), torch.tensor([0.025, 0.975], dtype=torch.float64)
    ).tolist()
    return Interval(float(torch.stack([g.mean() for g in groups]).mean()), low, high)
