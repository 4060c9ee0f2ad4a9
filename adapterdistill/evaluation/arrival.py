"""A tenant's arrival as one pure function: its texts and frozen teachers in, what is served out.

The teachers are averaged for the tenant, which trains nothing and can be served at once
(`first_arrival`). Where queries are labelled, own rows then move the average halfway. A scorer is
fitted on what each adapter makes of the tenant's texts. Candidates compete under one rule
(`choice`): the moved average, the average, the bare encoder as the floor, and whatever else the
caller brings, such as an own adapter, a distilled student, or what is live now.

The threshold is set with a candidate that knows no label, whose held-out rows are as fresh as any,
and carried over to the chosen one: to where that turns away the same share of public texts of other
domains. A trained adapter's own rows would set it too high.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Embedder, Encoder
from adapterdistill.distill.averaging import averaged_teachers, moved_halfway
from adapterdistill.distill.batches import TrainingRows
from adapterdistill.evaluation.choice import Choice, Prior, choose
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
    threshold_of_examples,
)

MOVED = "averaged teachers, moved halfway by own rows"
AVERAGED = "averaged teachers"
BARE = "bare encoder"
TRAINED_FOLDS = 2
"""Each is a training."""
FITTED_FOLDS = 10
"""Nearly one row at a time: a scorer of few rows is fitted in milliseconds."""
FEW_ROWS = 400
"""Rows up to which there are `FITTED_FOLDS`; with more, two say enough."""
TEMPERATURE = 0.07
"""Of the softmax over final scores: lowest cross-entropy across tenants."""
LEAST_EXAMPLES = 3
"""Out-of-scope examples of the owner's own from which they set the threshold."""
AVERAGED_PRIOR = Prior(0.024, 0.023)
"""The average's cross-entropy less the moved average's: mean and spread over eight public tenants
at 1 and 3 queries an FAQ."""
FLOOR_PRIORS = ((2, Prior(0.15, 0.08)), (7, Prior(0.10, 0.05)), (2**31, Prior(0.05, 0.035)))
"""The same of the bare encoder, by queries an FAQ below a bound, measured at 1, 3 and 10."""


@dataclass(frozen=True)
class Candidate:
    """A way to embed the tenant's texts."""

    embedder: Embedder | None
    """None: the bare encoder."""
    folds: tuple[Embedder, ...] = ()
    """Where rows trained it: one for each of the folds that `arrive` is given or deals."""
    prior: Prior | None = None
    """Against the reference; None for the reference itself."""


@dataclass(frozen=True)
class Arrival:
    """What is served, and how it was chosen."""

    chosen: str
    embedder: Embedder | None
    scorer: Scorer
    threshold: float
    choice: Choice
    held: HeldOutScores
    """The chosen candidate's held-out rows, for the calibration and the report."""
    foreign: Tensor
    """Evidence of public texts of other domains, [foreign]."""
    outside: Tensor
    """Evidence of the owner's out-of-scope examples, [examples]."""
    seconds: Mapping[str, float] = field(default_factory=dict)


def first_arrival(
    encoder: Encoder,
    tenant: TenantTexts,
    teachers: Sequence[BottleneckAdapter],
    *,
    foreign: Sequence[str],
    seed: int = 0,
    most_wrong: float | None = None,
) -> Arrival:
    """The averaged teachers or the bare encoder, whichever is better: nothing is trained.

    As `arrive`, but for own rows.
    """
    return _arrive(encoder, tenant, teachers, foreign, {}, None, None, seed, most_wrong, move=False)


def arrive(
    encoder: Encoder,
    tenant: TenantTexts,
    teachers: Sequence[BottleneckAdapter],
    *,
    foreign: Sequence[str],
    seed: int = 0,
    further: Mapping[str, Candidate] | None = None,
    reference: str | None = None,
    folds: Int[Tensor, " rows"] | None = None,
    most_wrong: float | None = None,
) -> Arrival:
    """Average the teachers, move them by own rows, fit scorers, and choose what is served.

    Args:
        foreign: public texts of other domains, none of the tenant's own.
        further: candidates beside the moved average, the average and the bare encoder. Each has a
            prior, unless it is the reference.
        reference: the candidate that is best for most tenants; by default the first that there is
            of moved average, average and bare encoder.
        folds: the fold that holds each of `tenant.rows()` out of what trains candidates, -1 for
            none; each FAQ needs a row beside every fold. By default `deal_folds` deals two.
        most_wrong: share of answers that may be wrong; the threshold rises until it is kept.

    Raises:
        ValueError: the tenant has no FAQ, two candidates have one name, or one of `further` has
            folds and `folds` is not given.
        TrainingError: a loss is not finite.
    """
    return _arrive(
        encoder, tenant, teachers, foreign, further or {}, reference, folds, seed, most_wrong,
        move=True,
    )  # fmt: skip


def _arrive(
    encoder: Encoder,
    tenant: TenantTexts,
    teachers: Sequence[BottleneckAdapter],
    foreign: Sequence[str],
    further: Mapping[str, Candidate],
    reference: str | None,
    folds: Tensor | None,
    seed: int,
    most_wrong: float | None,
    *,
    move: bool,
) -> Arrival:
    clock = _Clock()
    texts, labels = tenant.rows()
    if folds is None:
        if any(candidate.folds for candidate in further.values()):
            raise ValueError(
                "candidates that rows trained need the folds that they were trained in"
            )
        folds = deal_folds(texts, labels, tenant.questions, TRAINED_FOLDS, seed=seed)
    candidates: dict[str, Candidate] = {}
    if teachers:
        rows = TrainingRows(encoder.tokenize(texts), labels)
        sample = rows if tenant.queries else _with_answers(encoder, tenant, rows)
        average = averaged_teachers(encoder, teachers, sample)
        clock.lap("averaging")
        if move and tenant.queries:
            candidates[MOVED] = _moved(encoder, average, rows, folds, seed)
            clock.lap("own steps")
        candidates[AVERAGED] = Candidate(average, prior=AVERAGED_PRIOR)
    candidates[BARE] = Candidate(None, prior=floor_prior(tenant))
    if clash := sorted(set(further) & set(candidates)):
        raise ValueError(f"further candidates need names of their own, got {clash}")
    standard = reference or next(iter(candidates))
    candidates |= further
    fit = _Fitting(encoder, tenant, texts, labels, foreign)
    judged = {name: fit.judge(candidate, folds) for name, candidate in candidates.items()}
    clock.lap("scorers")
    choice = choose(
        {name: one.held.losses(TEMPERATURE) for name, one in judged.items()},
        {name: c.prior for name, c in candidates.items() if c.prior and name != standard},
        reference=standard,
    )
    best = judged[choice.chosen]
    fresh = best if not candidates[choice.chosen].folds else judged[AVERAGED if teachers else BARE]
    num_folds = FITTED_FOLDS if len(texts) <= FEW_ROWS else TRAINED_FOLDS
    dealt = deal_folds(texts, labels, tenant.questions, num_folds, seed=seed)
    threshold = _threshold(best, fresh, fresh.held_in(dealt), tenant, most_wrong)
    clock.lap("threshold")
    return Arrival(
        chosen=choice.chosen,
        embedder=candidates[choice.chosen].embedder,
        scorer=best.scorer,
        threshold=threshold,
        choice=choice,
        held=best.held,
        foreign=best.foreign,
        outside=best.outside,
        seconds=clock.laps,
    )


def _moved(
    encoder: Encoder, average: BottleneckAdapter, rows: TrainingRows, folds: Tensor, seed: int
) -> Candidate:
    """The average moved halfway by all rows, and by those that each fold leaves."""
    parts = [rows.select(folds != fold) for fold in range(int(folds.max()) + 1)]
    moved, *of_folds = (moved_halfway(encoder, average, part, seed=seed) for part in [rows, *parts])
    return Candidate(moved, folds=tuple(of_folds))


def _with_answers(encoder: Encoder, tenant: TenantTexts, rows: TrainingRows) -> TrainingRows:
    """Each answer as a further row of its FAQ, so that teachers can be weighed without queries."""
    known = [faq for faq, answer in enumerate(tenant.answers) if answer]
    ids = encoder.tokenize([tenant.answers[faq] or "" for faq in known]) if known else []
    return TrainingRows([*rows.ids, *ids], torch.cat([rows.labels, torch.tensor(known).long()]))


def floor_prior(tenant: TenantTexts) -> Prior:
    """What other tenants have shown of the bare encoder, at as many queries an FAQ."""
    per_faq = len(tenant.queries) / max(1, tenant.num_faqs)
    return next(prior for bound, prior in FLOOR_PRIORS if per_faq < bound)


@dataclass(frozen=True)
class _Judged:
    """A candidate's scorer of all rows, and its scores of held-out ones by the others."""

    scorer: Scorer
    held: HeldOutScores
    foreign: Tensor
    unlabelled: Tensor
    outside: Tensor
    held_in: Callable[[Tensor], HeldOutScores]
    """The same in other folds, for a candidate that no row trained."""


@dataclass(frozen=True)
class _Fitting:
    """What all candidates are fitted on."""

    encoder: Encoder
    tenant: TenantTexts
    texts: tuple[str, ...]
    labels: Tensor
    foreign: Sequence[str]

    def judge(self, candidate: Candidate, folds: Tensor) -> _Judged:
        rows = Texts(self._embed(self.texts, candidate.embedder), self.labels, self.texts)
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
        vectors = [self._embed(self.texts, fold) for fold in candidate.folds]

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
        return _Judged(
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
        return AnswerSentences(self._embed(sentences, candidate.embedder), faqs)

    def _embed(self, texts: Sequence[str], embedder: Embedder | None) -> Tensor:
        return self.encoder.embed_texts(texts, embedder, batch_size=128).cpu()


def _threshold(
    best: _Judged,
    fresh: _Judged,
    held: HeldOutScores,
    tenant: TenantTexts,
    most_wrong: float | None,
) -> float:
    """The chosen candidate's threshold.

    Args:
        fresh: the candidate that no row trained and that sets it.
        held: its held-out rows.
    """
    evidence = held.scores.evidence
    threshold = rejection_threshold(evidence, fresh.foreign, unlabelled=fresh.unlabelled)
    if len(evidence) and len(fresh.outside) >= LEAST_EXAMPLES:
        threshold = threshold_of_examples(evidence, fresh.outside, threshold)
    if most_wrong is not None and len(evidence):
        right = held.scores.total.argmax(1) == held.gold
        threshold = error_threshold(
            torch.cat([evidence, fresh.outside]),
            torch.cat([right, torch.zeros(len(fresh.outside), dtype=torch.bool)]),
            most_wrong=most_wrong,
            least=threshold,
        )
    return carried_over(threshold, fresh.foreign, best.foreign) if best is not fresh else threshold


class _Clock:
    """Seconds since the lap before, by name."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now, self._last = now, now()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = self._now()
        self.laps[name], self._last = round(now - self._last, 3), now
