"""Right answers: those of each adapter version alone, known beforehand.

Every text that may be asked is embedded by every version that may answer it, with no other adapter
beside it, in the dtype that is served, and scored by brute force. A page is asked its own questions
and a few of other pages', from which it should abstain.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import unpack_adapter
from adapterdistill.evaluation.scorer import unpack_scorer
from adapterdistill.store.bundle import Bundle, read_bundle
from adapterdistill.store.release import live_bundle
from adapterdistill.testbed.faq_banks import Bank
from adapterdistill.testbed.http_load import post

TOLERANCE = 2e-4
"""Difference allowed between a score and the same version's alone. Rows of mixed batches differ by
4e-7 in bfloat16 (measured), another adapter's by 0.01 and more."""
THRESHOLD = 0.6
"""Threshold of abstention, between the scores of a page's own questions and of others'."""
TOP_K = 5
"""The server's own default: no request asks for another."""
_FOREIGN = 4


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
    """Draw from the pages' own questions."""
    chosen = draw.choices(banks, k=count)
    return [
        Question(bank.tenant, tuple(f.question for f in draw.choices(bank.faqs, k=texts)))
        for bank in chosen
    ]


class Alone:
    """All that one version answers to texts known beforehand."""

    def __init__(self, encoder: Encoder, bundle: Bundle, texts: Sequence[str]) -> None:
        self.queries = encoder.embed_texts(texts, unpack_adapter(bundle.adapter_payload))
        """[texts, hidden]"""
        self._vectors, self._faq_of_vector = bundle.vectors, bundle.faq_of_vector.numpy()
        self._scorer = None if bundle.scorer is None else unpack_scorer(bundle.scorer)
        self._faqs, self._threshold = bundle.faqs, bundle.threshold
        self._scores = self._scored(self.queries, texts)
        self._row = {text: row for row, text in enumerate(texts)}
        self._place = {faq.faq_id: place for place, faq in enumerate(bundle.faqs)}

    def _scored(self, queries: Tensor, texts: Sequence[str]) -> NDArray[np.float32]:
        """The scorer's totals, or else the best cosine over each FAQ's vectors: [texts, FAQs].

        queries: [texts, hidden].
        """
        if self._scorer is not None:
            total: NDArray[np.float32] = self._scorer(queries, texts).total.numpy()
            return total
        best = np.full((len(self._faqs), len(queries)), -np.inf, np.float32)
        np.maximum.at(best, self._faq_of_vector, (queries @ self._vectors.T).numpy().T)
        return best.T

    def result(self, text: str, through: "Alone | None" = None) -> dict[str, Any]:
        """The answer as the server words it; a wrong one, if another embeds the text."""
        own = self._scores[self._row[text]]
        if through is not None:
            (own,) = self._scored(through.queries[through._row[text]][None], [text])
        order = np.argsort(-own, kind="stable")[:TOP_K].tolist()
        ranked = [
            {
                "faq_id": self._faqs[place].faq_id,
                "question": self._faqs[place].question,
                "answer": self._faqs[place].answer,
                "score": float(own[place]),
            }
            for place in order
        ]
        return {"ranked": ranked, "abstained": ranked[0]["score"] < self._threshold}

    def fault(self, text: str, result: Mapping[str, Any]) -> str | None:
        """The fault of a result; None if it is right."""
        own, ranked = self._scores[self._row[text]], result["ranked"]
        for one in ranked:
            place = self._place.get(one["faq_id"])
            if place is None:
                return "holds another tenant's FAQ"
            faq = self._faqs[place]
            if (one["question"], one["answer"]) != (faq.question, faq.answer):
                return "holds another FAQ's text"
        if len(ranked) != min(TOP_K, len(own)):
            return "has another number of FAQs"
        if len({one["faq_id"] for one in ranked}) != len(ranked):
            return "ranks an FAQ twice"
        if self.distance(text, result) > TOLERANCE:
            return "is not what its adapter answers alone"
        abstains = self.abstains(ranked)
        if abstains is not None and result["abstained"] != abstains:
            return "abstains where its adapter alone does not, or the reverse"
        return None

    def abstains(self, ranked: Sequence[Mapping[str, Any]]) -> bool | None:
        """Whether such a ranking is too poor to answer; None if rounding decides that."""
        margin = ranked[0]["score"] - self._threshold
        return None if abs(margin) <= TOLERANCE else bool(margin < 0)

    def distance(self, text: str, result: Mapping[str, Any]) -> float:
        """The largest difference of a score from that of the same FAQ, and from that of the same
        rank, alone: with none, the ranking is the same but for ties."""
        own = self._scores[self._row[text]]
        given = np.array([one["score"] for one in result["ranked"]])
        places = [self._place[one["faq_id"]] for one in result["ranked"]]
        best = np.sort(own)[::-1][: len(places)]
        return float(max(np.abs(own[places] - given).max(), np.abs(best - given).max()))


class Answers:
    """The right answers of each tenant's versions; more versions may be added."""

    def __init__(self, banks: Sequence[Bank], store: Path, encoder: Encoder) -> None:
        """`encoder` in the dtype that is served."""
        self._store, self._encoder = store, encoder
        self._versions: dict[str, dict[str, Alone]] = {}
        self._texts: dict[str, list[str]] = {}
        draw = random.Random(5)
        for bank in banks:
            own = [faq.question for faq in bank.faqs]
            foreign = [draw.choice(draw.choice(banks).faqs).question for _ in range(_FOREIGN)]
            self._texts[bank.tenant] = list(dict.fromkeys([*own, *foreign]))
            self._versions[bank.tenant] = {}
            self.add(bank.tenant, live_bundle(store, bank.tenant))
        self.farthest = 0.0
        """The largest difference of a right answer's score so far."""

    def add(self, tenant: str, bundle_id: str) -> None:
        """Another bundle of the tenant's may answer."""
        bundle = read_bundle(self._store, tenant, bundle_id)
        alone = Alone(self._encoder, bundle, self._texts[tenant])
        self._versions[tenant][version_of(bundle_id)] = alone

    def versions(self, tenant: str) -> Mapping[str, Alone]:
        return self._versions[tenant]

    def texts(self, tenant: str) -> list[str]:
        """Texts on which the answers of the tenant's versions differ: an answer under another
        version's name is noticed."""
        versions = list(self._versions[tenant].values())
        return [
            text
            for text in self._texts[tenant]
            if all(
                one.distance(text, other.result(text)) > 2 * TOLERANCE
                for one in versions
                for other in versions
                if one is not other
            )
        ]

    def fault(self, question: Question, body: bytes) -> str | None:
        """The fault of the answer, without its text; None if it is right."""
        answer = json.loads(body)
        if answer["tenant"] != question.tenant:
            return "names another tenant"
        alone = self._versions[question.tenant].get(answer["adapter"]["version"])
        if alone is None:
            return "comes from another tenant's adapter"
        if len(answer["results"]) != len(question.texts):
            return "has not one result a query"
        for text, result in zip(question.texts, answer["results"], strict=True):
            if fault := alone.fault(text, result):
                return fault
            self.farthest = max(self.farthest, alone.distance(text, result))
        return None


def version_of(bundle_id: str) -> str:
    return bundle_id.split("-")[0]
