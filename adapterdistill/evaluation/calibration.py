"""Calibration of top scores on held-out rankings: confidence, expected error, reference.

Three effects flatter these figures; `adapterdistill bench calibration` measures by how much:
- The threshold was chosen on the same rows. Where out-of-scope rows are held out it is the cut that
  separates these very rows best, so that the error above it is a little higher on others.
- The rows also bounded the training's steps and chose between the adapters.
- Out-of-scope queries count as wrong, as often as they are among the held-out rows. Where a tenant
  holds out none, nothing here knows of any.
Two effects do the reverse: a tenant of few rows is judged by adapters that were trained without a
fold of them, and held-out rows are ranked against an index that lacks them; the served one has all.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from adapterdistill.confidence import LEAST_PER_BIN, MAX_BINS, Calibration
from adapterdistill.evaluation.evaluate import Ranking

_LEAST_SPREAD = 1e-4
_MOST_STEPS = 100


def calibrate(held: Ranking, threshold: float) -> Calibration | None:
    """Calibrate top scores, and the answers at `threshold`, on held-out rows.

    None without labelled rows: right answers are then unknown.
    """
    if not len(held.best):
        return None
    scores, right = _judged_once(held)
    slope, intercept = fit_logistic(scores, right)
    kept = scores >= threshold
    answered, wrong = int(kept.sum()), int((kept & ~right).sum())
    if not answered:
        return None
    edges, counts = reference_bins(scores)
    return Calibration(
        slope=round(slope, 6),
        intercept=round(intercept, 6),
        rows=len(scores),
        answered=answered,
        wrong=wrong,
        error_bound=round(upper_bound(wrong, answered), 6),
        edges=edges,
        counts=counts,
    )


def _judged_once(held: Ranking) -> tuple[Tensor, Tensor]:
    """Top scores, [rows] float64, and whether the best FAQ is right, each row counted once.

    Every fold's adapter ranks the out-of-scope rows; row n counts as fold n % folds ranked it.
    """
    outside = held.best_out_of_scope.reshape(held.times_out_of_scope, -1)
    row = torch.arange(outside.shape[1])
    once = outside[row % held.times_out_of_scope, row]
    scores = torch.cat([held.best, once]).double()
    right = torch.cat([held.ranks == 1, torch.zeros(len(once), dtype=torch.bool)])
    return scores, right


def fit_logistic(
    scores: Float[Tensor, " rows"], right: Bool[Tensor, " rows"]
) -> tuple[float, float]:
    """Slope >= 0 and intercept of P(right | score), a logistic function.

    Platt (1999), "Probabilistic outputs for support vector machines": the targets are not 1 and 0
    but (right + 1) / (right + 2) and 1 / (wrong + 2), from a uniform prior, so that rows which a
    score separates perfectly, or which are all right, do not give certainty. Newton's method with
    halved steps (Lin, Lin and Weng, 2007), in float64 from the best constant. A higher score never
    means less: if the fit would fall, the best constant is taken.
    """
    num_right = float(right.double().sum())
    num_wrong = len(right) - num_right
    targets = torch.where(right, (num_right + 1) / (num_right + 2), 1 / (num_wrong + 2)).double()
    constant = math.log(float(targets.mean()) / (1 - float(targets.mean())))
    centre, spread = float(scores.mean()), float(scores.std(correction=0))
    if spread < _LEAST_SPREAD:
        return 0.0, constant
    design = torch.stack([(scores - centre) / spread, torch.ones_like(scores)], 1)
    weights = torch.tensor([0.0, constant], dtype=torch.float64)

    def loss(at: Tensor) -> float:
        return float(F.binary_cross_entropy_with_logits(design @ at, targets, reduction="sum"))

    for _ in range(_MOST_STEPS):
        p = torch.sigmoid(design @ weights)
        gradient = design.T @ (p - targets)
        if float(gradient.abs().max()) < 1e-9 * len(scores):
            break
        hessian = (design * (p * (1 - p))[:, None]).T @ design
        step = torch.linalg.solve(hessian + 1e-12 * torch.eye(2, dtype=torch.float64), gradient)
        size, before = 1.0, loss(weights)
        while loss(weights - size * step) > before and size > 1e-10:
            size /= 2
        weights = weights - size * step
    slope = float(weights[0]) / spread
    if slope <= 0:
        return 0.0, constant
    return slope, float(weights[1]) - slope * centre


def upper_bound(wrong: int, answered: int, *, confidence: float = 0.95) -> float:
    """Exact one-sided upper bound of the share of wrong answers, given `wrong` of `answered`.

    Clopper and Pearson (1934): the share at which as few as `wrong` would be seen with a
    probability of 1 - confidence, by bisection of the binomial tail in float64.
    """
    if wrong == answered:
        return 1.0
    seen = torch.arange(wrong + 1, dtype=torch.float64)
    n = torch.tensor(float(answered), dtype=torch.float64)
    ways = torch.lgamma(n + 1) - torch.lgamma(seen + 1) - torch.lgamma(n - seen + 1)
    low, high = wrong / answered, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        tail = torch.logsumexp(
            ways + seen * math.log(middle) + (n - seen) * math.log1p(-middle), 0
        ).exp()
        low, high = (middle, high) if float(tail) > 1 - confidence else (low, middle)
    return high


def reference_bins(scores: Float[Tensor, " rows"]) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Edges and counts of up to `MAX_BINS` bins of about as many rows each.

    At least `LEAST_PER_BIN` rows a bin on average; none where that leaves less than two bins.
    Edges lie halfway between neighbouring scores; equal scores share a bin.
    """
    ordered, rows = scores.sort().values, len(scores)
    bins = min(MAX_BINS, rows // LEAST_PER_BIN)
    ends = [rows * n // bins for n in range(1, bins)]
    edges = sorted(
        {
            round(float(ordered[end - 1] + ordered[end]) / 2, 6)
            for end in ends
            if float(ordered[end] - ordered[end - 1]) > 2e-6
        }
    )
    if not edges:
        return (), ()
    bounds = torch.tensor(edges, dtype=torch.float64)
    places = torch.bucketize(scores.double(), bounds, right=True)
    counts = torch.bincount(places, minlength=len(edges) + 1)
    return tuple(edges), tuple(counts.tolist())
