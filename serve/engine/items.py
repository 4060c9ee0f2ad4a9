"""Questions to the engine and its answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from adapterdistill.errors import UnknownTaskError, UnknownTenantError
from adapterdistill.serve.engine.faq_index import Ranking
from adapterdistill.serve.engine.live import Alias, LiveTenant, NotLive, VariantName, key_of


@dataclass(frozen=True)
class SearchItem:
    """One question of one tenant's user."""

    tenant: str
    text: str = field(repr=False)  # private: a repr must not bring it into a log
    top_k: int = 5
    held: LiveTenant | None = field(default=None, repr=False, compare=False)
    """The result of `Engine.hold`: it stays in memory while the item waits, and answers the item
    even if another bundle has gone live."""
    alias: Alias = "live"
    """Which of the tenant's bundles is asked, and was held."""
    explain: bool = False
    """Whether the answer says how each view scores its FAQs."""

    @property
    def key(self) -> str:
        return key_of(self.tenant, self.alias)


@dataclass(frozen=True)
class RankedFaq:
    faq_id: str
    question: str
    answer: str | None
    score: float
    """Cosine of the query and the FAQ's nearest vector, or what the bundle's scorer gives."""
    views: Mapping[str, float] | None = None
    """Its score by each view; None: the item did not ask for it."""


@dataclass(frozen=True)
class SearchAnswer:
    """FAQs best first. If `abstained`, the best is below the tenant's threshold."""

    tenant: str
    adapter: str
    version: str
    ranked: tuple[RankedFaq, ...]
    abstained: bool
    variant: VariantName = "adapter"
    confidence: float | None = None
    """P(the best FAQ is right); None: the bundle has no calibration."""
    decided_by: str | None = None
    """The view that puts the best FAQ furthest ahead of the second; None: the item did not ask, or
    there is one FAQ."""
    alias: Alias = "live"


@dataclass(frozen=True)
class ClassifyItem(SearchItem):
    """One text, or pair of texts, for one of the tenant's tasks; `top_k` classes answer it."""

    task: str = ""
    text_pair: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class RankedClass:
    label: str
    probability: float
    """Softmax of the model's outputs; not calibrated."""


@dataclass(frozen=True)
class ClassifyAnswer:
    """Classes, most probable first."""

    tenant: str
    adapter: str
    version: str
    task: str
    ranked: tuple[RankedClass, ...]
    variant: VariantName
    alias: Alias = "live"


ClassifyOutcome = ClassifyAnswer | NotLive | UnknownTaskError
"""The answer to an item, or the error in its place."""
SearchOutcome = SearchAnswer | NotLive
"""The answer to an item, or the error in its place."""


def search_answer(
    item: SearchItem, live: LiveTenant, ranking: Ranking | UnknownTenantError
) -> SearchOutcome:
    """The outcome of an item whose FAQs are ranked."""
    if isinstance(ranking, UnknownTenantError):
        return ranking
    views: Sequence[dict[str, float] | None] = ranking.views or [None] * len(ranking.faqs)
    ranked = tuple(
        RankedFaq(live.faqs[n].faq_id, live.faqs[n].question, live.faqs[n].answer, score, seen)
        for n, score, seen in zip(ranking.faqs, ranking.scores, views, strict=True)
    )
    return SearchAnswer(
        tenant=item.tenant,
        adapter=live.manifest.adapter,
        version=live.manifest.version,
        ranked=ranked,
        abstained=ranked[0].score < live.threshold,
        variant=live.variant,
        confidence=live.confidence(ranked[0].score),
        alias=item.alias,
        decided_by=ranking.decided_by,
    )
