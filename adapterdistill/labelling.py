"""Which FAQs to offer to a person who labels a question."""

from collections.abc import Sequence

from adapterdistill.data import Faq
from adapterdistill.evaluation.characters import CharacterView

OFFERED = 5
"""FAQs that are offered for one question."""


def nearest(text: str, faqs: Sequence[Faq]) -> list[Faq]:
    """The FAQs whose questions share most letters with a text."""
    questions = [faq.question for faq in faqs]
    view = CharacterView.fit(questions, range(len(faqs)), len(faqs))
    order = view([text])[0].argsort(descending=True, stable=True)[:OFFERED]
    return [faqs[place] for place in order.tolist()]
