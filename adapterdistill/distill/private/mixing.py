"""Private by mixing: what a published adapter learns of the rows is one weight a teacher.

DP-SGD needs noise in each of 100,000 weights, far more than 50 rows can outweigh. Here one
Gaussian mechanism releases the sum over queries of each teacher's clipped scores; the adapter is
made of that sum, of the teachers and of public texts alone, so that all of it is post-processing.

The unit is one labelled query, added or removed. The FAQs' questions are the scale that queries are
scored on and are not protected.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy.optimize import brentq
from scipy.special import log_ndtr
from torch import Tensor

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder
from adapterdistill.distill.adapter_distillation import AdapterDistillation, public_texts
from adapterdistill.distill.averaging import rescale, weighted_average
from adapterdistill.distill.batches import TrainingRows
from adapterdistill.distill.composition import Mixture
from adapterdistill.distill.losses import TEMPERATURE
from adapterdistill.distill.training import Schedule, train

CLIP = 1.0
"""Greatest Euclidean length of a query's scores: how far one query can move their sum."""
_SAMPLED = 128
_RATE = 1e-3


@dataclass(frozen=True)
class Guarantee:
    """(epsilon, delta)-differential privacy of one Gaussian release, for one labelled query."""

    epsilon: float
    delta: float

    @property
    def noise(self) -> float:
        """Standard deviation of the noise in units of `CLIP`, the least that suffices.

        The exact condition of the analytic Gaussian mechanism (Balle and Wang, ICML 2018, theorem
        8), which the accountants of dp-accounting give, too.
        """
        if math.isinf(self.epsilon):
            return 0.0

        def excess(log_noise: float) -> float:
            noise = math.exp(log_noise)
            above = log_ndtr(0.5 / noise - self.epsilon * noise)
            below = self.epsilon + log_ndtr(-0.5 / noise - self.epsilon * noise)
            return math.exp(above) - math.exp(below) - self.delta

        return math.exp(float(brentq(excess, -7.0, 14.0, xtol=1e-12)))


@torch.no_grad()
def query_scores(
    encoder: Encoder,
    teachers: Sequence[BottleneckAdapter],
    questions: TrainingRows,
    queries: TrainingRows,
) -> Float[Tensor, "queries N"]:
    """How much better than the others each teacher ranks each query, clipped to `CLIP`.

    Minus the cross-entropy of the query's FAQ among the questions, less its mean over the teachers.
    A query's scores depend on no other query.
    """
    scores = []
    for teacher in teachers:
        index = encoder.embed_ids(questions.ids, teacher, batch_size=128).cpu()
        vectors = encoder.embed_ids(queries.ids, teacher, batch_size=128).cpu()
        cosines = vectors @ index.T / TEMPERATURE
        scores.append(-F.cross_entropy(cosines, queries.first_labels, reduction="none"))
    found = torch.stack(scores, 1).double()
    found = found - found.mean(1, keepdim=True)
    clipped: Tensor = found * (CLIP / found.norm(dim=1, keepdim=True).clamp(min=CLIP))
    return clipped


def private_shares(
    scores: Float[Tensor, "queries N"], guarantee: Guarantee, *, seed: int
) -> Float[Tensor, " N"]:
    """Each teacher's share: a softmax of the noised sums of scores, shrunk by the noise in them.

    The sums' standard deviation over teachers without the noise's is what they tell; where noise
    alone explains it, the shares are equal.

    Args:
        seed: secret; all of its bits count.
    """
    number = scores.shape[1]
    spread = guarantee.noise * CLIP
    drawn = np.random.default_rng(seed).normal(0.0, 1.0, number) * spread
    sums = scores.sum(0) + torch.from_numpy(drawn)
    sums = sums - sums.mean()
    variance = float(sums.square().mean())
    told = variance - spread**2
    if told <= 0:
        return torch.full((number,), 1 / number)
    return torch.softmax(sums * math.sqrt(told) / variance, 0).float()


def mixed_student(
    encoder: Encoder,
    teachers: Sequence[BottleneckAdapter],
    shares: Float[Tensor, " N"],
    *,
    steps: int,
) -> BottleneckAdapter:
    """The teachers' weighted average, then `steps` of imitating their mixture, on public texts."""
    ids = encoder.tokenize(public_texts())
    public = TrainingRows(ids, torch.full((len(ids),), -1))
    sample = public.select(torch.arange(len(ids)) % math.ceil(len(ids) / _SAMPLED) == 0)
    student = weighted_average(teachers, shares).to(encoder.device)
    rescale(encoder, student, teachers, sample)
    if steps:
        mixture = Mixture.of_shares(encoder, teachers, shares, sample)
        objective = AdapterDistillation(encoder, student.copy(), mixture)
        train(
            objective, public, Schedule(steps, learning_rate=_RATE), seed=0, device=encoder.device
        )
        student = objective.student
    return student.requires_grad_(False)
