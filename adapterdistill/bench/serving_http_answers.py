"""What right answers look like, and the check that no other tenant's passes for one.

Texts asked are a page's own questions: embedded by the page's own adapter, each lies on its own
vector of the index. Through another adapter it does not, whatever version the answer names.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder
from adapterdistill.bench.serving_banks import Bank
from adapterdistill.bench.serving_http_client import post
from adapterdistill.bundle import read_bundle
from adapterdistill.release import live_bundle

LEAST_OWN_SCORE = 0.995
"""Of a page's own question; bfloat16 gives 0.999 and more."""


@dataclass(frozen=True)
class Question:
    """One request's texts, all of one tenant."""

    tenant: str
    texts: tuple[str, ...]

    @property
    def http(self) -> bytes:
        body = {"queries": self.texts} if len(self.texts) > 1 else {"query": self.texts[0]}
        return post(f"/v1/tenants/{self.tenant}/search", json.dumps(body).encode())


def draw_questions(
    banks: Sequence[Bank], count: int, draw: random.Random, *, texts: int = 1
) -> list[Question]:
    chosen = draw.choices(banks, k=count)
    return [
        Question(bank.tenant, tuple(f.question for f in draw.choices(bank.faqs, k=texts)))
        for bank in chosen
    ]


class Answers:
    """Which FAQs and adapter versions are each tenant's."""

    def __init__(self, banks: Sequence[Bank], store: Path) -> None:
        self._faqs = {bank.tenant: {faq.faq_id for faq in bank.faqs} for bank in banks}
        self._versions = {
            bank.tenant: {version_of(live_bundle(store, bank.tenant))} for bank in banks
        }

    def allow(self, tenant: str, version: str) -> None:
        """Another version of the tenant's adapter may go live."""
        self._versions[tenant].add(version)

    def fault(self, question: Question, body: bytes) -> str | None:
        """What is wrong with the answer, without its text; None: nothing."""
        answer = json.loads(body)
        if answer["tenant"] != question.tenant:
            return "names another tenant"
        if answer["adapter"]["version"] not in self._versions[question.tenant]:
            return "comes from another tenant's adapter"
        if len(answer["results"]) != len(question.texts):
            return "has not one result a query"
        faqs = self._faqs[question.tenant]
        for result in answer["results"]:
            if not {ranked["faq_id"] for ranked in result["ranked"]} <= faqs:
                return "holds another tenant's FAQ"
            if result["ranked"][0]["score"] < LEAST_OWN_SCORE:
                return "does not know the page's own question: another adapter embedded it"
        return None


def version_of(bundle_id: str) -> str:
    return bundle_id.split("-")[0]


def noticed(answers: Answers, ours: tuple[Question, bytes], theirs: tuple[Question, bytes]) -> int:
    """How many of four wrong answers the check notices: another tenant's as it is, that under our
    tenant's name and version, and ours with their version, and with a lower score."""
    (question, body), (_, other) = ours, theirs
    mine, strange = json.loads(body), json.loads(other)
    low: Mapping[str, Any] = json.loads(body)
    low["results"][0]["ranked"][0]["score"] -= 0.02
    forged = [
        strange,
        strange | {"tenant": mine["tenant"], "adapter": mine["adapter"]},
        mine | {"adapter": strange["adapter"]},
        low,
    ]
    return sum(answers.fault(question, json.dumps(one).encode()) is not None for one in forged)


def highest_through_another(
    encoder: Encoder, store: Path, banks: Sequence[Bank], adapters: Sequence[BottleneckAdapter]
) -> float:
    """The highest score that a page's own questions reach through another tenant's adapter.

    `adapters` has one a bank, in their order.
    """
    highest = -1.0
    for place, bank in enumerate(banks[:50]):
        vectors = read_bundle(store, bank.tenant, live_bundle(store, bank.tenant)).vectors
        texts = [faq.question for faq in bank.faqs[:8]]
        queries = encoder.embed_texts(texts, adapters[(place + 1) % len(adapters)])
        highest = max(highest, float((queries @ vectors.T).max()))
    return highest
