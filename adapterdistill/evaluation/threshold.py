"""The evidence under which a query is turned away, and what it costs."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from adapterdistill.evaluation.calibration import fit_logistic
from adapterdistill.store.bundle import NEVER_ABSTAIN

FALSE_REJECTION = 0.05
"""Share of answerable queries that may be turned away."""
FOREIGN_REJECTION = 0.9
"""Share of public texts of other domains that is turned away. Across tenants it costs about 5% of
answerable queries, as `FALSE_REJECTION` does."""
FOREIGN_REJECTION_OF_QUESTIONS = 0.5
"""The same where questions are all that is known: their prototypes are further from queries."""
MOST_HELD_REJECTED = 0.1
"""Held-out answerable queries that public texts may turn away: some tenants' queries are as far
from their FAQs as public texts of the same style."""
MOST_UNLABELLED_REJECTED = 0.2
"""The same of unlabelled queries, where none is held out: some of them nobody can answer."""
PRIOR_ROWS = 45
"""Held-out rows that say as much of the cut as public texts do."""


def rejection_threshold(
    held: Float[Tensor, " held"],
    foreign: Float[Tensor, " foreign"],
    *,
    unlabelled: Float[Tensor, " unlabelled"] | None = None,
) -> float:
    """Evidence under which a query is turned away, without any example that is out of scope.

    The cut that turns away 5% of held-out answerable queries, drawn towards the cut that turns
    away most public texts of other domains, the more so the fewer the held-out rows are:
    (n a + 45 b) / (n + 45), but not so far that it turns away more than a tenth of the former.

    Args:
        held: evidence of answerable queries that the scorer was not fitted on.
        foreign: evidence of public texts of other domains.
        unlabelled: evidence of the tenant's queries that nobody labelled, of which a fifth may be
            turned away; of use where no row is held out. Without either, questions are all that is
            known.

    Returns:
        `NEVER_ABSTAIN` where neither is known.
    """
    cuts: list[tuple[float, float]] = []
    bound = float("inf")
    if len(held):
        cuts.append((_order_statistic(held, FALSE_REJECTION), float(len(held))))
        bound = _order_statistic(held, MOST_HELD_REJECTED)
    elif unlabelled is not None and len(unlabelled):
        bound = _order_statistic(unlabelled, MOST_UNLABELLED_REJECTED)
    if len(foreign):
        known = bound < float("inf")
        share = FOREIGN_REJECTION if known else FOREIGN_REJECTION_OF_QUESTIONS
        cuts.append((float(foreign.double().quantile(share)), float(PRIOR_ROWS)))
    if not cuts:
        return NEVER_ABSTAIN
    return min(bound, sum(cut * rows for cut, rows in cuts) / sum(rows for _, rows in cuts))


def _order_statistic(evidence: Tensor, share: float) -> float:
    """The cut that turns away `share`, rounded down: a quantile would turn away 1 of 2 rows."""
    return float(evidence.sort().values[int(share * len(evidence))])


def carried_over(
    threshold: float, foreign: Float[Tensor, " foreign"], foreign_now: Float[Tensor, " foreign"]
) -> float:
    """One scorer's threshold on another's scale: it turns away as many of the same public texts.

    Outside the range of the texts, and without any, it stays as far from them as it was.
    """
    if not len(foreign):
        return threshold
    before, after = foreign.double().sort().values, foreign_now.double().sort().values
    if threshold <= float(before[0]):
        return threshold + float(after[0] - before[0])
    if threshold >= float(before[-1]):
        return threshold + float(after[-1] - before[-1])
    above = int(torch.searchsorted(before, threshold))
    low, high = float(before[above - 1]), float(before[above])
    share = (threshold - low) / (high - low)
    return float(after[above - 1] + share * (after[above] - after[above - 1]))


def threshold_of_examples(
    held: Float[Tensor, " held"], outside: Float[Tensor, " outside"], threshold: float
) -> float:
    """The threshold where the owner has out-of-scope examples of its own.

    The cut of the best balanced accuracy among those that turn away at most 5% of held-out
    answerable queries; ties go to the lowest. Each of the two shares is drawn towards what holds at
    `threshold`, as by ten more rows, so that two or three examples do not decide alone.

    Args:
        threshold: `rejection_threshold`.

    Raises:
        ValueError: either is empty.
    """
    if not len(held) or not len(outside):
        raise ValueError(
            f"a threshold of examples needs held-out rows and examples, got {len(held)} and "
            f"{len(outside)}"
        )
    allowed = _order_statistic(held, FALSE_REJECTION)
    cuts = torch.cat([held, outside, torch.tensor([allowed, threshold])]).double().unique()
    cuts = cuts[cuts <= max(allowed, threshold)]
    kept = (held.double()[None] >= cuts[:, None]).double().mean(1)
    refused = (outside.double()[None] < cuts[:, None]).double().mean(1)
    distance = (cuts - threshold).abs() / held.double().std(correction=0).clamp(min=1e-6)
    trust = 10.0 / (10.0 + len(outside))
    return float(cuts[(kept + refused - trust * distance).argmax()])


def scope_losses(
    held: Float[Tensor, " held"], outside: Float[Tensor, " outside"]
) -> tuple[Float[Tensor, " held"], Float[Tensor, " outside"]]:
    """What it costs to tell answerable queries from out-of-scope ones by their evidence, in nats.

    -log P(answerable | evidence) of each of the former, -log P(not answerable | evidence) of each
    of the latter. P is the logistic function of `fit_logistic`, fitted on all of them.
    """
    evidence = torch.cat([held, outside]).double()
    answerable = torch.arange(len(evidence)) < len(held)
    slope, intercept = fit_logistic(evidence, answerable)
    logits = slope * evidence + intercept
    losses = F.softplus(torch.where(answerable, -logits, logits)).to(held.dtype)
    return losses[answerable], losses[~answerable]


def wrong_answers(
    evidence: Float[Tensor, " held"], right: Bool[Tensor, " held"], threshold: float
) -> float:
    """Expected share of wrong ones among answers: mean of 1 - P(right | evidence) above the cut.

    P is the logistic function of `fit_logistic`, which is steadier on few rows than counts are.
    Zero where nothing is answered.
    """
    slope, intercept = fit_logistic(evidence.double(), right)
    answered = evidence[evidence >= threshold].double()
    if not len(answered):
        return 0.0
    return float(1 - torch.sigmoid(slope * answered + intercept).mean())


def error_threshold(
    evidence: Float[Tensor, " held"],
    right: Bool[Tensor, " held"],
    *,
    most_wrong: float,
    least: float,
) -> float:
    """The lowest evidence from `least` up at which at most `most_wrong` of the answers are wrong.

    Where no cut does it, one above all held-out rows: then hardly anything is answered.

    Args:
        evidence: of held-out rows, out-of-scope ones among them (`right` false).
        most_wrong: share of answers, 0 to 1.
        least: the threshold that stands anyway.

    Raises:
        ValueError: there is no row, or `most_wrong` is no share.
    """
    if not len(evidence):
        raise ValueError("an error rate is estimated on held-out rows, got none")
    if not 0 <= most_wrong <= 1:
        raise ValueError(f"most_wrong must be from 0 to 1, got {most_wrong}")
    cuts = torch.cat([torch.tensor([least], dtype=torch.float64), evidence.double()])
    for cut in cuts[cuts >= least].unique().tolist():
        if wrong_answers(evidence, right, cut) <= most_wrong:
            return float(cut)
    return float(evidence.max()) + 1e-6
