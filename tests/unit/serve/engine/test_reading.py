"""Every tenant's queries are read as its adapter was trained: its prompt, its length, its head."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adapterdistill.backbone import Encoder, load_encoder
from adapterdistill.errors import EncoderMismatchError
from adapterdistill.serve.engine.engine import Engine, SearchAnswer, SearchItem
from tests.sentence_folders import CASES, save_case
from tests.serving_store import MadeTenant, make_tenant, put_live

LONG = "where is my parcel that I ordered " * 4
READ_AS = {"eight": (8, ""), "sixty": (60, ""), "asked": (60, "query: "), "whole": (256, "ask ")}


def made_for(folder: Path, tenant: str, seed: int) -> tuple[Encoder, MadeTenant]:
    max_tokens, prompt = READ_AS[tenant]
    own = load_encoder(str(folder), dtype="float32", max_tokens=max_tokens, query_prompt=prompt)
    return own, make_tenant(own, tenant, seed=seed)


def served(engine: Engine, tenant: str, text: str) -> list[tuple[str, float]]:
    [answer] = engine.search([SearchItem(tenant, text, top_k=50)])
    assert isinstance(answer, SearchAnswer)
    return [(faq.faq_id, faq.score) for faq in answer.ranked]


def test_tenants_of_other_lengths_and_prompts_share_a_batch(
    tiny_encoder_folder: Path, encoder: Encoder, store: Path
) -> None:
    made = {name: made_for(tiny_encoder_folder, name, n) for n, name in enumerate(READ_AS)}
    for _, tenant in made.values():
        put_live(store, tenant)
    engine = Engine(encoder, store)
    assert not engine.refresh().refused
    outcomes = engine.search([SearchItem(name, LONG, top_k=50) for name in made])
    for outcome, (own, tenant) in zip(outcomes, made.values(), strict=True):
        assert isinstance(outcome, SearchAnswer)
        expected = tenant.expected(own, LONG)
        assert [faq.faq_id for faq in outcome.ranked] == [faq_id for faq_id, _ in expected]
        for faq, (_, score) in zip(outcome.ranked, expected, strict=True):
            assert faq.score == pytest.approx(score, abs=2e-5)
    tokens = [len(own.tokenize([LONG])[0]) for own, _ in made.values()]
    assert tokens[0] == 8 and tokens[1] == tokens[2] == 60 and tokens[3] > 60
    assert engine.num_tokens == sum(tokens)


def test_queries_to_a_manifest_that_records_no_length_are_cut_where_the_server_says(
    tiny_encoder_folder: Path, store: Path
) -> None:
    before = load_encoder(str(tiny_encoder_folder), dtype="float32", max_tokens=128)
    made = make_tenant(before, "acme", seed=1)
    old = made.bundle.manifest.encoder.model_copy(update={"max_tokens": None})
    manifest = made.bundle.manifest.model_copy(update={"encoder": old})
    assert b"max_tokens" not in manifest.canonical_json()
    bundle = replace(made.bundle, manifest=manifest)
    put_live(store, MadeTenant("acme", made.adapter, bundle))
    server = load_encoder(str(tiny_encoder_folder), dtype="float32", max_tokens=128)
    engine = Engine(server, store)
    engine.refresh()
    found, expected = served(engine, "acme", LONG * 2), made.expected(before, LONG * 2)
    assert [score for _, score in found] == pytest.approx([s for _, s in expected], abs=2e-5)


@pytest.mark.parametrize(
    "name",
    ["pooling cls", "pooling max", "cls, dense with tanh", "prompts that mean leaves out"],
)
def test_the_same_weights_with_another_head_are_another_encoder(
    name: str, store: Path, tmp_path: Path
) -> None:
    plain = load_encoder(str(save_case(tmp_path / "a", CASES["family bert"])), dtype="float32")
    other = load_encoder(str(save_case(tmp_path / "b", CASES[name])), dtype="float32")
    assert torch.equal(plain.weights.words, other.weights.words)
    assert plain.ref.weights_sha256 != other.ref.weights_sha256  # registries compare digests
    made = make_tenant(plain, "acme", seed=1)
    put_live(store, made)
    refused = Engine(other, store).refresh().refused
    assert isinstance(refused["acme"], EncoderMismatchError)
    # A hand that copied the digests alone would not help.
    ref = plain.ref.model_copy(update={"weights_sha256": other.ref.weights_sha256})
    assert not ref.same_as(other.ref)
    assert not other.ref.same_as(ref)


def test_an_encoder_with_a_dense_module_is_served(store: Path, tmp_path: Path) -> None:
    folder = save_case(tmp_path, CASES["cls, dense with tanh"])
    encoder = load_encoder(str(folder), dtype="float32")
    assert (encoder.hidden_size, encoder.embedding_size) == (32, 16)
    made = make_tenant(encoder, "acme", seed=1)
    put_live(store, made)
    engine = Engine(encoder, store)
    assert not engine.refresh().refused
    expected = made.expected(encoder, "hi")
    assert served(engine, "acme", "hi") == [
        (faq_id, pytest.approx(score, abs=2e-5)) for faq_id, score in expected
    ]
