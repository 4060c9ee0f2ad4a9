"""One vector an FAQ: the centroid of its rows, pulled towards queries that nobody labelled.

Soft k-means. A query's share of an FAQ is a softmax over its cosines to the prototypes and to
"none", whose cosine is that to the nearest text of another domain: a query that no FAQ answers is
expected in a log, and pulls little.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

SHARPNESS = 20.0
"""Of the softmax over cosines, as in training."""
ROUNDS = 5
PULL = 0.6
"""Weight of the unlabelled queries' mean against the centroid, where there are `MANY` of them."""
PULL_OF_FEW = 0.3
MANY = 100


def pull_of(num_unlabelled: int) -> float:
    """Weight of the unlabelled mean: `PULL_OF_FEW`, rising to `PULL` at `MANY` queries.

    Few queries give a noisy mean, which may pull as strongly as half of what many may.
    """
    share = min(1.0, num_unlabelled / MANY)
    return PULL_OF_FEW + (PULL - PULL_OF_FEW) * share


def shares(
    prototypes: Float[Tensor, "faqs d"],
    queries: Float[Tensor, "queries d"],
    negatives: Float[Tensor, "negatives d"],
) -> Float[Tensor, "queries faqs"]:
    """softmax(20 cos) over FAQs and "none", without the column of "none"; unit-length vectors."""
    cosines = queries @ prototypes.T
    if len(negatives):
        none = (queries @ negatives.T).amax(1, keepdim=True)
        cosines = torch.cat([cosines, none], 1)
    return torch.softmax(SHARPNESS * cosines, 1)[:, : len(prototypes)]


def refine(
    centroids: Float[Tensor, "faqs d"],
    unlabelled: Float[Tensor, "queries d"],
    negatives: Float[Tensor, "negatives d"],
    *,
    pull: float | None = None,
    rounds: int = ROUNDS,
) -> Float[Tensor, "faqs d"]:
    """The centroids pulled towards the unlabelled queries that are nearest to them.

    Each round: R = shares, P = unit(C + pull * min(sum R, 1) * mean_R(U)), so that an FAQ with
    less than one query's share moves less.

    Args:
        centroids: unit length, like all vectors here.
        negatives: texts of other domains; may be empty.
        pull: by default by the number of queries.
    """
    if not len(unlabelled):
        return centroids
    weight = pull_of(len(unlabelled)) if pull is None else pull
    prototypes = centroids
    for _ in range(rounds):
        share = shares(prototypes, unlabelled, negatives)
        mass = share.sum(0)[:, None]
        mean = share.T @ unlabelled / mass.clamp(min=1e-9)
        prototypes = F.normalize(centroids + weight * mass.clamp(max=1) * mean, dim=-1)
    return prototypes
