"""One vector an FAQ: the centroid of its rows, pulled towards queries that nobody labelled.

Soft k-means. A query's share of an FAQ is a softmax over its cosines to the prototypes and to
"none", whose cosine is that to the nearest text of another domain: a query that no FAQ answers is
expected in a log, and pulls little.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

SHARPNESS = 20.0
"""Sharpness of the softmax over cosines, as in training."""
ROUNDS = 10
ROWS_A_QUERY = 0.3
"""An unlabelled query counts as this much of a labelled row."""
MOST_PULL = 1.0
MOST_PULL_OF_ONE_ROW = 2.0
"""Weight of the unlabelled queries' mean over that of the centroid, at most: a question alone says
less of what is asked than queries do."""


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
    num_rows: Int[Tensor, " faqs"],
    unlabelled: Float[Tensor, "queries d"],
    negatives: Float[Tensor, "negatives d"],
    *,
    rounds: int = ROUNDS,
) -> Float[Tensor, "faqs d"]:
    """The centroids pulled towards the unlabelled queries that are nearest to them.

    Each round: R = shares(P, U), m = sum_U R, P = unit(C + w mean_R(U)) with
    w = min(0.3 m / rows, 1), or 2 instead of 1 where there is one row: an FAQ of many rows moves
    little, and one of a few stray queries, too.

    Args:
        centroids: unit length, like all vectors here.
        num_rows: labelled rows that each centroid is the mean of, 1 or more.
        negatives: texts of other domains; may be empty.
    """
    prototypes = centroids
    most = torch.where(num_rows == 1, MOST_PULL_OF_ONE_ROW, MOST_PULL)
    for _ in range(rounds if len(unlabelled) else 0):
        share = shares(prototypes, unlabelled, negatives)
        mass = share.sum(0)
        mean = share.T @ unlabelled / mass.clamp(min=1e-9)[:, None]
        pull = torch.minimum(ROWS_A_QUERY * mass / num_rows, most)
        prototypes = F.normalize(centroids + pull[:, None] * mean, dim=-1)
    return prototypes
