"""Encoders' folders against sentence-transformers' own vectors, and what is refused by name."""

import json
from pathlib import Path

import pytest
import torch

from adapterdistill.backbone import load_encoder
from tests.sentence_folders import CASES, PASSAGES, QUERIES, save_case
from tests.unit.backbone.record_sentence_transformers import RECORDED

VECTORS = json.loads(RECORDED.read_text())


def largest_difference(folder: Path, recorded: dict[str, list[list[float]]]) -> float:
    encoder = load_encoder(str(folder), dtype="float32")
    found = {
        "query": encoder.embed_texts(QUERIES),
        "passage": encoder.embed_texts(PASSAGES, kind="passage"),
    }
    return max(
        float((vectors - torch.tensor(recorded[kind])).abs().max())
        for kind, vectors in found.items()
    )


def test_every_case_is_recorded() -> None:
    assert set(VECTORS) == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_vectors_equal_those_of_sentence_transformers(name: str, tmp_path: Path) -> None:
    assert largest_difference(save_case(tmp_path, CASES[name]), VECTORS[name]) < 1e-4
