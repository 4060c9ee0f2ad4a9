"""Membership audit: how well an attacker tells rows that an adapter was trained on from others.

The attacker has the adapter, the public encoder, every FAQ and every other row of the training
(Shokri et al., 2017; the difference to a public model as in Carlini et al., 2022, section 3), and
guesses whether one more query was trained on. Rows of the same FAQs that the adapter did not see
are the others. Texts and embeddings stay with the caller; the result is a few numbers.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from adapterdistill.distill.losses import TEMPERATURE
from adapterdistill.manifest import Record

Attack = Literal["loss", "loss_difference", "similarity"]
"""A row's loss; its loss less that of the public encoder; its similarity to the other rows
of its FAQ. The loss is that of training, `prototype_loss`."""
MOST_ROWS = 400
"""Rows that are judged, evenly spread over all: enough for an interval of 0.05 to either side."""
LEAST_ROWS = 10
"""Rows on each side from which an audit says anything."""
_RESAMPLES = 400


class Membership(Record):
    """AUC of the strongest of the three attacks: 0.5 is a guess, 1 names every row."""

    auc: float
    low: float
    high: float
    """95% bootstrap interval over rows. `high` is the highest of the three attacks'."""
    attack: Attack
    rows: int
    """Rows that were judged."""


@torch.no_grad()
def audit_membership(
    adapted: Sequence[Float[Tensor, "rows d"]],
    public: Float[Tensor, "rows d"],
    labels: Int[Tensor, " rows"],
    trained: Bool[Tensor, "models rows"],
    questions: Bool[Tensor, " rows"],
    *,
    seed: int = 0,
) -> Membership | None:
    """Audit a training by one or several adapters that it made; None if too few rows can tell.

    A query is judged where its FAQ has queries of both kinds. Its own FAQ's prototype is made
    without it if it was trained on, else without another trained query, so that both kinds are
    compared with equally many rows.

    Args:
        adapted: unit-length embeddings of the rows by each adapter.
        public: the same by the frozen encoder alone.
        trained: whether each adapter was trained on each row.
        questions: rows that are FAQs' questions, which no attacker needs to guess.
    """
    scores = [
        torch.stack(
            [
                -(losses := _losses(own, labels, seen & ~questions, questions))[0],
                _losses(public, labels, seen & ~questions, questions)[0] - losses[0],
                losses[1],
            ]
        )
        for own, seen in zip(adapted, trained, strict=True)
    ]
    judged = [_judged(labels, seen, questions) for seen in trained]
    used = torch.stack(judged).any(0)
    pairs = [
        _pairs(one[:, used], seen[used], chosen[used])
        for one, seen, chosen in zip(scores, trained, judged, strict=True)
    ]
    wins = torch.stack([won for won, _ in pairs]).sum(0)
    compared = torch.stack([both for _, both in pairs]).sum(0)
    members, others = int(compared.any(1).sum()), int(compared.any(0).sum())
    if min(members, others) < LEAST_ROWS:
        return None
    rows = int((compared.any(1) | compared.any(0)).sum())
    found = wins.sum((1, 2)) / compared.sum()
    best = int(found.argmax())
    low, high = _interval(wins, compared, seed)
    return Membership(
        auc=round(float(found[best]), 4),
        low=round(float(low[best]), 4),
        high=round(float(high.max()), 4),
        attack=get_args(Attack)[best],
        rows=rows,
    )


def _losses(
    embeddings: Tensor, labels: Tensor, queries: Tensor, questions: Tensor
) -> tuple[Tensor, Tensor]:
    """Each row's loss, and its similarity to its own FAQ's prototype without itself, [rows].

    Args:
        queries: those that were trained on.
    """
    e, kept = embeddings.double(), queries | questions
    num_faqs = int(labels.max()) + 1
    sums = e.new_zeros(num_faqs, e.shape[1]).index_add(0, labels[kept], e[kept])
    left_out = torch.zeros_like(e)
    for faq in labels.unique():
        of_faq = labels == faq
        mine = (of_faq & queries).nonzero().flatten()
        left_out[mine] = e[mine]
        others = (of_faq & ~kept).nonzero().flatten()
        if len(mine):
            left_out[others] = e[mine[torch.arange(len(others)) % len(mine)]]
    cosines = e @ F.normalize(sums, dim=-1).T
    similarity = (e * F.normalize(sums[labels] - left_out, dim=-1)).sum(-1)
    cosines = cosines.scatter(1, labels[:, None], similarity[:, None])
    return F.cross_entropy(cosines / TEMPERATURE, labels, reduction="none"), similarity


def _judged(labels: Tensor, trained: Tensor, questions: Tensor) -> Tensor:
    """Queries whose FAQ has both trained queries and others, [rows] bool; evenly `MOST_ROWS`."""
    queries = ~questions
    both = set(labels[queries & trained].tolist()) & set(labels[queries & ~trained].tolist())
    judged = queries & torch.isin(labels, torch.tensor(sorted(both), dtype=labels.dtype))
    places = judged.nonzero().flatten()
    if len(places) > MOST_ROWS:
        places = places[torch.linspace(0, len(places) - 1, MOST_ROWS).round().long()]
    return torch.zeros_like(judged).index_fill(0, places, True)


def _pairs(scores: Tensor, trained: Tensor, judged: Tensor) -> tuple[Tensor, Tensor]:
    """Wins of trained rows over others by attack, [3, rows, rows], and which pairs there are."""
    compared = ((trained & judged)[:, None] & (~trained & judged)[None]).double()
    above = (scores[:, :, None] > scores[:, None]).double()
    ties = (scores[:, :, None] == scores[:, None]).double()
    return (above + ties / 2) * compared, compared


def _interval(wins: Tensor, compared: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Bounds of each attack's AUC, rows resampled, [3] and [3]."""
    count = len(compared)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(count, (_RESAMPLES, count), generator=generator)
    times = torch.zeros(_RESAMPLES, count, dtype=torch.float64)
    times.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
    total = ((times @ compared) * times).sum(1)
    each = torch.stack([((times @ one) * times).sum(1) for one in wins])
    aucs = (each / total)[:, total > 0]
    low, high = torch.quantile(aucs, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=1)
    return low, high
