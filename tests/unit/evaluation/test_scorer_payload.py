"""Scorers as bytes: they come back whole, and hostile ones are refused."""

import json
from collections.abc import Callable

import pytest
import safetensors.torch
import torch
from torch import Tensor

from adapterdistill.errors import ServingError
from adapterdistill.evaluation.scorer import pack_scorer, unpack_scorer
from tests.random_scorers import random_scorer, random_texts

SCORER = random_scorer(5, 16, seed=2)


@pytest.mark.parametrize(("queries", "sentences"), [(0, 0), (0, 2), (3, 0), (3, 2)])
def test_a_scorer_comes_back_as_it_was_packed(queries: int, sentences: int) -> None:
    scorer = random_scorer(5, 16, seed=1, queries=queries, sentences=sentences)
    payload = pack_scorer(scorer)
    found = unpack_scorer(payload)
    assert pack_scorer(found) == payload
    vectors, texts = SCORER.prototypes, random_texts(5, seed=8)
    assert torch.equal(found(vectors, texts).total, scorer(vectors, texts).total)


def first_is(value: float) -> Callable[[Tensor], Tensor]:
    def changed(tensor: Tensor) -> Tensor:
        copy = tensor.clone()
        copy.view(-1)[0] = value
        return copy

    return changed


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("prototypes", first_is(float("nan")), "prototypes holds a number that is not finite"),
        ("prototypes", first_is(float("inf")), "not finite or too large"),
        ("prototypes", first_is(2.0), "not finite or too large"),
        ("prototypes", lambda t: t[:, :8], "head is"),
        ("prototypes", lambda t: t[:4], "head is"),
        ("prototypes", lambda t: t[0], "expected 2 dimensions"),
        ("prototypes", lambda t: t.half(), "expected 2 dimensions of torch.float32"),
        ("head.weight", first_is(1e30), "head.weight holds a number"),
        ("head.bias", first_is(float("-inf")), "head.bias holds a number"),
        ("head.bias", lambda t: t[:2], "head is"),
        ("characters.idf", first_is(float("nan")), "characters.idf holds a number"),
        ("characters.idf", lambda t: t[1:], "table of letters"),
        ("characters.starts", lambda t: t.flip(0), "starts that do not fit"),
        ("characters.starts", lambda t: t.float(), "expected 1 dimensions of torch.int64"),
        ("characters.faqs", first_is(5), "beyond its 5"),
        ("characters.faqs", first_is(-1), "beyond its 5"),
        ("characters.weights", lambda t: t[1:], "one weight for each entry"),
        ("characters.weights", first_is(1e9), "characters.weights holds a number"),
        ("answers.vectors", first_is(float("nan")), "answers.vectors holds a number"),
        ("answers.faqs", first_is(-1), "beyond its 5"),
        ("answers.faqs", lambda t: t[1:], "answer sentences are"),
    ],
)
def test_a_hostile_tensor_is_refused(
    name: str, change: Callable[[Tensor], Tensor], words: str
) -> None:
    tensors = SCORER.tensors()
    tensors[name] = change(tensors[name]).contiguous()
    with pytest.raises(ServingError, match=words):
        unpack_scorer(packed(tensors, list(SCORER.characters.grams)))


@pytest.mark.parametrize("name", ["prototypes", "characters.idf", "head.bias", "answers.faqs"])
def test_a_missing_tensor_is_named(name: str) -> None:
    tensors = SCORER.tensors()
    del tensors[name]
    with pytest.raises(ServingError, match=f"lacks the tensor {name}"):
        unpack_scorer(packed(tensors, list(SCORER.characters.grams)))


def test_other_content_is_refused() -> None:
    tensors, grams = SCORER.tensors(), list(SCORER.characters.grams)
    for wrong, words in (
        (grams[1:], "not of its"),
        ([*grams[1:], grams[1]], "holds an n-gram twice"),
        ([*grams[1:], 7], "not a list of texts"),
        ({}, "not a list of texts"),
        (None, "not a list of texts"),
    ):
        with pytest.raises(ServingError, match=words):
            unpack_scorer(packed(tensors, wrong))
    with pytest.raises(ServingError, match="unknown name"):
        unpack_scorer(packed(tensors | {"more": torch.zeros(1)}, grams))
    whole = pack_scorer(SCORER)
    for payload in (b"", whole[:100], whole[:-1], b"\xff" * 64):
        with pytest.raises(ServingError, match="not valid safetensors"):
            unpack_scorer(payload)
    with pytest.raises(ServingError, match="not valid safetensors"):
        unpack_scorer(safetensors.torch.save(tensors, {"grams": "[" * 100_000}))


def packed(tensors: dict[str, Tensor], grams: object) -> bytes:
    return safetensors.torch.save(tensors, {"grams": json.dumps(grams)})
