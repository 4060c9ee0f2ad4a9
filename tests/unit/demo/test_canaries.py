"""Canaries are in every private text, and are found in whatever form they come out."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from adapterdistill.backbone import Encoder
from adapterdistill.data import TenantDataset
from adapterdistill.data.importing import import_samples
from adapterdistill.demo.canaries import KINDS, Canaries, Needles, new_canary, plant
from adapterdistill.demo.parties import Owner


def test_a_word_is_found_in_every_form_wherever_it_begins(tiny_encoder: Encoder) -> None:
    word = new_canary()
    needles = Needles.of(word, tiny_encoder)
    for before in range(6):
        text = f"{'x' * before}{word} and more"
        for content in (
            text.encode(),
            text.upper().encode(),
            text.encode("utf-16"),
            text[::-1].encode(),
            text.encode().hex().encode(),
            base64.b64encode(text.encode()),
        ):
            assert needles.found_in({"place": content}), (before, content)
    ids = tiny_encoder.tokenize([word])[0]
    for dtype in ("<i4", "<i8", "<f4"):
        assert needles.found_in({"place": np.array([7, *ids, 7], dtype).tobytes()})
    for separators in ((",", ":"), (", ", ": ")):
        assert needles.found_in({"place": json.dumps([*ids], separators=separators).encode()})


def test_another_word_is_found_in_none(tiny_encoder: Encoder) -> None:
    needles = Needles.of(new_canary(), tiny_encoder)
    text = new_canary()
    ids = np.array(tiny_encoder.tokenize([text])[0])
    places = {"text": text.encode(), "base64": base64.b64encode(text.encode())}
    places |= {kind: ids.astype(kind).tobytes() for kind in ("<i4", "<i8", "<f4")}
    assert needles.found_in(places) == set()


def test_a_word_of_few_tokens_is_refused(tiny_encoder: Encoder) -> None:
    with pytest.raises(AssertionError, match="too few tokens"):
        Needles.of("abc", tiny_encoder)


def test_every_private_text_gets_the_canary_of_its_kind_and_labels_stay(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    import_samples("larkhill-vets", folder)
    before = TenantDataset.open(folder)
    faqs, queries = before.faqs(), list(before.queries())
    words = {kind: new_canary() for kind in KINDS}
    plant(folder, words)
    after = TenantDataset.open(folder)
    for old, new in zip(faqs, after.faqs(), strict=True):
        assert new.question == f"{old.question} {words['question']}"
        assert new.answer is not None and new.answer.endswith(words["answer"])
    for asked, planted in zip(queries, after.queries(), strict=True):
        assert planted.text == f"{asked.text} {words['query']}"
        assert (planted.faq_id, planted.split) == (asked.faq_id, asked.split)


def test_a_search_tells_whose_texts_of_which_kind_are_where(
    tmp_path: Path, tiny_encoder: Encoder
) -> None:
    owners = [Owner(tenant, tmp_path / tenant) for tenant in ("larkhill-vets", "valtara-rail")]
    canaries = Canaries(owners, tiny_encoder)
    for owner in owners:
        import_samples(owner.tenant, owner.data)
        canaries.plant(owner)
    nothing, told = tmp_path / "nothing", tmp_path / "told"
    nothing.mkdir()
    told.mkdir()
    assert canaries.found_in(nothing).told == "none"
    (told / "names").write_text(canaries.control)
    assert canaries.found_in(told).told == canaries.expected_in() == "the public one"
    (told / "leak").mkdir()
    question = TenantDataset.open(owners[1].data).faqs()[0].question
    (told / "leak" / "blob").write_bytes(b"\x00" + question.encode() + b"\xff")
    found = canaries.found_in(told)
    assert found.told == "valtara-rail's question; the public one"
    assert found.files == 2
    assert found.content_bytes == len(canaries.control) + len(question) + 2
    assert canaries.found_in(told / "names").told == "the public one"
    expected = "larkhill-vets's answer, query, question; the public one"
    assert canaries.expected_in(owners[0]) == expected
