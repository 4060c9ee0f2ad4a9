"""What the chosen candidate makes of a tenant's rows, with their texts: it stays with the owner."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from adapterdistill.data import Faq
from adapterdistill.distill.labels import right_labels
from adapterdistill.evaluation.arrival import Judged
from adapterdistill.evaluation.tenant_texts import TenantTexts
from adapterdistill.manifest import Record

FINDINGS_FILE = "findings.json"
"""File of a run's folder."""
MOST_UNSURE = 20
"""Unlabelled queries that are worth a label: those whose evidence is nearest to the threshold."""
MOST_PAIRS = 30
_Place = Annotated[int, Field(ge=0)]


class KnownFaq(Record):
    """An FAQ, and how many labelled queries it has."""

    faq_id: str
    question: str
    queries: int


class Query(Record):
    """A query, ranked by a scorer that was fitted without it."""

    text: str
    right: tuple[_Place, ...]
    """Places of the FAQs that answer it; empty: out of scope, or unlabelled."""
    found: _Place
    """Place of the FAQ that is ranked first."""
    score: float
    """Its evidence, which the threshold is compared with."""

    @property
    def is_right(self) -> bool:
        return self.found in self.right


class Pair(Record):
    """Two FAQs whose prototypes are near each other."""

    first: _Place
    second: _Place
    cosine: float


class Findings(Record):
    """A tenant's rows as the chosen candidate sees them. Private: holds texts."""

    faqs: tuple[KnownFaq, ...]
    held_out: tuple[Query, ...]
    """Labelled queries, then the owner's examples that are out of scope."""
    unsure: tuple[Query, ...]
    """Unlabelled queries, those nearest to the threshold first."""
    pairs: tuple[Pair, ...]
    """The nearest first."""
    usual_cosine: float | None
    """Median cosine of a held-out query to the prototype of its own FAQ; None without one."""

    def without_texts(self) -> "Findings":
        """Number FAQs and queries instead of naming them."""
        faqs = [
            faq.model_copy(update={"faq_id": f"FAQ {row}", "question": ""})
            for row, faq in enumerate(self.faqs)
        ]
        held_out, unsure = (
            tuple(one.model_copy(update={"text": ""}) for one in queries)
            for queries in (self.held_out, self.unsure)
        )
        return self.model_copy(update={"faqs": tuple(faqs), "held_out": held_out, "unsure": unsure})


@torch.no_grad()
def find(
    judged: Judged,
    texts: TenantTexts,
    faqs: Sequence[Faq],
    *,
    embed: Callable[[Sequence[str]], Tensor],
    threshold: float,
    seen: Tensor | None = None,
) -> Findings:
    """Look at the rows of a judged candidate.

    Args:
        embed: gives texts their vectors, [texts, d], with the candidate's adapter.
        threshold: evidence under which the candidate turns queries away.
        seen: rows of `texts.rows()` that trained the candidate; they are left out.
    """

    def ranked(queries: Sequence[str]) -> tuple[Query, ...]:
        if not queries:
            return ()
        return _queries(queries, [()] * len(queries), judged.scorer(embed(queries), queries).total)

    held, scores = judged.held, judged.held.scores
    rows = texts.rows()[0]
    kept = [n for n, row in enumerate(held.rows.tolist()) if seen is None or not seen[row]]
    right = right_labels(texts.right_of(held.rows)).tolist()
    labelled = _queries(
        [rows[int(held.rows[n])] for n in kept],
        [tuple(faq for faq in right[n] if faq >= 0) for n in kept],
        scores.total[kept],
    )
    nearest = (judged.unlabelled - threshold).abs().argsort(stable=True)[:MOST_UNSURE]
    usual = None
    if kept and "cosine" in scores.views:
        own = scores.views["cosine"][kept].gather(1, held.gold[kept][:, None])
        usual = round(float(own.median()), 6)
    counts = Counter(texts.faqs.tolist())
    return Findings(
        faqs=tuple(
            KnownFaq(faq_id=faq.faq_id, question=faq.question, queries=counts[place])
            for place, faq in enumerate(faqs)
        ),
        held_out=labelled + ranked(texts.out_of_scope),
        unsure=ranked([texts.unlabelled[place] for place in nearest.tolist()]),
        pairs=_nearest_pairs(judged.scorer.prototypes),
        usual_cosine=usual,
    )


def _queries(
    texts: Sequence[str], right: Sequence[tuple[int, ...]], total: Tensor
) -> tuple[Query, ...]:
    found = total.numpy().argmax(1).tolist() if len(texts) else []  # the first of equals
    return tuple(
        Query(text=text, right=faqs, found=first, score=round(float(scores[first]), 6))
        for text, faqs, first, scores in zip(texts, right, found, total, strict=True)
    )


def _nearest_pairs(prototypes: Tensor) -> tuple[Pair, ...]:
    cosines = prototypes @ prototypes.T
    above = torch.triu_indices(len(cosines), len(cosines), offset=1)
    found = cosines[above[0], above[1]]
    best = found.topk(min(MOST_PAIRS, len(found))).indices
    return tuple(
        Pair(
            first=int(above[0, place]),
            second=int(above[1, place]),
            cosine=round(float(found[place]), 6),
        )
        for place in best.tolist()
    )
