"""Meta-KD (Pan et al., ACL 2021, arXiv 2012.01266): a meta-teacher over domains, then one student.

The meta-teacher is trained on all domains' rows, each weighted by how typical it is of its class in
its own and in the other domains, and learns a feature that carries over: a second head must name
domains from which the truth was shuffled away. The student learns its domain's rows from it, each
weighted by its typicality and by how sure the teacher is of the gold label.

Equations as in the paper where it differs from its authors' code: prototypes are of class and
domain, every weight multiplies its own row's loss, and padding takes no part.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from adapterdistill.backbone import PackedTokens

DOMAIN_WEIGHT = 0.5
"""Weight of the corrupted-domain loss in the meta-teacher's (both as in the authors' code)."""
TRANSFERABLE_WEIGHT = 0.5
"""Weight of the transferable-feature loss in the student's."""


@dataclass(frozen=True)
class Prototypes:
    """Means of embeddings by domain and class: the weights need no more of a domain's rows."""

    means: Float[Tensor, "domains classes d"]
    """Zeros where a domain has no row of a class."""
    counts: Int[Tensor, "domains classes"]

    @classmethod
    def of(
        cls,
        embeddings: Float[Tensor, "rows d"],
        labels: Int[Tensor, " rows"],
        domains: Int[Tensor, " rows"],
        *,
        num_classes: int,
        num_domains: int,
    ) -> "Prototypes":
        """The prototypes of rows, each with its class and its domain."""
        cell = domains * num_classes + labels
        counts = cell.bincount(minlength=num_domains * num_classes)
        sums = torch.zeros(len(counts), embeddings.shape[1], device=embeddings.device)
        sums = sums.index_add(0, cell, embeddings.float())
        means = sums / counts.clamp(min=1)[:, None]
        shape = (num_domains, num_classes)
        return cls(means.unflatten(0, shape), counts.unflatten(0, shape))

    @classmethod
    def joined(cls, parts: Sequence["Prototypes"]) -> "Prototypes":
        """Several owners' prototypes, side by side in the order of the domains."""
        return cls(torch.cat([p.means for p in parts]), torch.cat([p.counts for p in parts]))

    def noised(self, noise: float, *, seed: int) -> "Prototypes":
        """The prototypes with Gaussian noise, which hides what one row adds to a mean.

        Rows are of unit length, so that exchanging one moves a mean by at most 2 / count; the
        noise's standard deviation is `noise` times that in every coordinate. Counts are exact.
        """
        # Not torch's generator: on the CPU it uses 32 bits of its seed, which can be tried.
        drawn = np.random.default_rng(seed).standard_normal(self.means.shape, dtype=np.float32)
        spread = noise * 2 / self.counts.clamp(min=1) * (self.counts > 0)
        return Prototypes(
            self.means + torch.from_numpy(drawn).to(spread) * spread[..., None], self.counts
        )


def typicality(
    embeddings: Float[Tensor, "rows d"],
    labels: Int[Tensor, " rows"],
    domains: Int[Tensor, " rows"],
    prototypes: Prototypes,
    *,
    own_share: float = 0.5,
) -> Float[Tensor, " rows"]:
    """t of each row, in [-1, 1] (section 3.2).

    `own_share` * cos(e, its class in its domain) + (1 - `own_share`) * the mean over the other
    domains of cos(e, its class there). A domain without the class takes no part: if no other domain
    has it, only its own counts, and if its own has none, only the others do.
    """
    unit = F.normalize(embeddings.float(), dim=-1)
    of_class = F.normalize(prototypes.means, dim=-1)[:, labels]
    cosines = torch.einsum("rd,krd->rk", unit, of_class)
    known = (prototypes.counts[:, labels] > 0).T
    own = F.one_hot(domains, prototypes.counts.shape[0]).bool()
    of_own = (cosines * own).sum(1)
    others = known & ~own
    number = others.sum(1)
    of_others = (cosines * others).sum(1) / number.clamp(min=1)
    mixed = own_share * of_own + (1 - own_share) * of_others
    mixed = torch.where(number > 0, mixed, of_own)
    return torch.where((known & own).any(1), mixed, of_others)


def row_weights(
    typical: Float[Tensor, " rows"], gold_probability: Float[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    """lambda = (1 + t) / (exp((1 - p)^2) + 1), p the teacher's probability of the gold label.

    From (1 + t) / 2 where the teacher is sure down to (1 + t) / (e + 1) where it is wrong.
    """
    return (1 + typical) / (((1 - gold_probability) ** 2).exp() + 1)


def corrupted(domains: Int[Tensor, " rows"], generator: torch.Generator) -> Int[Tensor, " rows"]:
    """The batch's domains in random order: a label that may hit the truth, as in the paper."""
    return domains[torch.randperm(len(domains), generator=generator).to(domains.device)]


class DomainHead(nn.Module):
    """The transferable feature tanh(W(E_domain + mean hidden) + b), and a guess at the domain."""

    def __init__(self, hidden_size: int, num_domains: int, *, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.domain = nn.Embedding(num_domains, hidden_size)
            self.feature = nn.Linear(hidden_size, hidden_size)
            self.guess = nn.Linear(hidden_size, num_domains)
        with torch.no_grad():
            self.domain.weight.mul_(0.02)

    def transferable(
        self, pooled: Float[Tensor, "rows d"], domains: Int[Tensor, " rows"]
    ) -> Float[Tensor, "rows d"]:
        """Before the tanh: what the student must reproduce. Domain -1 is one not trained on."""
        # Index -1, of a domain that was not there, is the last: the mean of those that were.
        known = torch.cat([self.domain.weight, self.domain.weight.mean(0, keepdim=True)])
        out: Tensor = self.feature(known[domains] + pooled)
        return out

    def forward(
        self, pooled: Float[Tensor, "rows d"], domains: Int[Tensor, " rows"]
    ) -> Float[Tensor, "rows domains"]:
        guess: Tensor = self.guess(torch.tanh(self.transferable(pooled, domains)))
        return guess


def meta_teacher_loss(
    logits: Float[Tensor, "rows classes"],
    labels: Int[Tensor, " rows"],
    guesses: Float[Tensor, "rows domains"],
    corrupted_domains: Int[Tensor, " rows"],
    typical: Float[Tensor, " rows"],
    *,
    domain_weight: float = DOMAIN_WEIGHT,
) -> Float[Tensor, ""]:
    """mean_i t_i (CE_i + `domain_weight` * CE_i of the corrupted domain)."""
    task = F.cross_entropy(logits, labels, reduction="none")
    domain = F.cross_entropy(guesses, corrupted_domains, reduction="none")
    return (typical * (task + domain_weight * domain)).mean()


def row_distance(
    student: Float[Tensor, "tokens d"],
    teacher: Float[Tensor, "tokens d"],
    row_of_token: Int[Tensor, " tokens"],
    lengths: Sequence[int],
) -> Float[Tensor, " rows"]:
    """Mean squared difference of each row's tokens; packed, so that padding never counts."""
    per_token = (student.float() - teacher.detach().float()).square().mean(-1)
    sums = per_token.new_zeros(len(lengths)).index_add(0, row_of_token, per_token)
    return sums / torch.tensor(lengths, device=sums.device)


def score_distance(
    student: Float[Tensor, " entries"], teacher: Float[Tensor, " entries"], tokens: PackedTokens
) -> Float[Tensor, " rows"]:
    """Mean squared difference of each row's attention scores, laid as `attention_scores` does."""
    entries = torch.tensor([n * n for rows, n in tokens.groups for _ in range(rows)])
    rows = tokens.row_of_token[tokens.position == 0]  # in the order of the layout
    row_of_entry = rows.repeat_interleave(entries.to(rows.device))
    squares = (student - teacher.detach()).square()
    sums = squares.new_zeros(len(rows)).index_add(0, row_of_entry, squares)
    return sums / torch.tensor(tokens.lengths, device=sums.device).square()


def soft_cross_entropy(
    student: Float[Tensor, "rows classes"],
    teacher: Float[Tensor, "rows classes"],
    *,
    temperature: float = 1.0,
) -> Float[Tensor, " rows"]:
    """Cross-entropy of both softmaxes at `temperature`, times temperature^2."""
    wanted = (teacher.detach() / temperature).softmax(-1)
    return -(wanted * (student / temperature).log_softmax(-1)).sum(-1) * temperature**2


def meta_distillation_loss(
    weights: Float[Tensor, " rows"],
    hidden: Float[Tensor, " rows"],
    attention: Float[Tensor, " rows"],
    transferable: Float[Tensor, " rows"],
    soft: Float[Tensor, " rows"],
    *,
    transferable_weight: float = TRANSFERABLE_WEIGHT,
) -> Float[Tensor, ""]:
    """mean_i of lambda_i times the rows' distances, plus the unweighted soft labels' (section 3.3).

    Every term is by row: a mean taken before the weight would lose it.
    """
    weighted = weights * (hidden + attention + transferable_weight * transferable)
    return (weighted + soft).mean()
