"""Answers made wrong on purpose: whether the check of answers notices each of them."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from adapterdistill.backbone import Encoder
from adapterdistill.store.bundle import read_bundle
from adapterdistill.store.release import live_bundle
from adapterdistill.testbed.answers import Alone, Answers, Question, version_of
from adapterdistill.testbed.faq_banks import Bank


def control(
    encoder: Encoder, store: Path, banks: Sequence[Bank], answers: Answers
) -> dict[str, dict[str, Any]]:
    """Count wrong answers that were made and noticed, by kind, with the distance of the nearest.

    The kind "right" is the control's own: right answers, of which none may be noticed.

    Args:
        encoder: in the dtype that is served.
        banks: tenants of one or two versions; wrong answers are made of another tenant's.
    """
    found: dict[str, dict[str, Any]] = {}
    for bank in banks:
        # Another page, as copies of a page have the same FAQs.
        other = next(one for one in banks if one.faqs != bank.faqs)
        for kind, question, version, result in _forged(encoder, store, bank, other, answers):
            kinds = found.setdefault(kind, {"made": 0, "noticed": 0})
            body = _body(bank.tenant, version, result)
            kinds["made"] += 1
            kinds["noticed"] += answers.fault(question, body) is not None
            if kind.startswith("through"):
                alone = answers.versions(bank.tenant)[version]
                distance = alone.distance(question.texts[0], result)
                kinds["nearest"] = round(min(kinds.get("nearest", 2.0), distance), 5)
    return found


def _forged(
    encoder: Encoder, store: Path, bank: Bank, other: Bank, answers: Answers
) -> Iterator[tuple[str, Question, str, dict[str, Any]]]:
    """(kind, question, version that the answer names, its result)"""
    versions, texts = answers.versions(bank.tenant), answers.texts(bank.tenant)
    strange_id = live_bundle(store, other.tenant)
    stranger = Alone(encoder, read_bundle(store, other.tenant, strange_id), texts)
    for version, alone in versions.items():
        for text in texts:
            question = Question(bank.tenant, (text,))
            right = alone.result(text)
            best, *rest = right["ranked"]
            retold = best | {"answer": f"{other.faqs[0].answer} "}
            for kind, named, result in (
                ("right", version, right),
                ("under another tenant's version", version_of(strange_id), right),
                ("another tenant's FAQs", version, stranger.result(text)),
                ("another FAQ's answer", version, right | {"ranked": [retold, *rest]}),
                ("through another tenant's adapter", version, alone.result(text, stranger)),
            ):
                yield kind, question, named, result
            if (abstains := alone.abstains(right["ranked"])) is not None:
                yield "abstention turned", question, version, right | {"abstained": not abstains}
            for second in versions.values():
                if second is not alone:
                    yield "through the other version", question, version, second.result(text)
                    mixed = alone.result(text, second)
                    yield "through the other version's adapter alone", question, version, mixed


def _body(tenant: str, version: str, result: dict[str, Any]) -> bytes:
    answer = {"tenant": tenant, "adapter": {"version": version}, "results": [result]}
    return json.dumps(answer).encode()
