"""From kept questions to a tenant's queries: FAQs to offer for a question, and labels to data."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from adapterdistill.data import Faq, Query, TenantDataset
from adapterdistill.data.dataset import write_tenant
from adapterdistill.errors import ConfigError
from adapterdistill.evaluation.characters import CharacterView
from adapterdistill.feedback import Feedback

OFFERED = 5
"""FAQs that are offered for one question."""


class TakenIn(NamedTuple):
    """Numbers of the queries that were added to a tenant's data."""

    labelled: int
    unlabelled: int


def nearest(text: str, faqs: Sequence[Faq]) -> list[Faq]:
    """The FAQs whose questions share most letters with a text."""
    questions = [faq.question for faq in faqs]
    view = CharacterView.fit(questions, range(len(faqs)), len(faqs))
    order = view([text])[0].argsort(descending=True, stable=True)[:OFFERED]
    return [faqs[place] for place in order.tolist()]


def take_in(feedback: Feedback, data: Path) -> TakenIn:
    """Take kept questions into a tenant's folder of data, for its next onboarding.

    Labelled ones become training queries or out-of-scope ones, and leave the store; the others
    become unlabelled queries. A question that the folder has already is not added again.

    Raises:
        DataError: the folder holds no tenant's data.
        ConfigError: labels name FAQs that the folder does not have.
    """
    dataset = TenantDataset.open(data)
    kept = feedback.questions()
    known = {faq.faq_id for faq in dataset.faqs()}
    strange = {one.label for one in kept if one.label} - known
    if strange:
        raise ConfigError(f"{data} has not got FAQs that labels name: {', '.join(sorted(strange))}")
    named = {one.text: one for one in kept if one.label is not None}
    queries = [
        query
        for query in dataset.queries()
        if query.split != "unlabelled" or query.text not in named
    ]
    have = {query.text for query in queries}
    new = [one for one in kept if one.text not in have]

    def rows() -> Iterator[Query]:
        yield from queries
        for one in new:
            query_id = f"feedback-{hashlib.sha256(one.text.encode()).hexdigest()[:16]}"
            split = "unlabelled" if one.label is None else "train"
            yield Query(query_id, one.text, one.label or None, split)

    write_tenant(data, dataset.faqs(), rows(), overwrite=True)
    feedback.forget(named)
    labelled = sum(one.label is not None for one in new)
    return TakenIn(labelled, len(new) - labelled)
