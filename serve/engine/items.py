"""What the engine is asked, and what it answers."""

from dataclasses import dataclass, field

from serve.engine.live import Alias, LiveTenant, ServedAs, key_of


@dataclass(frozen=True)
class SearchItem:
    """One question of one tenant's user."""

    tenant: str
    text: str = field(repr=False)  # private: must not reach a log through a repr
    top_k: int = 5
    held: LiveTenant | None = field(default=None, repr=False, compare=False)
    """What `Engine.hold` gave: keeps it in memory while the item waits, and answers the item,
    whatever is live by then."""
    alias: Alias = "live"
    """Which of the tenant's bundles is asked, and was held."""

    @property
    def key(self) -> str:
        return key_of(self.tenant, self.alias)


@dataclass(frozen=True)
class RankedFaq:
    faq_id: str
    question: str
    answer: str | None
    score: float
    """Cosine of the query and the FAQ's nearest vector."""


@dataclass(frozen=True)
class SearchAnswer:
    """FAQs best first. If `abstained`, the best is below the tenant's threshold."""

    tenant: str
    adapter: str
    version: str
    ranked: tuple[RankedFaq, ...]
    abstained: bool
    form: ServedAs = "adapter"
    confidence: float | None = None
    """P(the best FAQ is right); None where the bundle has no calibration."""
    alias: Alias = "live"
