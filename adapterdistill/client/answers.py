"""What the endpoint answers, as the clients give it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Faq:
    """An FAQ in an answer."""

    faq_id: str
    question: str
    answer: str | None
    score: float
    views: Mapping[str, float | None] = field(default_factory=dict)
    """Its score by each view; empty unless the request asked to `explain`."""


@dataclass(frozen=True)
class Answer:
    """The answer to one question."""

    ranked: tuple[Faq, ...]
    """Best first."""
    abstained: bool
    """Whether no FAQ is likely to answer the question."""
    confidence: float | None
    """Probability that the best FAQ is right; None: the tenant has no held-out queries."""
    version: str
    """The sha256 of the adapter that answered."""
    alias: str = "live"
    decided_by: str | None = None

    @property
    def best(self) -> Faq | None:
        """The FAQ that answers the question; None: none does."""
        return None if self.abstained else self.ranked[0]


@dataclass(frozen=True)
class Classes:
    """The classes of one text, or of one pair of texts."""

    ranked: tuple[tuple[str, float], ...]
    """(label, probability), most probable first."""
    version: str
    """The sha256 of the adapter whose light model answered."""
    alias: str = "live"

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.ranked[0][0]


def answers_of(body: Mapping[str, Any]) -> list[Answer]:
    """The answers in the body of a search's answer."""
    adapter = body["adapter"]
    return [
        Answer(
            ranked=tuple(
                Faq(
                    faq_id=faq["faq_id"],
                    question=faq["question"],
                    answer=faq["answer"],
                    score=faq["score"],
                    views=faq.get("views") or {},
                )
                for faq in result["ranked"]
            ),
            abstained=result["abstained"],
            confidence=result.get("confidence"),
            version=adapter["version"],
            alias=adapter.get("alias", "live"),
            decided_by=result.get("decided_by"),
        )
        for result in body["results"]
    ]


def classes_of(body: Mapping[str, Any]) -> list[Classes]:
    """The classes in the body of a classification's answer."""
    adapter = body["adapter"]
    return [
        Classes(
            ranked=tuple((one["label"], one["probability"]) for one in result["ranked"]),
            version=adapter["version"],
            alias=adapter["alias"],
        )
        for result in body["results"]
    ]
