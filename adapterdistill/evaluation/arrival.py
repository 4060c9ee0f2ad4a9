"""A tenant's arrival as one pure function: its texts and frozen teachers in, what is served out.

The teachers are averaged for the tenant, which trains nothing; a scorer is fitted on what the
adapter makes of the tenant's texts. Candidates compete under one rule (`choice`): the averaged
teachers, the bare encoder as the floor, and whatever else the caller brings, such as an adapter
trained on own rows, a distilled student, or what is live now. The same rows give the threshold.
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from jaxtyping import Int
from torch import Tensor

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Embedder, Encoder
from adapterdistill.data.splits import row_key
from adapterdistill.distill.averaging import averaged_teachers
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
from adapterdistill.evaluation.threshold import (
    error_threshold,
    rejection_threshold,
    threshold_of_examples,
)

AVERAGED = "averaged teachers"
BARE = "bare encoder"
NUM_FOLDS = 10
"""Nearly one row at a time: a scorer is fitted in milliseconds."""
TEMPERATURE = 0.05
"""Of the softmax over final scores: lowest cross-entropy across tenants."""
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
LEAST_EXAMPLES = 3
"""Out-of-scope examples of the owner's own from which they set the threshold."""
FLOOR_PRIORS = ((2, Prior(0.155, 0.103)), (7, Prior(0.086, 0.060)), (2**31, Prior(0.032, 0.029)))
"""The bare encoder's cross-entropy less the averaged teachers', by queries an FAQ below a bound:
mean and spread over eight public tenants at 1, 3 and 10 queries. No difference was below -.01."""


@dataclass(frozen=True)
class TenantTexts:
    """What a tenant arrives with."""

    questions: tuple[str, ...]
    queries: tuple[str, ...]
    faqs: Int[Tensor, " queries"]
    """The FAQ that answers each query, its place among `questions`."""
    unlabelled: tuple[str, ...] = ()
    out_of_scope: tuple[str, ...] = ()
    """Examples of what no FAQ answers."""
    answers: tuple[str | None, ...] = ()
    """Each FAQ's answer; empty where there is none at all."""

    def __post_init__(self) -> None:
        if len(self.queries) != len(self.faqs):
            raise ValueError(f"{len(self.queries)} queries but {len(self.faqs)} FAQs of them")
        if len(self.faqs) and not 0 <= int(self.faqs.min()) <= int(self.faqs.max()) < self.num_faqs:
            raise ValueError(f"a query's FAQ must be from 0 to {self.num_faqs - 1}")
        if self.answers and len(self.answers) != self.num_faqs:
            raise ValueError(f"{len(self.answers)} answers of {self.num_faqs} FAQs")

    @property
    def num_faqs(self) -> int:
        return len(self.questions)

    def rows(self) -> tuple[tuple[str, ...], Tensor]:
        """The labelled texts and their FAQs: questions first, then queries.

        A question that says nothing, such as a number, is left out where its FAQ has a query.
        """
        answered = set(self.faqs.tolist())
        kept = [
            faq
            for faq, question in enumerate(self.questions)
            if faq not in answered or says_something(question)
        ]
        texts = (*(self.questions[faq] for faq in kept), *self.queries)
        return texts, torch.cat([torch.tensor(kept, dtype=torch.int64), self.faqs])

    def sentences(self) -> tuple[tuple[str, ...], Tensor]:
        """The answers' sentences and their FAQs."""
        found = [
            (sentence, faq)
            for faq, answer in enumerate(self.answers)
            for sentence in _SENTENCE_END.split(answer or "")
            if says_something(sentence)
        ]
        return tuple(s for s, _ in found), torch.tensor([f for _, f in found], dtype=torch.int64)


def says_something(question: str) -> bool:
    """Whether the text has two letters: a number or a dash is no question."""
    return sum(character.isalpha() for character in question) >= 2


@dataclass(frozen=True)
class Candidate:
    """A way to embed the tenant's texts."""

    embedder: Embedder | None
    """None: the bare encoder."""
    folds: tuple[Embedder, ...] = ()
    """Where rows trained it: each fold's, in the order of `FoldedTexts.folds`."""
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
    """Average the teachers, fit each candidate's scorer, and choose what is served.

    Args:
        foreign: public texts of other domains, none of the tenant's own.
        further: candidates beside the averaged teachers and the bare encoder.
        reference: the candidate that is best for most tenants; by default the averaged teachers,
            or the bare encoder where there is no teacher.
        folds: the fold that holds each of `tenant.rows()` out, -1 for none; needed where a
            candidate was trained on rows. By default rows are dealt by `deal_folds`.
        most_wrong: share of answers that may be wrong; the threshold rises until it is kept.

    Raises:
        ValueError: the tenant has no FAQ, a candidate of two names meets, or one with folds comes
            without `folds`.
    """
    clock = _Clock()
    texts, labels = tenant.rows()
    candidates = {BARE: Candidate(None, prior=floor_prior(tenant))}
    if teachers:
        ids = TrainingRows(encoder.tokenize(texts), labels)
        if not tenant.queries:
            ids = _with_answers(encoder, tenant, ids)
        candidates[AVERAGED] = Candidate(averaged_teachers(encoder, teachers, ids))
        clock.lap("averaging")
    further = further or {}
    if clash := sorted(set(further) & set(candidates)):
        raise ValueError(f"further candidates need names of their own, got {clash}")
    candidates |= further
    reference = reference or (AVERAGED if teachers else BARE)
    if folds is None:
        if any(candidate.folds for candidate in candidates.values()):
            raise ValueError(
                "candidates that rows trained need the folds that they were trained in"
            )
        folds = deal_folds(texts, labels, questions=tenant.questions, seed=seed)
    judged = {
        name: _judge(encoder, candidate, tenant, texts, labels, folds, foreign)
        for name, candidate in candidates.items()
    }
    clock.lap("scorers")
    choice = choose(
        {name: one.held.losses(TEMPERATURE) for name, one in judged.items()},
        {name: c.prior for name, c in candidates.items() if c.prior and name != reference},
        reference=reference,
    )
    best = judged[choice.chosen]
    return Arrival(
        chosen=choice.chosen,
        embedder=candidates[choice.chosen].embedder,
        scorer=best.scorer,
        threshold=_threshold(best, tenant, most_wrong),
        choice=choice,
        held=best.held,
        foreign=best.foreign,
        outside=best.outside,
        seconds=clock.laps,
    )


def _with_answers(encoder: Encoder, tenant: TenantTexts, rows: TrainingRows) -> TrainingRows:
    """Each answer as a further row of its FAQ, so that teachers can be weighed without queries."""
    known = [faq for faq, answer in enumerate(tenant.answers) if answer]
    ids = encoder.tokenize([tenant.answers[faq] or "" for faq in known]) if known else []
    return TrainingRows([*rows.ids, *ids], torch.cat([rows.labels, torch.tensor(known).long()]))


def floor_prior(tenant: TenantTexts) -> Prior:
    """What other tenants have shown of the bare encoder, at as many queries an FAQ."""
    per_faq = len(tenant.queries) / max(1, tenant.num_faqs)
    return next(prior for bound, prior in FLOOR_PRIORS if per_faq < bound)


def deal_folds(
    texts: Sequence[str], labels: Tensor, *, questions: Sequence[str], seed: int
) -> Int[Tensor, " rows"]:
    """Each row's fold, dealt in turn within an FAQ and on into the next; -1 for questions.

    Equal texts share a fold, and a query that is a question to the letter is never held out:
    another row would give its answer away.
    """
    fold_of_text = dict.fromkeys(map(str.casefold, questions), -1)
    rows = sorted(
        range(len(texts)), key=lambda row: (int(labels[row]), row_key(texts[row], seed=seed))
    )
    turn = 0
    for _, of_faq in groupby(rows, key=lambda row: int(labels[row])):
        for row in of_faq:
            if texts[row].casefold() not in fold_of_text:
                fold_of_text[texts[row].casefold()] = turn % NUM_FOLDS
                turn += 1
    return torch.tensor([fold_of_text[text.casefold()] for text in texts], dtype=torch.int64)


@dataclass(frozen=True)
class _Judged:
    scorer: Scorer
    held: HeldOutScores
    foreign: Tensor
    outside: Tensor


def _judge(
    encoder: Encoder,
    candidate: Candidate,
    tenant: TenantTexts,
    texts: tuple[str, ...],
    labels: Tensor,
    folds: Tensor,
    foreign: Sequence[str],
) -> _Judged:
    """The candidate's scorer of all rows, and its scores of held-out ones by the others."""

    def embedded(of: Sequence[str], embedder: Embedder | None) -> Tensor:
        return encoder.embed_texts(of, embedder, batch_size=128).cpu()

    rows = Texts(embedded(texts, candidate.embedder), labels, texts)
    unlabelled = embedded(tenant.unlabelled, candidate.embedder)
    negatives = embedded(foreign, candidate.embedder)
    answers = None
    sentences, faqs = tenant.sentences()
    if sentences and not tenant.queries:
        answers = AnswerSentences(embedded(sentences, candidate.embedder), faqs)
    scorer = fit_scorer(
        rows, tenant.num_faqs, unlabelled=unlabelled, negatives=negatives, answers=answers
    )
    held = cross_validate(
        rows,
        folds,
        tenant.num_faqs,
        unlabelled=unlabelled,
        negatives=negatives,
        vectors_of_folds=[embedded(texts, fold) for fold in candidate.folds],
    )
    outside = embedded(tenant.out_of_scope, candidate.embedder)
    return _Judged(
        scorer,
        held,
        scorer(negatives, foreign).evidence,
        scorer(outside, tenant.out_of_scope).evidence,
    )


def _threshold(judged: _Judged, tenant: TenantTexts, most_wrong: float | None) -> float:
    held = judged.held.scores.evidence
    known = bool(tenant.queries or tenant.unlabelled)
    threshold = rejection_threshold(held, judged.foreign, questions_only=not known)
    if len(held) and len(judged.outside) >= LEAST_EXAMPLES:
        threshold = threshold_of_examples(held, judged.outside, threshold)
    if most_wrong is None or not len(held):
        return threshold
    right = judged.held.scores.total.argmax(1) == judged.held.gold
    outside_wrong = torch.zeros(len(judged.outside), dtype=torch.bool)
    return error_threshold(
        torch.cat([held, judged.outside]),
        torch.cat([right, outside_wrong]),
        most_wrong=most_wrong,
        least=threshold,
    )


class _Clock:
    """Seconds since the lap before, by name."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now, self._last = now, now()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = self._now()
        self.laps[name], self._last = round(now - self._last, 3), now
