"""What a tenant is served: candidates compete on held-out rows, each with a scorer of its own.

A scorer is fitted on what each candidate makes of the tenant's texts. Candidates compete under one
rule (`choice`): the student, the teachers' average, the own adapter, and the bare encoder as the
floor.

The threshold is set with a candidate that knows no label, whose held-out rows are as fresh as any,
and carried over to the chosen one: to where that turns away the same share of public texts of other
domains. A trained adapter's own rows would set it too high.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from adapterdistill.backbone import Embedder, Encoder, TextKind
from adapterdistill.evaluation.choice import Choice, Prior, choose
from adapterdistill.evaluation.metrics import gold_ranks
from adapterdistill.evaluation.scorer import (
    AnswerSentences,
    HeldOutScores,
    Scorer,
    Texts,
    cross_validate,
    fit_scorer,
)
from adapterdistill.evaluation.tenant_texts import TenantTexts, deal_folds
from adapterdistill.evaluation.threshold import (
    carried_over,
    error_threshold,
    rejection_threshold,
    scope_losses,
    threshold_of_examples,
)

TRAINED_FOLDS = 2
"""Folds of a scorer that is fitted on many rows."""
FITTED_FOLDS = 10
"""Nearly one row at a time: a scorer of few rows is fitted in milliseconds."""
FEW_ROWS = 400
"""Rows up to which there are `FITTED_FOLDS`; with more, two say enough."""
TEMPERATURE = 0.07
"""Temperature of the softmax over final scores: the lowest cross-entropy across tenants."""
LEAST_EXAMPLES = 3
"""Out-of-scope examples of the owner's own from which they set the threshold."""
AVERAGED_PRIOR = Prior(0.024, 0.023)
"""The average's cross-entropy less the moved average's: mean and spread over eight public tenants
at 1 and 3 queries an FAQ."""
LIVE_PRIOR = Prior(0.0, 0.05)
"""The live version against the new one: nothing is known beforehand, so that evidence decides. The
spread is that of the trained candidates among each other."""
MANY_TEACHERS = 8
"""From as many on, the priors stand; they were measured with 16."""
FEW_TEACHERS_SPREAD = 0.08
FLOOR_PRIORS = ((2, Prior(0.15, 0.08)), (7, Prior(0.10, 0.05)), (2**31, Prior(0.05, 0.035)))
"""The same of the bare encoder, by queries an FAQ below a bound, measured at 1, 3 and 10. An own
adapter without teachers is taken to be as far behind as the bare encoder: it was, by top-1."""


@dataclass(frozen=True)
class Candidate:
    """A way to embed the tenant's texts."""

    embedder: Embedder | None
    """None: the bare encoder."""
    folds: tuple[Embedder, ...] = ()
    """One for each of the folds, if rows trained it."""
    prior: Prior | None = None
    """Against the reference; None for the reference itself."""
    seen: Bool[Tensor, " rows"] | None = None
    """Those of `TenantTexts.rows` that trained it although no fold says so; they do not judge it.
    None: no such row."""


@dataclass(frozen=True)
class Judged:
    """A candidate's scorer of all rows, and held-out rows scored by scorers of the other rows."""

    scorer: Scorer
    held: HeldOutScores
    foreign: Tensor
    """Evidence of public texts of other domains, [foreign]."""
    unlabelled: Tensor
    """Evidence of the tenant's unlabelled queries, [unlabelled]."""
    outside: Tensor
    """Evidence of the owner's out-of-scope examples, [examples]."""
    held_in: Callable[[Tensor], HeldOutScores]
    """Held-out scores in other folds, for a candidate that no row trained."""


@dataclass(frozen=True)
class Competition:
    """The candidates' judgement."""

    choice: Choice
    judged: Mapping[str, Judged]
    thresholds: Mapping[str, float]
    """Evidence under which each candidate turns a query away."""


def compete(
    encoder: Encoder,
    tenant: TenantTexts,
    candidates: Mapping[str, Candidate],
    *,
    foreign: Sequence[str],
    folds: Int[Tensor, " rows"],
    seed: int = 0,
    most_wrong: float | None = None,
) -> Competition:
    """Fit a scorer for each candidate, choose one, and set their thresholds.

    Args:
        candidates: by name; the one without a prior is the reference, which is best for most
            tenants. At least one has no folds: it knows no label, and the first such one sets the
            threshold.
        foreign: public texts of other domains, none of the tenant's own.
        folds: the fold that holds each of `tenant.rows()` out of what trains candidates, -1 for
            none; each FAQ needs a row beside every fold.
        most_wrong: share of answers that may be wrong; the threshold rises until it is kept.

    Raises:
        ValueError: the tenant has no FAQ, there is not one reference, or no candidate without
            folds.
    """
    references = [name for name, one in candidates.items() if one.prior is None]
    fresh_ones = [name for name, one in candidates.items() if not one.folds]
    if len(references) != 1 or not fresh_ones:
        raise ValueError(
            f"candidates need one reference, got {references}, and one that no row trained, "
            f"got {fresh_ones}"
        )
    texts, labels = tenant.rows()
    fit = _Fitting(encoder, tenant, texts, labels, foreign)
    judged = {name: fit.judge(candidate, folds) for name, candidate in candidates.items()}
    choice = choose(
        {name: _losses(one, candidates[name].seen) for name, one in judged.items()},
        {name: one.prior for name, one in candidates.items() if one.prior},
        reference=references[0],
        incumbent="live",
    )
    fresh = judged[fresh_ones[0]]
    num_folds = FITTED_FOLDS if len(texts) <= FEW_ROWS else TRAINED_FOLDS
    held = fresh.held_in(deal_folds(texts, labels, tenant.questions, num_folds, seed=seed))
    right = gold_ranks(held.scores.total, tenant.right_of(held.rows)) == 1
    threshold = _threshold(fresh, held, right, most_wrong)
    return Competition(
        choice,
        judged,
        {name: carried_over(threshold, fresh.foreign, one.foreign) for name, one in judged.items()},
    )


def _losses(judged: Judged, seen: Tensor | None) -> Tensor:
    """Cross-entropy by held-out row, NaN where the row trained the candidate, [held].

    With out-of-scope examples of the owner's own, whether a query is answerable is predicted too:
    each held-out row costs that much more, and the examples' costs follow, [held + examples].
    """
    losses, beyond = judged.held.losses(TEMPERATURE), torch.empty(0)
    if len(losses) and len(judged.outside) >= LEAST_EXAMPLES:
        inside, beyond = scope_losses(judged.held.scores.evidence, judged.outside)
        losses = losses + inside
    if seen is not None:
        losses = losses.masked_fill(seen[judged.held.rows], torch.nan)
    return torch.cat([losses, beyond])


def floor_prior(num_queries: int, num_faqs: int, teachers: int) -> Prior:
    """What learns from no teacher against the student, at as many queries an FAQ and teachers.

    With fewer teachers the student's advantage shrinks, and less is known of it.
    """
    per_faq = num_queries / max(1, num_faqs)
    many = next(prior for bound, prior in FLOOR_PRIORS if per_faq < bound)
    share = min(1.0, max(0, teachers - 1) / (MANY_TEACHERS - 1))
    spread = many.spread if share == 1 else max(many.spread, FEW_TEACHERS_SPREAD)
    return Prior(share * many.mean, spread)


@dataclass(frozen=True)
class _Fitting:
    """What all candidates are fitted on."""

    encoder: Encoder
    tenant: TenantTexts
    texts: tuple[str, ...]
    labels: Tensor
    foreign: Sequence[str]

    def judge(self, candidate: Candidate, folds: Tensor) -> Judged:
        rows = Texts(self._embed_rows(candidate.embedder), self.labels, self.texts)
        unlabelled = self._embed(self.tenant.unlabelled, candidate.embedder)
        negatives = self._embed(self.foreign, candidate.embedder)
        answers = self._answers(candidate)
        scorer = fit_scorer(
            rows,
            self.tenant.num_faqs,
            unlabelled=unlabelled,
            negatives=negatives,
            answers=answers,
        )
        vectors = [self._embed_rows(fold) for fold in candidate.folds]

        def held_in(dealt: Tensor) -> HeldOutScores:
            return cross_validate(
                rows,
                dealt,
                self.tenant.num_faqs,
                unlabelled=unlabelled,
                negatives=negatives,
                answers=answers,
                vectors_of_folds=vectors,
            )

        outside = self._embed(self.tenant.out_of_scope, candidate.embedder)
        return Judged(
            scorer,
            held_in(folds),
            scorer(negatives, self.foreign).evidence,
            scorer(unlabelled, self.tenant.unlabelled).evidence,
            scorer(outside, self.tenant.out_of_scope).evidence,
            held_in,
        )

    def _answers(self, candidate: Candidate) -> AnswerSentences | None:
        sentences, faqs = self.tenant.sentences()
        if not sentences:
            return None
        return AnswerSentences(self._embed(sentences, candidate.embedder, "passage"), faqs)

    def _embed_rows(self, embedder: Embedder | None) -> Tensor:
        ids = self.tenant.row_ids(self.encoder)
        return self.encoder.embed_ids(ids, embedder, batch_size=128).cpu()

    def _embed(
        self, texts: Sequence[str], embedder: Embedder | None, kind: TextKind = "query"
    ) -> Tensor:
        return self.encoder.embed_texts(texts, embedder, kind=kind, batch_size=128).cpu()


def _threshold(
    fresh: Judged, held: HeldOutScores, right: Tensor, most_wrong: float | None
) -> float:
    """The threshold of a candidate that no row trained.

    Args:
        held: its held-out rows.
        right: [held] bool, whether the best FAQ is one of the right ones.
    """
    evidence = held.scores.evidence
    threshold = rejection_threshold(evidence, fresh.foreign, unlabelled=fresh.unlabelled)
    if len(evidence) and len(fresh.outside) >= LEAST_EXAMPLES:
        threshold = threshold_of_examples(evidence, fresh.outside, threshold)
    if most_wrong is not None and len(evidence):
        threshold = error_threshold(
            torch.cat([evidence, fresh.outside]),
            torch.cat([right, torch.zeros(len(fresh.outside), dtype=torch.bool)]),
            most_wrong=most_wrong,
            least=threshold,
        )
    return threshold
